"""The usual batch on PostgreSQL goes over the event loop's connections; nothing hangs on them."""

import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from signal import SIGCONT, SIGSTOP
from typing import Any

import httpx2
import psycopg
import pytest
from sqlalchemy import URL, text

from app.callback.parse import parse
from app.ingest.writer import LANES
from app.store import write
from app.store.direct import Direct
from app.store.engine import WRITE_TIMEOUT_S, open_database
from app.store.postgresql import GRACE_S
from tests.directly import committing_directly, take
from tests.faults.programs import call_back, log_has, settings_for
from tests.ingest.test_batches import call_back_at_once
from tests.process import serving, until
from tests.service import ADMIN_KEY, Service, a_report, running_service

OURS = """
FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE 'PREPARE record_%'"""

DELETION_WAITS = """
SELECT count(*) FROM pg_stat_activity
WHERE query LIKE 'DELETE FROM quarantine%' AND wait_event_type = 'Lock'"""

WAITING = f"SELECT count(*) {OURS} AND wait_event_type = 'Lock'"


@pytest.fixture
def other(postgres_url: URL) -> Iterator[psycopg.Connection[Any]]:
    """Another session on the service's database."""
    address = postgres_url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        yield connection


@contextmanager
def writing_directly(url: URL, other: psycopg.Connection[Any]) -> Iterator[Service]:
    """A service that has opened the connections, as it does after its first batch."""
    with running_service(url) as service:
        assert service.call_back(a_report(messageid="first")).status_code == 200
        until(lambda: is_open(other))
        yield service


@pytest.fixture
def admin(postgres_server: URL) -> Iterator[psycopg.Connection[Any]]:
    """A session on another database of the server's."""
    address = postgres_server.render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        yield connection


@contextmanager
def no_new_connection(admin: psycopg.Connection[Any], url: URL) -> Iterator[None]:
    allow = f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS"
    admin.execute(f"{allow} false".encode())
    try:
        yield
    finally:
        admin.execute(f"{allow} true".encode())


def is_open(other: psycopg.Connection[Any]) -> bool:
    return other.execute(f"SELECT count(*) {OURS}").fetchone() == (LANES,)


def is_waiting(other: psycopg.Connection[Any]) -> bool:
    return other.execute(WAITING).fetchone() != (0,)


def cut(other: psycopg.Connection[Any], number: int = LANES) -> None:
    ours = f"SELECT pid {OURS} ORDER BY backend_start LIMIT {number}"
    other.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM ({ours}) AS ours")


def statuses_of(service: Service, queries: list[str]) -> list[int]:
    return [answer.status_code for answer in call_back_at_once(service, queries)]


def delete_refused(service: Service, row_id: str) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    return service.http.delete(f"/v1/quarantine/{row_id}", headers=headers)


def test_reports_are_committed_over_it(postgres_url: URL, other: psycopg.Connection[Any]) -> None:
    began = f"SELECT max(query_start) {OURS}"
    with writing_directly(postgres_url, other) as service:
        before = other.execute(began).fetchone()
        assert service.call_back(a_report()).status_code == 200
        after = other.execute(began).fetchone()

        assert before
        assert after
        assert after > before
        assert service.delivery()["state"] == "delivered"
        assert service.metric("dlr_commit_seconds_count") == 2
        assert service.metric("dlr_batch_reports_sum") == 2
        assert service.metric('dlr_reports_total{state="delivered"}') == 2


def test_it_is_opened_again_after_it_was_cut(
    postgres_url: URL, other: psycopg.Connection[Any]
) -> None:
    with writing_directly(postgres_url, other) as service:
        cut(other)
        assert service.call_back(a_report(messageid="after")).status_code == 200
        until(lambda: service.call_back(a_report()).status_code == 200 and is_open(other))

        (report,) = service.reports("after")
        assert report["times_received"] == 1


def test_the_other_one_goes_on_until_it_is_opened_again(
    postgres_url: URL, other: psycopg.Connection[Any]
) -> None:
    with writing_directly(postgres_url, other) as service:
        assert service.call_back(a_report()).status_code == 200
        cut(other, 1)
        until(lambda: is_open(other))  # though no batch goes by the thread


def test_to_open_it_takes_no_connection_from_the_thread(
    postgres_url: URL, admin: psycopg.Connection[Any]
) -> None:
    """Here while no new one is to be had."""
    database = open_database(postgres_url)
    first, second = Direct(database), Direct(database)
    assert first.open()
    with no_new_connection(admin, postgres_url):
        assert not second.open()
        with database.batch() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
    first.close()
    database.close()


def test_refused_callbacks_wait_for_the_thread_together_and_no_report_does(
    postgres_url: URL, other: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Each batch on its own would wait for the lock in turn."""
    with writing_directly(postgres_url, other) as service, ThreadPoolExecutor(4) as threads:
        writer = service.app.parts.writer
        with other.transaction():
            other.execute("LOCK TABLE quarantine IN EXCLUSIVE MODE")
            answers = []
            for number in range(4):
                answers.append(threads.submit(service.call_back, f"type=dlr&n={number}"))
                until(lambda number=number: writer.queued == number + 1)  # type: ignore[misc]
            assert service.call_back(a_report()).status_code == 200
            assert not answers[0].done()
            assert {answer.result().status_code for answer in answers} == {400}

    failed = [it for it in caplog.messages if it == "the quarantine takes nothing"]
    assert len(failed) == 2


def test_a_batch_that_waits_for_a_lock_holds_up_no_other(
    postgres_url: URL, other: psycopg.Connection[Any]
) -> None:
    with writing_directly(postgres_url, other) as service, ThreadPoolExecutor(1) as threads:
        with other.transaction():
            other.execute("SELECT FROM deliveries WHERE message_id = 'first' FOR UPDATE")
            held = threads.submit(service.call_back, a_report(messageid="first", errcode="2"))
            until(lambda: is_waiting(other))
            assert service.call_back(a_report()).status_code == 200
            assert not held.done()

        assert held.result().status_code == 200
        assert service.metric("dlr_spooled_total") == 0


def test_a_batch_that_is_cut_is_committed_all_the_same(
    postgres_url: URL, other: psycopg.Connection[Any]
) -> None:
    queries = [a_report(messageid=f"m-{n}") for n in range(20)]
    with (
        writing_directly(postgres_url, other) as service,
        ThreadPoolExecutor(len(queries)) as threads,
    ):
        with other.transaction():
            other.execute("LOCK TABLE deliveries IN EXCLUSIVE MODE")
            answers = [threads.submit(service.call_back, query) for query in queries]
            until(lambda: is_waiting(other))
            cut(other)

        assert {answer.result().status_code for answer in answers} == {200}
        for n in range(20):
            (report,) = service.reports(f"m-{n}")
            assert report["times_received"] == 1


def test_a_row_that_the_database_refuses_costs_the_others_nothing(
    postgres_url: URL, other: psycopg.Connection[Any]
) -> None:
    other.execute("ALTER TABLE deliveries ADD CONSTRAINT refuse CHECK (errcode <> 'poison')")
    queries = [a_report(messageid=f"m-{n}", status=404) for n in range(20)]
    queries[7] = a_report(messageid="m-7", status=404, errcode="poison")
    with writing_directly(postgres_url, other) as service:
        answers = statuses_of(service, queries)

        assert answers == [400 if n == 7 else 200 for n in range(20)]
        (refused,) = service.quarantine()
        assert refused["query"] == queries[7]
        assert is_open(other)  # a bad row is no reason to connect anew


def test_the_thread_needs_no_new_connection(
    postgres_url: URL, other: psycopg.Connection[Any], admin: psycopg.Connection[Any]
) -> None:
    """It takes two different reports of one delivery, for example, while none is to be had.

    Nor does any other write have its connection: here one that waits for a lock.
    """
    with (
        writing_directly(postgres_url, other) as service,
        ThreadPoolExecutor(1) as threads,
    ):
        assert service.call_back("type=dlr").status_code == 400
        (refused,) = service.quarantine()
        with other.transaction():
            other.execute("LOCK TABLE quarantine IN EXCLUSIVE MODE")
            threads.submit(delete_refused, service, refused["id"])
            until(lambda: admin.execute(DELETION_WAITS).fetchone() == (1,))
            with no_new_connection(admin, postgres_url):
                answers = statuses_of(service, [a_report(errcode=str(n)) for n in range(20)])

        assert answers == [200] * 20
        assert service.metric("dlr_spooled_total") == 0
        assert len(service.reports()) == 20


def test_a_table_that_stays_locked_is_waited_for_once(
    postgres_url: URL, other: psycopg.Connection[Any]
) -> None:
    with writing_directly(postgres_url, other) as service:
        with other.transaction():
            other.execute("LOCK TABLE deliveries IN EXCLUSIVE MODE")
            began_at = time.monotonic()
            assert service.call_back(a_report()).status_code == 200
            took_s = time.monotonic() - began_at
            assert service.metric("dlr_spooled_total") == 1
        until(lambda: service.get("/v1/messages/052804b7368321").status_code == 200)

    assert WRITE_TIMEOUT_S <= took_s < 2 * WRITE_TIMEOUT_S


@pytest.mark.parametrize(("message_id", "times"), [("second", 1), ("first", 2)])
def test_an_answer_that_came_while_the_process_was_suspended_counts(
    postgres_url: URL, other: psycopg.Connection[Any], message_id: str, times: int
) -> None:
    """The time limit is over by then. A known delivery's second statement is still to come."""
    with serving(**settings_for(postgres_url)) as program, ThreadPoolExecutor(1) as threads:
        assert call_back(program, "first") == 200
        until(lambda: is_open(other))
        with other.transaction():
            other.execute("LOCK TABLE deliveries IN EXCLUSIVE MODE")
            answer = threads.submit(call_back, program, message_id)
            until(lambda: is_waiting(other))
            program.process.send_signal(SIGSTOP)
        try:
            time.sleep(WRITE_TIMEOUT_S + GRACE_S)  # the fault itself
        finally:
            program.process.send_signal(SIGCONT)

        assert answer.result() == 200
        assert not log_has(program, "takes no reports")
    of_message = "SELECT times_received FROM deliveries WHERE message_id = %s"
    assert other.execute(of_message, [message_id]).fetchone() == (times,)


def test_different_reports_of_one_delivery_in_one_batch_are_all_in_the_history(
    postgres_url: URL, other: psycopg.Connection[Any]
) -> None:
    with writing_directly(postgres_url, other) as service:
        answers = statuses_of(service, [a_report(errcode=str(n)) for n in range(20)])

        assert answers == [200] * 20
        assert len(service.reports()) == 20


def test_a_batch_is_larger_than_what_the_socket_takes_at_once(
    postgres_url: URL, other: psycopg.Connection[Any]
) -> None:
    """The server doesn't read while it is suspended, and a socket takes some 200 KB."""
    query = a_report(more="x" * 5_000).encode()
    report = parse(query, time.time_ns() // 1000)
    batch = [report._replace(message_id=f"m-{n}") for n in range(1_000)]
    database = open_database(postgres_url)
    direct = Direct(database)
    direct.open()
    ((pid,),) = other.execute(f"SELECT pid {OURS}").fetchall()

    async def commit() -> None:
        committing = asyncio.create_task(take(direct, batch))
        os.kill(pid, SIGSTOP)
        try:
            await asyncio.sleep(0)  # it sends
        finally:
            os.kill(pid, SIGCONT)
        assert await committing

    asyncio.run(commit())
    direct.close()
    database.close()

    assert other.execute("SELECT count(*) FROM deliveries").fetchone() == (1_000,)


def test_known_and_new_deliveries_share_a_batch(
    postgres_url: URL, other: psycopg.Connection[Any]
) -> None:
    """At first it is taken for one of new ones, and once that was wrong, folded at once."""
    database = open_database(postgres_url)
    with committing_directly(database) as commit:
        for batch in range(4):
            queries = (
                a_report(messageid=f"m-{number}", errcode=str(batch))
                for number in range(20 * (batch + 1))
            )
            now = time.time_ns() // 1000
            commit(database, [parse(it.encode(), now + n) for n, it in enumerate(queries)])
    database.close()

    sums = "SELECT count(*), sum(times_received), count(DISTINCT errcode)"
    held = other.execute(f"{sums} FROM deliveries WHERE times_received IS NOT NULL").fetchone()
    others = other.execute(f"{sums} FROM reports").fetchone()
    assert (held, others) == ((20, 20, 1), (180, 180, 4))


def test_a_report_that_another_replica_moves_meanwhile_is_counted_once(
    postgres_url: URL, other: psycopg.Connection[Any]
) -> None:
    """Here between the two statements of a batch, as the second waits for a lock."""
    database = open_database(postgres_url)
    now = time.time_ns() // 1000
    known, new, further = (
        parse(query.encode(), now + place)
        for place, query in enumerate(
            (
                a_report(messageid="known", errcode="2"),
                a_report(messageid="new", statuscode="accepted"),
                a_report(messageid="new"),
            )
        )
    )
    with ThreadPoolExecutor(1) as threads, committing_directly(database) as commit:
        write.commit(database, [known._replace(received_at=now - 9)])
        with other.transaction():
            other.execute("SELECT FROM deliveries WHERE message_id = 'known' FOR UPDATE")
            committing = threads.submit(commit, database, [known, new])
            until(lambda: is_waiting(other))
            write.commit(database, [further])
        committing.result()
    database.close()

    history = "SELECT message_id, state, times_received FROM {} ORDER BY 1, 2"
    assert other.execute(history.format("reports")).fetchall() == [
        ("new", "accepted", 1),
        ("new", "delivered", 1),
    ]
    assert other.execute(history.format("deliveries")).fetchall() == [
        ("known", "delivered", 2),
        ("new", "delivered", None),
    ]
