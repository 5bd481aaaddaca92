"""The schema is what the migrations make, on both databases, and nothing else."""

from alembic import command
from sqlalchemy import URL, inspect

from app.store import schema
from app.store.engine import open_database
from app.store.tables import metadata


def test_migrations_make_exactly_the_tables_that_the_code_has(database_url: URL) -> None:
    database = open_database(database_url)
    config = schema.alembic_config()
    with database.write.connect() as connection:
        config.attributes["connection"] = connection
        command.check(config)  # raises where autogenerate would still write something
        assert {*inspect(connection).get_table_names()} == {*metadata.tables, "alembic_version"}
    database.close()


def test_down_and_up_again_is_the_same_schema(database_url: URL) -> None:
    database = open_database(database_url)
    config = schema.alembic_config()
    with database.write.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
    schema.upgrade(database.write)
    with database.write.connect() as connection:
        assert schema.is_current(connection)
        config.attributes["connection"] = connection
        command.check(config)
    database.close()
