"""The schema is what the migrations make, on both databases, and nothing else."""

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import URL, delete, insert, inspect, select, update

from app.callback.parse import parse
from app.store import schema, stats, write
from app.store.engine import open_database
from app.store.history import reports_of
from app.store.tables import deliveries, metadata, reports
from tests.databases import alembic_on
from tests.recount import KEYS, counted, recount
from tests.store.test_stats import HOUR, registered, take


def test_migrations_make_exactly_the_tables_that_the_code_has(database_url: URL) -> None:
    database = open_database(database_url)
    with database.write.connect() as connection:
        command.check(alembic_on(connection))  # raises if autogenerate would still write something
        assert {*inspect(connection).get_table_names()} == {*metadata.tables, "alembic_version"}
    database.close()


def test_each_migration_is_named_by_its_revision() -> None:
    scripts = ScriptDirectory.from_config(schema.alembic_config())

    assert schema.known_revisions() == {script.revision for script in scripts.walk_revisions()}
    assert schema.newest_revision() == scripts.get_current_head()


def test_down_and_up_again_is_the_same_schema(database_url: URL) -> None:
    database = open_database(database_url)
    with database.write.connect() as connection:
        command.downgrade(alembic_on(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
    schema.upgrade(database.write)
    with database.write.connect() as connection:
        assert schema.mismatch(connection) is None
        command.check(alembic_on(connection))
    database.close()


def test_statistics_stay_exact_through_a_migration_of_their_tables(database_url: URL) -> None:
    database = open_database(database_url, hurried=False)

    def record(message_id: str, network: str, hour: int) -> None:
        with database.transaction() as connection:
            take(connection, ("record", [(message_id, {"status": 0}, network, hour * HOUR)]))

    for is_compacted in (True, False):
        record(f"m-{is_compacted}", "52099", 1)
        if is_compacted:
            with database.transaction() as connection:
                assert stats.compact(connection) == 1
    with database.write.connect() as connection:
        command.downgrade(alembic_on(connection), "0003")
    with database.transaction() as connection:  # as a replica of that time
        new = registered("m-meanwhile", 2 * HOUR) | {"mcc_mnc": "52001"}
        connection.execute(insert(deliveries).values(new))
        moved = update(deliveries).where(deliveries.c.message_id == "m-True")
        connection.execute(moved.values(mcc_mnc="52001", last_received_at=3 * HOUR))
    schema.upgrade(database.write)
    record("m-after", "52001", 2)

    for _ in range(2):
        with database.transaction() as connection:
            for keys in (KEYS, ["hour"]):
                assert counted(connection, keys) == recount(connection, keys)
            stats.compact(connection)
    database.close()


def test_what_a_delivery_holds_joins_the_others_on_the_way_back(database_url: URL) -> None:
    database = open_database(database_url, hurried=False)
    only, *others = (
        parse(f"type=dlr&messageid={message_id}&to=6588888888&status={status}".encode(), at)
        for message_id, status, at in (("only", 0, 5), ("two", 404, 1), ("two", 0, 2))
    )
    with database.transaction() as connection:
        write.record(connection, [only, *others])
        connection.execute(delete(deliveries).where(deliveries.c.message_id == "two"))
        write.record(connection, [others[1]._replace(received_at=7)])
    with database.write.connect() as connection:
        command.downgrade(alembic_on(connection), "0011")
        times = reports.c["message_id", "status", "received_at", "last_received_at"]
        kept = connection.execute(
            select(*times, reports.c.times_received).order_by(*reports.primary_key)
        ).all()
    schema.upgrade(database.write)
    database.close()

    assert sorted(map(tuple, kept)) == [
        ("only", 0, 5, 5, 1),
        ("two", 0, 2, 7, 2),
        ("two", 404, 1, 1, 1),
    ]


def test_reports_are_whole_again_on_the_way_back(database_url: URL) -> None:
    raw_queries = {
        "type=dlr&messageid=m-1&to=6588888888&status=0&statuscode=delivered&errcode=1",
        "type=dlr&messageid=m-2&to=6588888888&status=404&statuscode=Absent%20Subscriber",
        "type=dlr&messageid=m-3&to=6588888888&status=777",
    }
    database = open_database(database_url, hurried=False)
    with database.transaction() as connection:
        write.record(connection, [parse(it.encode(), 1) for it in raw_queries])
    with database.write.connect() as connection:
        command.downgrade(alembic_on(connection), "0009")
        before = set(connection.execute(select(reports.c.query)).scalars())
        sources = set(connection.execute(select(reports.c.source)).scalars())
    schema.upgrade(database.write)
    with database.read.connect() as connection:
        after = {reports_of(connection, f"m-{it}")[0].query for it in (1, 2, 3)}
    database.close()

    assert before == after == raw_queries
    assert sources == {"callback"}
