"""Runs the migrations on the connection that `app.store.schema` hands over."""

from alembic import context
from sqlalchemy import Connection, text

from app.store.tables import metadata


def migrate(connection: Connection) -> None:
    is_postgresql = connection.dialect.name == "postgresql"
    context.configure(
        connection=connection,
        target_metadata=metadata,
        # SQLite can't alter a column in place; batch mode copies the table.
        render_as_batch=True,
        transactional_ddl=True,
        compare_type=True,
    )
    with context.begin_transaction():
        if is_postgresql:
            # Rather fail than queue behind a long query, with every writer queueing behind us.
            connection.execute(text("SET LOCAL lock_timeout = '10s'"))
        context.run_migrations()


migrate(context.config.attributes["connection"])
