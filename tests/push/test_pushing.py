"""Pushes: signed, in the feed's order, none skipped, and repeated until they are taken."""

import json
import time
from datetime import datetime

import psycopg
import pytest
from sqlalchemy import URL, update

from app.store.tables import webhooks as webhooks_table
from tests.process import until
from tests.push.receiver import Hooks, Receiver, answer, running_receiver
from tests.service import SAMPLE, Service, a_report, running_service


def test_a_change_is_pushed_as_standard_webhooks_say(hooks: Hooks, receiver: Receiver) -> None:
    added = hooks.add(receiver.url + "?from=paasoo")
    hooks.service.call_back(a_report())

    push = receiver.next_push()

    push.verify(added["secret"])
    assert push.path == "/dlr?from=paasoo"
    assert push.headers["content-type"] == "application/json"
    body = json.loads(push.body)
    assert body.keys() == {"type", "timestamp", "data"}
    assert body["type"] == "deliveries.changed"
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
    assert body["data"]["items"] == [hooks.service.delivery()]
    until(lambda: hooks.show(added["id"])["last_success_at"] is not None)
    shown = hooks.show(added["id"])
    feed = hooks.service.get("/v1/changes").json()
    assert shown["cursor"] == feed["next_cursor"]


def test_only_what_changes_from_then_on_is_pushed(hooks: Hooks, receiver: Receiver) -> None:
    hooks.service.call_back(a_report(messageid="before"))
    hooks.add(receiver.url)
    hooks.service.call_back(a_report(messageid="after"))

    assert receiver.next_push().message_ids == ["after"]


def test_a_cursor_begins_earlier(hooks: Hooks, receiver: Receiver) -> None:
    hooks.service.call_back(a_report(messageid="first"))
    cursor = hooks.service.get("/v1/changes").json()["next_cursor"]
    hooks.service.call_back(a_report(messageid="second"))
    hooks.add(receiver.url, cursor=cursor)

    assert receiver.next_push().message_ids == ["second"]


def test_pushes_hold_no_more_than_was_asked_for_and_keep_the_order(
    hooks: Hooks, receiver: Receiver
) -> None:
    begin = hooks.service.get("/v1/changes?cursor=now").json()["next_cursor"]
    for number in range(25):
        hooks.service.call_back(a_report(messageid=f"m-{number}"))
    hooks.add(receiver.url, max_items=10, cursor=begin)

    pushes = [receiver.next_push() for _ in range(3)]

    assert [len(push.items) for push in pushes] == [10, 10, 5]
    pushed = [message_id for push in pushes for message_id in push.message_ids]
    assert pushed == [f"m-{number}" for number in range(25)]
    assert len({push.id for push in pushes}) == 3


def test_an_address_far_behind_gets_everything(hooks: Hooks, receiver: Receiver) -> None:
    begin = hooks.service.get("/v1/changes?cursor=now").json()["next_cursor"]
    ids = [f"m-{number}" for number in range(50)]
    for message_id in ids:
        numbers = [f"65{number:08}" for number in range(50)]
        hooks.service.register(message_id, to=numbers)
    near = hooks.add(receiver.url + "/near")
    far = hooks.add(receiver.url + "/far", max_items=1000, cursor=begin)
    until(lambda: hooks.show(far["id"])["cursor"] == near["cursor"], 30)

    assert len(receiver.take_all(2500)) == 2500


@pytest.mark.parametrize("events", ["all", "final"])
def test_final_events_leave_out_what_is_not_final(
    hooks: Hooks, receiver: Receiver, events: str
) -> None:
    added = hooks.add(receiver.url, events=events)
    hooks.service.register("never-reported", to=["6588888888"])
    hooks.service.register("052804b7368321", to=["6588888888"])
    cursor = hooks.service.get("/v1/changes?cursor=now").json()["next_cursor"]
    if events == "all":
        receiver.take_all(2)
    else:
        until(lambda: hooks.show(added["id"])["cursor"] == cursor)
        assert not receiver.has_push()
    hooks.service.call_back(a_report())

    assert receiver.next_push().items == [hooks.service.delivery()]


def test_a_failed_push_is_repeated_with_the_same_id_until_it_is_taken(
    hooks: Hooks, receiver: Receiver
) -> None:
    for status in (500, 302, 400):
        receiver.answers.put(answer(status, "Location: http://localhost:9/"))
    added = hooks.add(receiver.url)
    hooks.service.call_back(a_report())

    first = receiver.next_push()
    until(lambda: hooks.show(added["id"])["last_error"] == "HTTP 500")
    assert hooks.show(added["id"])["failing_since"] is not None
    assert hooks.show(added["id"])["cursor"] == added["cursor"]
    second = receiver.next_push()
    until(lambda: "302" in hooks.show(added["id"])["last_error"])
    hooks.enable(added["id"])  # to go on at once
    third = receiver.next_push()
    until(lambda: hooks.show(added["id"])["last_error"] == "HTTP 400")
    hooks.enable(added["id"])
    fourth = receiver.next_push()

    assert second.at - first.at >= 5
    assert {push.id for push in (first, second, third, fourth)} == {first.id}
    assert [push.items for push in (second, third, fourth)] == [first.items] * 3
    fourth.verify(added["secret"])
    until(lambda: hooks.show(added["id"])["last_success_at"] is not None)
    shown = hooks.show(added["id"])
    assert (shown["last_error"], shown["failing_since"]) == (None, None)


def test_a_repeated_push_leaves_out_what_has_changed_since(
    hooks: Hooks, receiver: Receiver
) -> None:
    receiver.answers.put(answer(503))
    begin = hooks.service.get("/v1/changes?cursor=now").json()["next_cursor"]
    for message_id in ("stays", "changes"):
        hooks.service.register(message_id, to=[SAMPLE["to"]])
    added = hooks.add(receiver.url, cursor=begin)
    first = receiver.next_push()
    until(lambda: hooks.show(added["id"])["last_error"] is not None)
    hooks.service.call_back(a_report(messageid="changes"))
    hooks.enable(added["id"])

    second, third = receiver.next_push(), receiver.next_push()

    assert first.message_ids == ["stays", "changes"]
    assert (second.id, second.message_ids) == (first.id, ["stays"])
    assert third.id != first.id
    assert third.items == [hooks.service.delivery("changes")]


def test_a_push_of_which_nothing_is_left_is_not_repeated(hooks: Hooks, receiver: Receiver) -> None:
    receiver.answers.put(answer(503))
    added = hooks.add(receiver.url)
    hooks.service.register("changes", to=[SAMPLE["to"]])
    first = receiver.next_push()
    until(lambda: hooks.show(added["id"])["last_error"] is not None)
    hooks.service.call_back(a_report(messageid="changes"))
    hooks.enable(added["id"])

    second = receiver.next_push()

    assert second.id != first.id
    assert second.items == [hooks.service.delivery("changes")]


def test_410_disables_and_enabling_goes_on_from_there(hooks: Hooks, receiver: Receiver) -> None:
    receiver.answers.put(answer(410))
    added = hooks.add(receiver.url)
    other = hooks.add(receiver.url + "/other")
    hooks.service.call_back(a_report(messageid="first"))
    until(lambda: hooks.show(added["id"])["disabled"] or hooks.show(other["id"])["disabled"])
    disabled = added if hooks.show(added["id"])["disabled"] else other
    pushes = [receiver.next_push(), receiver.next_push()]
    hooks.service.call_back(a_report(messageid="second"))
    assert receiver.next_push().path != path_of(disabled)
    assert hooks.show(disabled["id"])["last_error"] == "HTTP 410: the address is gone"

    hooks.enable(disabled["id"])
    first, second = receiver.next_push(), receiver.next_push()

    assert first.id in {push.id for push in pushes}
    assert first.message_ids + second.message_ids == ["first", "second"]
    assert hooks.show(disabled["id"])["disabled"] is False


def path_of(webhook: dict[str, str]) -> str:
    return webhook["url"][webhook["url"].index("/dlr") :]


def test_addresses_that_share_a_page_skip_nothing(hooks: Hooks, receiver: Receiver) -> None:
    service = hooks.service
    begin = service.get("/v1/changes?cursor=now").json()["next_cursor"]
    for number in range(40):
        service.register(f"m-{number:02}", to=[f"65{place:08}" for place in range(50)])
    middle = service.get(f"/v1/changes?limit=500&cursor={begin}").json()["next_cursor"]
    end = service.get("/v1/changes?cursor=now").json()["next_cursor"]
    with running_receiver() as behind:
        # Both fail with a push of 1,000 changes, the first from 0 on, the second from 500 on.
        webhooks = []
        for each, cursor in ((behind, begin), (receiver, middle)):
            each.answers.put(answer(503))
            webhooks.append(hooks.add(each.url, max_items=1000, cursor=cursor))
            assert len(each.next_push().items) == 1000
            until(lambda: hooks.show(webhooks[-1]["id"])["last_error"] is not None)
        make_due(service)

        until(lambda: all(hooks.show(it["id"])["cursor"] == end for it in webhooks), 30)

        assert len(behind.take_all(2000)) == 2000
        assert len(receiver.take_all(1500)) == 1500


def make_due(service: Service) -> None:
    """Let all be tried again in one look, as after a restart."""
    with service.app.parts.database.transaction() as connection:
        connection.execute(update(webhooks_table).values(next_try_at=0, owner=None))


def test_an_odd_retry_after_stops_nothing(hooks: Hooks, receiver: Receiver) -> None:
    odd = "Retry-After: Wed, 21 Oct 99999999999999999999 07:28:00 GMT"
    receiver.answers.put(answer(200, odd))
    receiver.answers.put(answer(503, odd))
    added = hooks.add(receiver.url)
    hooks.service.call_back(a_report(messageid="first"))
    assert receiver.next_push().message_ids == ["first"]
    hooks.service.call_back(a_report(messageid="second"))

    assert receiver.next_push().message_ids == ["second"]
    until(lambda: hooks.show(added["id"])["last_error"] == "HTTP 503")


@pytest.mark.parametrize("path", ["/a;v=1?b=2", "/%41%2F?", "?x=1", "/!$&'()*+,~"])
def test_a_path_is_used_as_it_was_given(hooks: Hooks, receiver: Receiver, path: str) -> None:
    hooks.add(receiver.url.replace("/dlr", path))
    hooks.service.call_back(a_report())

    expected = path if path.startswith("/") else f"/{path}"
    assert receiver.next_push().path.rstrip("?") == expected.rstrip("?")


def test_a_clock_that_was_ahead_stops_nothing(hooks: Hooks, receiver: Receiver) -> None:
    a_year_ahead = time.time_ns() // 1000 + 365 * 24 * 3600 * 1_000_000
    added = hooks.add(receiver.url)
    with hooks.service.app.parts.database.transaction() as connection:
        ahead = {"owner": "gone", "leased_until": a_year_ahead, "next_try_at": a_year_ahead}
        connection.execute(update(webhooks_table).values(**ahead))
    hooks.service.call_back(a_report())

    assert receiver.next_push().message_ids == [SAMPLE["messageid"]]
    until(lambda: hooks.show(added["id"])["last_success_at"] is not None)


def test_changes_that_a_transaction_holds_back_are_seen_as_a_lag(
    postgres_url: URL, receiver: Receiver
) -> None:
    with (
        running_service(postgres_url) as service,
        psycopg.connect(
            postgres_url.set(drivername="postgresql").render_as_string(hide_password=False)
        ) as other,
    ):
        added = Hooks(service).add(receiver.url)
        other.execute("CREATE TABLE of_another_program (id integer)")
        service.call_back(a_report())
        lag = f'dlr_webhook_lag_seconds{{webhook="{added["id"]}"}}'

        # Longer than an owner takes to write down that it has everything.
        until(lambda: service.metric(lag) > 4, 30)
        assert not receiver.has_push()
        other.rollback()

        assert receiver.next_push().message_ids == [SAMPLE["messageid"]]
