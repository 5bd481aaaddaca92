"""The schema's history, for Alembic. Run it with `paasoo-dlr migrate`."""
