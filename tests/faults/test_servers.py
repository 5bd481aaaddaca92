"""Servers that warn, forget, move or take over: nothing acknowledged is lost or hidden."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from sqlalchemy import URL

from tests.databases import migrate
from tests.faults.programs import (
    AUTHORIZED,
    call_back,
    is_found,
    is_ready,
    metrics_of,
    settings_for,
    spool_is_empty,
)
from tests.postgres import StoppableServer
from tests.process import Serving, serving, until
from tests.replication import Node, Pair, replicated

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


@pytest.mark.parametrize("spool", ["on", "off"])
def test_a_commit_that_the_server_only_warns_about_is_not_certain(
    server: StoppableServer, server_database: URL, spool: str
) -> None:
    node = Node.of(server)
    with serving(**settings_for(server_database, DLR_SPOOL=spool)) as program:
        assert call_back(program, "before") == 200
        try:
            node.configure(synchronous_standby_names="nobody")
            with ThreadPoolExecutor(1) as thread:
                answering = thread.submit(call_back, program, "during")
                until(lambda: bool(node.execute(CANCEL_A_WAIT)))
                answer = answering.result()
            waiting = "\ndlr_spool_waiting 1.0\n" in metrics_of(program)
            drained_in_vain = not is_ready(program)
        finally:
            node.execute("ALTER SYSTEM RESET synchronous_standby_names")
            node.execute("SELECT pg_reload_conf()")
        until(lambda: is_ready(program) and spool_is_empty(program))

        assert answer == (200 if spool == "on" else 503)
        assert waiting == (spool == "on")
        assert drained_in_vain
        errors = [line.get("error") for line in program.log_lines()]
        assert any("01000" in str(error) for error in errors), errors
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
        for process in standby.processes():
            process.suspend()
        for number in range(200):  # each is a transaction of its own, and the standby lacks them
            assert call_back(program, f"lost-{number}") == 200
        seen, cursor = changes_after(program, None)
        assert len(seen) == 201

        pair.primary.crash()
        for process in standby.processes():
            process.resume()
        standby.promote()
        pair.move_to(standby)
        until(lambda: is_ready(program))
        for number in range(20):
            assert call_back(program, f"new-{number}") == 200
        until(lambda: spool_is_empty(program))
        after, _ = changes_after(program, cursor)

        assert not is_found(program, "lost-199")
        assert sorted(after) == sorted(f"new-{number}" for number in range(20))
        messages = [line["message"] for line in program.log_lines()]
        assert any("another server has taken over" in message for message in messages)


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
