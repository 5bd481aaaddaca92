"""Batches: no row is lost because of another."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from itertools import islice

import httpx2
import pytest
from sqlalchemy import URL, text

from app.store.engine import open_database
from tests.process import until
from tests.service import Service, a_report, running_service

POISON = "poison"

# A fault that only the database notices, for each database in its own SQL.
REFUSE_POISON = {
    "sqlite": (
        "CREATE TRIGGER refuse_poison BEFORE INSERT ON deliveries"
        f" WHEN NEW.errcode = '{POISON}' BEGIN SELECT RAISE(ABORT, 'poison'); END"
    ),
    "postgresql": f"ALTER TABLE deliveries ADD CONSTRAINT poison CHECK (errcode <> '{POISON}')",
}


def execute(url: URL, statement: str) -> None:
    database = open_database(url)
    with database.write.begin() as connection:
        connection.execute(text(statement))
    database.close()


@contextmanager
def held_up_writes(url: URL) -> Iterator[None]:
    """Lock the table: no batch can commit until the block ends."""
    database = open_database(url)
    with database.write.connect() as connection:
        if url.get_backend_name() == "postgresql":
            in_transaction = connection.execution_options(isolation_level="READ COMMITTED")
            in_transaction.execute(text("LOCK TABLE deliveries IN EXCLUSIVE MODE"))
        else:
            connection.begin()  # BEGIN IMMEDIATE takes the write lock
        yield
    database.close()


@contextmanager
def calls_at_once(
    service: Service, queries: list[str]
) -> Iterator[list["Future[httpx2.Response]"]]:
    """Send all queries before reading any answer, so that they share batches."""
    with ThreadPoolExecutor(len(queries)) as threads:
        yield [threads.submit(service.call_back, query) for query in queries]


def call_back_at_once(service: Service, queries: list[str]) -> list[httpx2.Response]:
    with calls_at_once(service, queries) as calls:
        return [call.result() for call in calls]


def test_fifty_recipients_of_one_message_are_fifty_deliveries(service: Service) -> None:
    recipients = [f"65888888{number:02}" for number in range(50)]

    answers = call_back_at_once(service, [a_report(to=recipient) for recipient in recipients])

    assert {answer.status_code for answer in answers} == {200}
    message = service.message("052804b7368321")
    assert [delivery["to"] for delivery in message["deliveries"]] == recipients
    assert message["state"] == "delivered"


def test_many_callers_share_a_commit(own_service: Service) -> None:
    answers = call_back_at_once(own_service, [a_report(messageid=f"m-{n}") for n in range(100)])

    assert {answer.status_code for answer in answers} == {200}
    assert own_service.metric("dlr_batch_reports_sum") == 100
    assert own_service.metric("dlr_commit_seconds_count") < 100


def test_identical_reports_in_one_batch_are_one_in_the_history(service: Service) -> None:
    answers = call_back_at_once(service, [a_report()] * 20)

    assert {answer.status_code for answer in answers} == {200}
    (report,) = service.reports()
    assert report["times_received"] == 20


def test_a_row_that_the_database_refuses_costs_the_others_nothing(
    database_url: URL, own_service: Service
) -> None:
    execute(database_url, REFUSE_POISON[database_url.get_backend_name()])
    queries = [a_report(messageid=f"m-{n}", status=404) for n in range(40)]
    queries[17] = a_report(messageid="m-17", status=404, errcode=POISON)

    answers = call_back_at_once(own_service, queries)

    assert [answer.status_code for answer in answers] == [
        400 if n == 17 else 200 for n in range(40)
    ]
    assert answers[17].json()["code"] == "invalid_parameter"
    (refused,) = own_service.quarantine()
    assert refused["query"] == queries[17]
    assert refused["code"] == "invalid_parameter"
    for n in range(40):
        found = own_service.get(f"/v1/messages/m-{n}").status_code
        assert found == (404 if n == 17 else 200)


def test_a_full_queue_is_refused_at_once_and_recovers(database_url: URL) -> None:
    with running_service(database_url, queue_limit=5) as service:
        queries = [a_report(messageid=f"m-{n}") for n in range(30)]
        with ExitStack() as held_up:
            held_up.enter_context(held_up_writes(database_url))
            with calls_at_once(service, queries) as calls:
                # The table is still locked, so these answers did not wait for a commit.
                first = list(islice(as_completed(calls), 25))
                held_up.close()
            answers = [call.result() for call in calls]

        assert {call.result().status_code for call in first} == {503}
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {answer.status_code for answer in refused} == {503}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
        for n, answer in enumerate(answers):
            if answer.status_code == 200:
                assert service.delivery(f"m-{n}")["state"] == "delivered"
        assert service.call_back(a_report(messageid="after")).status_code == 200


@pytest.mark.parametrize("table", ["reports", "deliveries"])
def test_without_its_tables_nothing_is_acknowledged(database_url: URL, table: str) -> None:
    with running_service(database_url, spool=False) as service:
        service.call_back(a_report(statuscode="accepted"))  # the next one needs both tables
        execute(database_url, f"ALTER TABLE {table} RENAME TO elsewhere")

        answer = service.call_back(a_report())

        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        execute(database_url, f"ALTER TABLE elsewhere RENAME TO {table}")
        until(lambda: service.call_back(a_report()).status_code == 200)
        assert service.delivery()["state"] == "delivered"


def test_a_caller_that_leaves_does_not_take_its_report_along(
    database_url: URL, own_service: Service
) -> None:
    with held_up_writes(database_url), pytest.raises(httpx2.ReadTimeout):
        own_service.call_back(a_report(), timeout=0.3)

    # The next report is committed after this one, so its answer is the signal.
    assert own_service.call_back(a_report(messageid="next")).status_code == 200
    assert own_service.delivery()["state"] == "delivered"


def test_a_quarantine_that_fails_turns_no_report_away(database_url: URL) -> None:
    with running_service(database_url, spool=False) as service:
        execute(database_url, "ALTER TABLE quarantine RENAME TO elsewhere")
        queries = [a_report(messageid=f"m-{n}") for n in range(20)]
        queries[7] = a_report(type="mo")

        answers = call_back_at_once(service, queries)

        assert [answer.status_code for answer in answers] == [
            503 if n == 7 else 200 for n in range(20)
        ]
        for n in set(range(20)) - {7}:
            assert [report["times_received"] for report in service.reports(f"m-{n}")] == [1]
        execute(database_url, "ALTER TABLE elsewhere RENAME TO quarantine")
        until(lambda: service.call_back(queries[7]).status_code == 400)
