"""One replica pushes to an address; another goes on when it ends, however it ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import URL, event
from sqlalchemy.exc import OperationalError

from app.store.engine import Database
from tests.process import Serving, serving, until
from tests.push.receiver import HANGS, Hooks, Receiver, answer, environment_of, running_receiver
from tests.service import ADMIN_KEY, TOKEN, Service, a_report, running_service

TAKEN_OVER_WITHIN_S = 10


@pytest.mark.parametrize("end", [Serving.kill, Serving.terminate])
def test_another_replica_goes_on_when_the_owner_ends(
    postgres_url: URL, receiver: Receiver, end: Callable[[Serving], int]
) -> None:
    # The first replica to look takes the address: here, the only one.
    with serving(**environment_of(postgres_url)) as owner:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        owner.http.post("/v1/webhooks", json={"url": receiver.url}, headers=headers)
        receiver.answers.put(HANGS)
        owner.http.get(f"/callback/paasoo/{TOKEN}?{a_report(messageid='under-way')}")
        assert receiver.next_push().message_ids == ["under-way"]
        with running_service(postgres_url) as another:
            another.call_back(a_report(messageid="after"))

            end(owner)
            ended_at = time.monotonic()

            items = receiver.take_all(2)
            assert [item["messageid"] for item in items] == ["under-way", "after"]
            assert time.monotonic() - ended_at < TAKEN_OVER_WITHIN_S


def test_two_replicas_push_each_change_once(postgres_url: URL, receiver: Receiver) -> None:
    with running_service(postgres_url) as one, running_service(postgres_url) as other:
        hooks = Hooks(one)
        added = hooks.add(receiver.url, max_items=10)
        for number in range(50):
            (one, other)[number % 2].call_back(a_report(messageid=f"m-{number}"))

        items = receiver.take_all(50)

        assert {item["messageid"] for item in items} == {f"m-{number}" for number in range(50)}
        end = one.get("/v1/changes?cursor=now").json()["next_cursor"]
        until(lambda: hooks.show(added["id"])["cursor"] == end)
        assert not receiver.has_push()


def test_a_service_that_starts_again_goes_on_where_it_was(
    database_url: URL, receiver: Receiver
) -> None:
    with running_service(database_url) as service:
        Hooks(service).add(receiver.url)
        service.call_back(a_report(messageid="first"))
        assert receiver.next_push().message_ids == ["first"]
        receiver.answers.put(answer(503))
        service.call_back(a_report(messageid="failed"))
        failed = receiver.next_push()
    with running_service(database_url) as service:
        service.call_back(a_report(messageid="second"))

        repeated = receiver.next_push()

        assert (repeated.id, repeated.items) == (failed.id, failed.items)
        assert repeated.at - failed.at >= 5
        assert receiver.next_push().message_ids == ["second"]


def test_an_address_that_hangs_delays_no_other(service: Service) -> None:
    with running_receiver() as hangs, running_receiver() as works:
        hangs.answers.put(HANGS)
        hooks = Hooks(service)
        hooks.add(hangs.url)
        hooks.add(works.url)
        service.call_back(a_report(messageid="first"))
        hangs.next_push()
        assert works.next_push().message_ids == ["first"]

        service.call_back(a_report(messageid="second"))

        assert works.next_push().message_ids == ["second"]
        assert not hangs.has_push()


def test_a_push_that_is_under_way_holds_no_connection(service: Service) -> None:
    with running_receiver() as hangs:
        hangs.answers.put(HANGS)
        Hooks(service).add(hangs.url)
        service.call_back(a_report())
        hangs.next_push()
        database = service.app.parts.database

        # A look takes one for a moment.
        until(lambda: database.read.pool.checkedout() == 0)  # type: ignore[attr-defined]
        until(lambda: database.write.pool.checkedout() == 0)  # type: ignore[attr-defined]
        assert not hangs.let_go.is_set()


def test_an_owner_that_was_not_told_so_takes_the_address_again(
    service: Service, receiver: Receiver
) -> None:
    with failing_once_an_address_is_taken(service.app.parts.database) as failures:
        Hooks(service).add(receiver.url)
        until(lambda: bool(failures))
        service.call_back(a_report())

        assert receiver.next_push().message_ids == ["052804b7368321"]


@contextmanager
def failing_once_an_address_is_taken(database: Database) -> Iterator[list[str]]:
    """The next question about owners fails, after the commit: nobody knows what it took."""
    failures: list[str] = []
    taken: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE webhooks") and "RETURNING" in statement:
            taken.append(statement)

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "webhooks.owner" in statement and taken and not failures:
            failures.append(statement)
            raise OperationalError(statement, {}, ConnectionError())

    event.listen(database.write, "before_cursor_execute", note)
    event.listen(database.read, "before_cursor_execute", fail)
    try:
        yield failures
    finally:
        event.remove(database.write, "before_cursor_execute", note)
        event.remove(database.read, "before_cursor_execute", fail)
