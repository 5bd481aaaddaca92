"""A migration beside writers, and one that is killed: it holds nobody up, and goes on later."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import LiteralString

import psycopg
import pytest
from alembic import command
from sqlalchemy import URL, Connection, Engine, create_engine, text

from app.callback.parse import parse
from app.reports import DeliveryReport
from app.store import schema, stats, submissions, write
from app.store.engine import Database, open_database
from app.store.history import reports_of
from tests import older
from tests.databases import alembic_on
from tests.process import PROGRAM, run, until
from tests.recount import KEYS, counted, recount

BUILDING = """
SELECT pid FROM pg_stat_activity
    WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event = 'virtualxid'
"""
ASKING = """
SELECT query_start, backend_xmin FROM pg_stat_activity
    WHERE query LIKE 'SELECT pg_try_advisory_xact_lock%' AND state = 'idle in transaction'
"""
WAITING = """
SELECT pid FROM pg_stat_activity WHERE query LIKE 'LOCK TABLE%' AND wait_event_type = 'Lock'
"""
THROTTLED = """
ALTER TABLE deliveries SET (autovacuum_vacuum_threshold = 0,
    autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)
"""
AS_BEFORE = """
ALTER TABLE deliveries RESET (autovacuum_vacuum_threshold,
    autovacuum_vacuum_cost_delay, autovacuum_vacuum_cost_limit)
"""
Recorder = Callable[[Connection, Sequence[DeliveryReport]], object]
VACUUMING = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'autovacuum: %public.deliveries%'"
UNFINISHED = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


@contextmanager
def configured(admin: psycopg.Connection, *settings: LiteralString) -> Iterator[None]:
    """Settings of the server, until the block ends."""
    try:
        for setting in settings:
            admin.execute(f"ALTER SYSTEM SET {setting}")
        admin.execute("SELECT pg_reload_conf()")
        yield
    finally:
        admin.execute("ALTER SYSTEM RESET ALL")
        admin.execute("SELECT pg_reload_conf()")


CONSTRAINT = "ck_deliveries_only_report"


def address_of(url: URL) -> str:
    """For psycopg."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def downgrade(engine: Engine, revision: str) -> None:
    with engine.connect() as connection:
        command.downgrade(alembic_on(connection), revision)


def migrating(url: str, data: Path) -> subprocess.Popen[bytes]:
    """The command, under way."""
    environment = {"PATH": "/usr/bin:/bin", "DLR_DATABASE_URL": url, "DLR_DATA_DIR": str(data)}
    pipe = subprocess.PIPE
    return subprocess.Popen([PROGRAM, "migrate"], env=environment, stdout=pipe, stderr=pipe)


def record(
    database: Database, *message_ids: str, by: Recorder = older.record, status: int = 0
) -> None:
    with database.batch() as connection:
        queries = (f"type=dlr&messageid={it}&to=6588888888&status={status}" for it in message_ids)
        by(connection, [parse(it.encode(), 1) for it in queries])


def test_a_migration_holds_up_no_writer_and_goes_on_after_a_kill(
    server_database: URL, tmp_path: Path
) -> None:
    url = server_database.render_as_string(hide_password=False)
    address = address_of(server_database)
    database = open_database(server_database)  # hurried: a writer that waits fails
    record(database, "before")
    downgrade(database.write, "0009")

    with (
        psycopg.connect(address) as reader,
        psycopg.connect(address, autocommit=True) as admin,
        ExitStack() as opened,
    ):
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")  # an export's snapshot: the index must wait for it
        killed = opened.enter_context(migrating(url, tmp_path))
        opened.callback(killed.kill)
        until(lambda: bool(admin.execute(BUILDING).fetchall()), 30)
        record(database, "beside")
        killed.kill()
        _, told = killed.communicate()
        for (pid,) in admin.execute(BUILDING).fetchall():
            admin.execute("SELECT pg_terminate_backend(%s)", [pid])
        until(lambda: not admin.execute(BUILDING).fetchall())
        unfinished = admin.execute(UNFINISHED).fetchone()
        reader.rollback()
        again = run("migrate", DLR_DATABASE_URL=url)
        left = admin.execute(UNFINISHED).fetchone()

    assert b"migration 0010: index 1 of 10\n" in told
    assert unfinished == (1,)
    assert again.stdout == f"schema: 0009 -> {schema.newest_revision()}\n", again.stderr
    assert left == (0,)
    with database.write.connect() as connection:
        command.check(alembic_on(connection))
    record(database, "after", by=write.record)
    database.close()


def test_whoever_waits_for_its_turn_holds_up_no_index(server_database: URL, tmp_path: Path) -> None:
    url = server_database.render_as_string(hide_password=False)
    address = address_of(server_database)
    database = open_database(server_database, hurried=False)
    downgrade(database.write, "0009")
    database.close()
    asks, snapshots = set(), set()

    with psycopg.connect(address) as holder, ExitStack() as opened:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", [schema.MIGRATION_LOCK])
        waiting = opened.enter_context(migrating(url, tmp_path))
        opened.callback(holder.rollback)  # or the other would wait for ever
        admin = opened.enter_context(psycopg.connect(address, autocommit=True))

        def has_asked_often() -> bool:
            for asked_at, snapshot in admin.execute(ASKING).fetchall():
                asks.add(asked_at)
                snapshots.add(snapshot)
            return len(asks) > 10  # the driver prepares what is executed more than five times

        until(has_asked_often, 30)
        holder.rollback()
        told, _ = waiting.communicate()

    assert snapshots == {None}
    assert told == f"schema: 0009 -> {schema.newest_revision()}\n".encode()


WRITES: LiteralString = "UPDATE deliveries SET mcc_mnc = '52001'"
READS: LiteralString = "SELECT count(*) FROM deliveries"
# The revision that is migrated from, the statement of an open transaction, and the migration that
# it holds up.
IN_THE_WAY = [
    ("0010", WRITES, "0011"),
    ("0010", READS, "0012"),
    ("0011", READS, "0012"),
    ("0012", READS, "0013"),
]


@pytest.mark.parametrize(("before", "statement", "migration"), IN_THE_WAY)
def test_a_migration_that_waits_for_others_lets_reports_through(
    server_database: URL, tmp_path: Path, before: str, statement: LiteralString, migration: str
) -> None:
    url = server_database.render_as_string(hide_password=False)
    address = address_of(server_database)
    database = open_database(server_database)  # hurried: a writer that waits fails
    downgrade(database.write, before)
    record(database, "before")

    with (
        psycopg.connect(address) as other,
        psycopg.connect(address, autocommit=True) as admin,
        ExitStack() as opened,
    ):
        other.execute(statement)
        waiting = opened.enter_context(migrating(url, tmp_path))
        opened.callback(waiting.kill)
        until(lambda: bool(admin.execute(WAITING).fetchall()), 30)
        record(database, "beside")
        other.commit()
        told, _ = waiting.communicate()

    record(database, "after", by=write.record)
    assert told == f"schema: {before} -> {schema.newest_revision()}\n".encode()
    with database.transaction() as connection:
        assert counted(connection, KEYS) == recount(connection, KEYS)
        stats.compact(connection)
        assert counted(connection, ["state"]) == recount(connection, ["state"])
    database.close()


def test_a_migration_ends_an_autovacuum(server_database: URL) -> None:
    url = server_database.render_as_string(hide_password=False)
    address = address_of(server_database)
    database = open_database(server_database, hurried=False)
    downgrade(database.write, "0010")
    for _ in range(2):  # the second time it leaves a dead row for each
        record(database, *(f"m-{number}" for number in range(2000)))
    database.close()

    with psycopg.connect(address, autocommit=True) as admin:
        admin.execute(THROTTLED)
        with configured(admin, "autovacuum_naptime = 1", "autovacuum = on"):
            until(lambda: bool(admin.execute(VACUUMING).fetchall()), 30)
            ended = run("migrate", DLR_DATABASE_URL=url)
        admin.execute(AS_BEFORE)

    assert ended.stdout == f"schema: 0010 -> {schema.newest_revision()}\n", ended.stderr


@pytest.mark.parametrize(("before", "statement", "migration"), IN_THE_WAY)
def test_a_migration_that_gives_up_says_who_is_in_the_way(
    server_database: URL, before: str, statement: LiteralString, migration: str
) -> None:
    address = address_of(server_database)
    database = open_database(server_database, hurried=False)
    downgrade(database.write, before)
    record(database, "before")
    told: list[str] = []

    with (
        psycopg.connect(address) as other,
        psycopg.connect(address, autocommit=True) as admin,
        configured(admin, "deadlock_timeout = '1ms'"),  # gives up sooner
    ):
        other.execute(statement)
        holder = f"client backend {other.info.backend_pid}, in a transaction since "
        with pytest.raises(schema.SchemaError) as gave_up:
            schema.upgrade(database.write, told.append)
        other.rollback()
        again = schema.upgrade(database.write)
        database.close()

    assert again == (f"{int(migration) - 1:04}", schema.newest_revision())
    assert holder in str(gave_up.value)
    assert [line.partition(holder)[0] for line in told] == [f"migration {migration}: waits for "]


def test_rows_that_a_missing_trigger_left_stop_nothing(server_database: URL) -> None:
    """From before the constraint: one that another report overwrote, and one that expired."""
    database = open_database(server_database, hurried=False)
    downgrade(database.write, "0012")
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE deliveries DISABLE TRIGGER USER"))
    record(database, "overwritten", "expired", by=write.record, status=777)
    record(database, "overwritten", by=write.record, status=404)
    expire(database)
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE deliveries ENABLE TRIGGER USER"))

    schema.upgrade(database.write)

    with database.transaction() as connection:
        connection.execute(text(f"ALTER TABLE deliveries VALIDATE CONSTRAINT {CONSTRAINT}"))
    record(database, "overwritten", "expired", "whole", by=write.record, status=777)
    expire(database)
    record(database, "whole", by=write.record)
    with database.read.connect() as connection:
        assert {it.status for it in reports_of(connection, "whole")} == {777, 0}
    database.close()


def expire(database: Database) -> None:
    with database.transaction() as connection:
        submissions.expire(connection, cutoff=100, now=100, limit=100)


def test_a_role_that_owns_no_table_goes_on_after_a_migration(server_database: URL) -> None:
    role = f"service_{token_hex(4)}"
    engine = create_engine(server_database, isolation_level="AUTOCOMMIT")
    with engine.connect() as admin:
        admin.execute(text(f"CREATE ROLE {role} LOGIN"))
        granted = "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public"
        try:
            downgrade(engine, "0010")
            admin.execute(text(f"GRANT {granted} TO {role}"))
            schema.upgrade(engine)
            database = open_database(server_database.set(username=role))
            for status in (404, 0):  # the second one moves the first
                record(database, "after", by=write.record, status=status)
            with database.transaction() as connection:
                assert stats.compact(connection)
            database.close()
        finally:
            admin.execute(text(f"DROP OWNED BY {role}"))
            admin.execute(text(f"DROP ROLE {role}"))
    engine.dispose()
