"""The promises hold through a pooler in session and in transaction mode.

It is set up as `deploy/pgbouncer.ini` says, and once with PgBouncer's own defaults.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Connection
from sqlalchemy.exc import OperationalError

from app.store import changes, postgresql
from app.store.engine import open_database
from tests.databases import migrate
from tests.faults.ledger import Ledger
from tests.faults.programs import (
    AUTHORIZED,
    call_back,
    is_found,
    is_ready,
    log_has,
    settings_for,
    spool_is_empty,
    under_load,
)
from tests.pgbouncer import pooled
from tests.postgres import StoppableServer, new_database
from tests.process import Serving, run, serving, until
from tests.replication import Node, replicated

# Reports a second: PgBouncer looks for a server that was away only every 15 s.
RARELY = 200
# `server_lifetime`, the interval of our looks, and the time of a step.
FOLLOWED_WITHIN_S = 20


@pytest.fixture(params=["session", "transaction", "defaults"])
def pooled_database(
    request: pytest.FixtureRequest, server: StoppableServer, server_database: URL
) -> Iterator[URL]:
    assert server_database.database
    with_defaults = request.param == "defaults"
    mode = "transaction" if with_defaults else request.param
    node, name = Node.of(server), server_database.database
    with pooled(node, name, mode, with_defaults=with_defaults) as url:
        yield url


def setting(connection: Connection, name: str) -> Any:
    return connection.exec_driver_sql(f"SHOW {name}").scalar()


def test_the_schema_is_made_through_a_pooler(server: StoppableServer) -> None:
    with new_database(server.url) as empty:
        assert empty.database
        with pooled(Node.of(server), empty.database, "transaction") as url:
            done = run("migrate", DLR_DATABASE_URL=url.render_as_string(hide_password=False))

    assert done.code == 0, done.stderr


def test_limits_and_durability_are_in_force_and_reach_no_other_client(
    server: StoppableServer, pooled_database: URL
) -> None:
    node = Node.of(server)
    database = open_database(pooled_database)
    try:
        node.configure(synchronous_commit="off")
        for _ in range(10):  # more than it takes until a driver prepares a statement
            with database.batch() as connection:
                assert postgresql.is_pooled(connection)
                assert setting(connection, "synchronous_commit") == "on"
                assert setting(connection, "statement_timeout") == "1500ms"
            with database.transaction() as connection:
                assert setting(connection, "synchronous_commit") == "on"
            with database.read.connect() as connection:
                assert setting(connection, "statement_timeout") == "3s"
            with database.snapshot() as connection:
                assert setting(connection, "statement_timeout") == "3s"
                assert setting(connection, "transaction_isolation") == "repeatable read"
        address = pooled_database.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(address, autocommit=True) as other:
            assert other.execute("SHOW statement_timeout").fetchone() == ("0",)
            assert other.execute("SHOW synchronous_commit").fetchone() == ("off",)
    finally:
        node.execute("ALTER SYSTEM RESET synchronous_commit")
        node.execute("SELECT pg_reload_conf()")
        database.close()


def test_doctor_sees_a_pooler_and_what_is_in_force_behind_it(
    server: StoppableServer, pooled_database: URL
) -> None:
    node = Node.of(server)
    try:
        node.configure(synchronous_commit="off")
        ended = run("doctor", **settings_for(pooled_database))
    finally:
        node.execute("ALTER SYSTEM RESET synchronous_commit")
        node.execute("SELECT pg_reload_conf()")

    lines = {
        line[9:27].strip(): line[:7].strip() + " " + line[29:] for line in ended.stdout.splitlines()
    }
    assert lines["pooler"].startswith("ok one is between")
    assert lines["statement_timeout"] == "ok 1500 ms to write, 3000 ms to read"
    assert lines["synchronous_commit"] == "ok on"
    assert lines["standbys"] == "ok none follows this server"


def test_a_stronger_durability_is_left_alone(server: StoppableServer, server_database: URL) -> None:
    node = Node.of(server)
    database = open_database(server_database)
    try:
        node.configure(synchronous_commit="remote_apply")
        with database.batch() as connection:
            assert setting(connection, "synchronous_commit") == "remote_apply"
    finally:
        node.execute("ALTER SYSTEM RESET synchronous_commit")
        node.execute("SELECT pg_reload_conf()")
        database.close()


def test_the_service_works_through_a_pooler_and_over_an_outage(
    seed: int, server: StoppableServer, server_database: URL, pooled_database: URL
) -> None:
    ledger = Ledger(seed)
    with serving(**settings_for(pooled_database)) as program:
        with under_load(ledger, program, RARELY), ThreadPoolExecutor(4) as readers:
            until(ledger.has_answers(500))
            paths = ["/v1/deliveries", "/v1/changes", "/v1/stats?group_by=state"] * 20
            found = [readers.submit(program.http.get, path, headers=AUTHORIZED) for path in paths]
            assert {answer.result().status_code for answer in found} == {200}
            server.stop("immediate")
            until(lambda: not spool_is_empty(program))
            server.start()
            until(lambda: is_ready(program), 20)
        until(lambda: spool_is_empty(program), 20)
        assert call_back(program, "after") == 200
        assert is_found(program, "after")

    assert ledger.answers.keys() == {200}, f"seed {seed}: {ledger.answers}"
    ledger.check(server_database)


def test_no_other_server_is_read_through_a_pooler() -> None:
    with replicated() as pair:
        pair.primary.execute("CREATE DATABASE dlr")
        migrate(pair.url("dlr"))
        address = Node(pair.address, pair.primary.tools)
        with pooled(address, "dlr", "transaction") as url:
            database = open_database(url)
            changes.settle(database)

            def problem() -> object:
                try:
                    with database.read.connect() as connection:
                        connection.exec_driver_sql("SELECT 1")
                except OperationalError as error:
                    return type(error.orig)
                return None

            assert problem() is None
            pair.standby.promote()
            pair.move_to(pair.standby)
            pair.primary.crash()
            until(lambda: problem() in {None, postgresql.AnotherServerError}, 30)

            assert problem() is postgresql.AnotherServerError
            changes.settle(database)
            assert problem() is None
            database.close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_moved_address_is_followed_though_the_old_primary_still_works(mode: str) -> None:
    """It is not fenced. PgBouncer's default would keep to it for an hour.

    PgBouncer also closes its connections one by one. None that is left leads back to the old one.
    """
    with replicated() as pair:
        pair.primary.execute("CREATE DATABASE dlr")
        migrate(pair.url("dlr"))
        address = Node(pair.address, pair.primary.tools)
        with (
            pooled(address, "dlr", mode) as url,
            serving(**settings_for(url)) as program,
        ):
            assert call_back(program, "before") == 200
            open_many_sessions(program)
            until(lambda: bool(pair.standby.execute("SELECT 1 FROM deliveries", "dlr")))
            pair.standby.promote()
            pair.move_to(pair.standby)
            after_the_notice: list[str] = []

            def is_stored(name: str) -> bool:
                found = f"SELECT 1 FROM deliveries WHERE message_id = '{name}'"
                return bool(pair.standby.execute(found, "dlr"))

            def new_reports_are_found() -> bool:
                is_noticed = log_has(program, "the database takes no reports")
                name = f"after-{time.monotonic_ns()}"
                assert call_back(program, name) == 200
                if is_noticed:
                    after_the_notice.append(name)
                return is_stored(name) and is_found(program, name)

            until(new_reports_are_found, FOLLOWED_WITHIN_S)
            until(lambda: spool_is_empty(program))
            assert [name for name in after_the_notice if not is_stored(name)] == []


def open_many_sessions(program: Serving) -> None:
    with ThreadPoolExecutor(16) as readers:
        found = [
            readers.submit(program.http.get, "/v1/deliveries", headers=AUTHORIZED)
            for _ in range(200)
        ]
    assert {answer.result().status_code for answer in found} == {200}
