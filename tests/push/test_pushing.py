"""Pushes: signed, in the feed's order, none skipped, and repeated until they are taken."""

import json
from datetime import datetime

import pytest

from app.reports import CHECK_PREFIX, TEST_NUMBER
from tests.process import until
from tests.push.receiver import Hooks, Receiver, answer
from tests.service import SAMPLE, a_report


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


def test_a_check_of_the_callback_is_not_pushed(hooks: Hooks, receiver: Receiver) -> None:
    hooks.add(receiver.url)
    hooks.service.call_back(a_report(messageid=f"{CHECK_PREFIX}1", to=TEST_NUMBER))
    hooks.service.call_back(a_report(messageid="real"))

    assert receiver.next_push().message_ids == ["real"]
