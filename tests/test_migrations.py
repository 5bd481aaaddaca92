"""The schema is what the migrations make, on both databases, and nothing else."""

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import URL, inspect

from app.store import schema, stats
from app.store.engine import open_database
from app.store.tables import metadata
from tests.recount import KEYS, counted, recount
from tests.store.test_stats import HOUR, take


def test_migrations_make_exactly_the_tables_that_the_code_has(database_url: URL) -> None:
    database = open_database(database_url)
    config = schema.alembic_config()
    with database.write.connect() as connection:
        config.attributes["connection"] = connection
        command.check(config)  # raises if autogenerate would still write something
        assert {*inspect(connection).get_table_names()} == {*metadata.tables, "alembic_version"}
    database.close()


def test_each_migration_is_named_by_its_revision() -> None:
    scripts = ScriptDirectory.from_config(schema.alembic_config())

    assert schema.known_revisions() == {script.revision for script in scripts.walk_revisions()}
    assert schema.newest_revision() == scripts.get_current_head()


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


def test_statistics_stay_exact_through_a_migration_of_their_tables(database_url: URL) -> None:
    database = open_database(database_url, hurried=False)
    config = schema.alembic_config()

    def record(message_id: str, network: str, hour: int) -> None:
        with database.transaction() as connection:
            take(connection, ("record", [(message_id, {"status": 0}, network, hour * HOUR)]))

    for is_compacted in (True, False):
        record(f"m-{is_compacted}", "52099", 1)
        if is_compacted:
            with database.transaction() as connection:
                assert stats.compact(connection) == 1
    with database.write.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
    record("m-meanwhile", "52001", 2)
    record("m-True", "52001", 3)  # moves from its hour to another
    schema.upgrade(database.write)
    record("m-after", "52001", 2)

    for _ in range(2):
        with database.transaction() as connection:
            for keys in (KEYS, ["hour"]):
                assert counted(connection, keys) == recount(connection, keys)
            stats.compact(connection)
    database.close()
