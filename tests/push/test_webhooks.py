"""The endpoints: an address is added, shown, tested, enabled, and removed."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL

from tests.process import until
from tests.push.receiver import TAKEN, Hooks, Receiver, answer, owner_of
from tests.service import READ_KEY, SEND_KEY, a_report, running_service

FIELDS = {
    "id",
    "url",
    "events",
    "max_items",
    "created_at",
    "cursor",
    "last_success_at",
    "last_error",
    "failing_since",
    "disabled",
}


def test_a_webhook_is_added_with_a_secret_that_is_shown_once(
    hooks: Hooks, receiver: Receiver
) -> None:
    added = hooks.add(receiver.url)

    assert added.keys() == FIELDS | {"secret"}
    assert added["secret"].startswith("whsec_")
    assert (added["url"], added["events"], added["max_items"]) == (receiver.url, "all", 100)
    assert (added["last_success_at"], added["failing_since"], added["disabled"]) == (
        None,
        None,
        False,
    )
    shown = hooks.show(added["id"])
    assert shown == {name: value for name, value in added.items() if name != "secret"}
    listed = hooks.call("GET").json()
    assert listed == {"items": [shown]}


def test_secrets_and_ids_differ(hooks: Hooks, receiver: Receiver) -> None:
    first, second = hooks.add(receiver.url), hooks.add(receiver.url)

    assert first["id"] != second["id"]
    assert first["secret"] != second["secret"]


@pytest.mark.parametrize("key", [None, READ_KEY, SEND_KEY])
def test_only_an_administrator_may(hooks: Hooks, key: str | None) -> None:
    expected = 401 if key is None else 403
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("GET", "/x"),
        ("DELETE", "/x"),
        ("POST", "/x/test"),
        ("POST", "/x/enable"),
    ):
        assert hooks.call(method, path, key=key).status_code == expected


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "example.com/dlr"}, "url"),
        ({"url": "ftp://example.com/"}, "url"),
        ({"url": "https:///dlr"}, "url"),
        ({"url": "https://user:word@example.com/"}, "url"),
        ({"url": "https://example.com/ x"}, "url"),
        ({"url": "https://example.com:x/"}, "url"),
        ({"url": "https://example.com:0/"}, "url"),
        ({"url": "https://example.com:65536/"}, "url"),
        ({"url": "https://example..com/"}, "url"),
        ({"url": f"https://example.com/{'x' * 2048}"}, "url"),
        ({"url": "https://example.com/", "events": "some"}, "events"),
        ({"url": "https://example.com/", "max_items": 0}, "max_items"),
        ({"url": "https://example.com/", "max_items": 1001}, "max_items"),
        ({"url": "https://example.com/", "max_items": True}, "max_items"),
        ({"url": "https://example.com/", "max_items": "5"}, "max_items"),
        ({"url": "https://example.com/", "cursor": "x"}, "cursor"),
        ({"url": "https://example.com/", "secret": "x"}, "secret"),
    ],
)
def test_a_wrong_field_is_named(hooks: Hooks, body: dict[str, Any], field: str) -> None:
    response = hooks.call("POST", json=body)

    assert response.status_code == 422
    assert field in [error["field"] for error in response.json()["errors"]]
    assert hooks.call("GET").json() == {"items": []}


@pytest.mark.parametrize("unknown", ["nothing", "%00"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/test"), ("POST", "/enable")]
)
def test_an_unknown_webhook_is_not_found(
    hooks: Hooks, method: str, path: str, unknown: str
) -> None:
    response = hooks.call(method, f"/{unknown}{path}")

    assert (response.status_code, response.json()["code"]) == (404, "webhook_not_found")


def test_a_hundred_webhooks_are_enough(hooks: Hooks) -> None:
    for _ in range(100):
        hooks.add("http://localhost:9/")

    response = hooks.call("POST", json={"url": "http://localhost:9/"})

    assert (response.status_code, response.json()["code"]) == (409, "too_many_webhooks")


# The service's own updates wait, too.
WAIT_TO_ADD = """
SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query NOT LIKE 'UPDATE%'
"""


def test_two_that_are_added_at_once_keep_to_the_limit(postgres_url: URL) -> None:
    plain = postgres_url.set(drivername="postgresql").render_as_string(hide_password=False)
    with (
        running_service(postgres_url) as service,
        ThreadPoolExecutor(2) as threads,
        psycopg.connect(plain) as other,
        psycopg.connect(plain, autocommit=True) as looking,
    ):
        hooks = Hooks(service)
        for _ in range(99):
            hooks.add("http://localhost:9/")
        other.execute("LOCK TABLE webhooks IN SHARE MODE")  # holds up whoever has counted

        body = {"url": "http://localhost:9/"}
        adding = [threads.submit(hooks.call, "POST", json=body) for _ in range(2)]
        until(lambda: looking.execute(WAIT_TO_ADD).fetchone() == (2,))
        other.rollback()

        assert sorted(it.result().status_code for it in adding) == [201, 409]
        assert len(hooks.call("GET").json()["items"]) == 100


def test_a_removed_webhook_gets_nothing_more(hooks: Hooks, receiver: Receiver) -> None:
    removed, kept = hooks.add(receiver.url), hooks.add(receiver.url + "/kept")
    until(lambda: all(owner_of(hooks.service, it["id"]) for it in (removed, kept)))

    assert hooks.call("DELETE", f"/{removed['id']}").status_code == 204
    assert hooks.call("DELETE", f"/{removed['id']}").status_code == 404
    # An owner looks for what was removed before it pushes what is new.
    hooks.service.call_back(a_report())

    assert receiver.next_push().path == "/dlr/kept"
    hooks.service.call_back(a_report(messageid="another"))
    assert receiver.next_push().path == "/dlr/kept"


def test_a_test_pushes_a_made_up_delivery_and_tells_the_answer(
    hooks: Hooks, receiver: Receiver
) -> None:
    added = hooks.add(receiver.url)

    told = hooks.call("POST", f"/{added['id']}/test")

    push = receiver.next_push()
    push.verify(added["secret"])
    (item,) = push.items
    assert item["messageid"].startswith("test-")
    assert told.status_code == 200
    assert (told.json()["status"], told.json()["error"]) == (204, None)
    assert hooks.service.get(f"/v1/messages/{item['messageid']}").status_code == 404


@pytest.mark.parametrize(
    ("given", "status", "error"),
    [
        (answer(500), 500, "HTTP 500"),
        (answer(302, "Location: http://localhost:9/"), 302, "redirects are not followed"),
        (answer(410), 410, "gone"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + TAKEN, None, "too long"),
    ],
)
def test_a_test_tells_a_failure_and_changes_nothing(
    hooks: Hooks, receiver: Receiver, given: bytes, status: int | None, error: str
) -> None:
    added = hooks.add(receiver.url)
    receiver.answers.put(given)

    told = hooks.call("POST", f"/{added['id']}/test").json()

    assert told["status"] == status
    assert error in told["error"]
    shown = hooks.show(added["id"])
    assert (shown["last_error"], shown["failing_since"], shown["disabled"]) == (None, None, False)


def test_a_test_of_an_address_that_refuses_connections(hooks: Hooks) -> None:
    added = hooks.add("http://localhost:9/")

    told = hooks.call("POST", f"/{added['id']}/test").json()

    assert (told["status"], told["error"]) == (None, "it refuses connections")
