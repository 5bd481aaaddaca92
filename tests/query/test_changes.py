"""The change feed, page by page: its order, its content, and its cursors."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import update

from app.store.engine import open_database
from app.store.tables import deliveries
from tests import feed
from tests.feed import record, wait_until_settled
from tests.process import until
from tests.service import ADMIN_KEY, SAMPLE, Service, a_report

ID = SAMPLE["messageid"]


def call_back(service: Service, *message_ids: str, **fields: object) -> None:
    for message_id in message_ids:
        answer = service.call_back(a_report(messageid=message_id, **fields))
        assert answer.status_code == 200


def ids(items: list[Any]) -> list[str]:
    return [delivery["messageid"] for delivery in items]


def changes(service: Service, **parameters: object) -> Any:
    wait_until_settled(service.database_url)
    return feed.changes(service.http, **parameters)


def end_of(service: Service) -> str:
    cursor: str = changes(service, cursor="now")["next_cursor"]
    return cursor


def test_empty_feed_is_an_empty_page_with_a_cursor_that_goes_on(service: Service) -> None:
    empty = changes(service)
    assert empty["items"] == []
    call_back(service, "a")

    assert ids(changes(service, cursor=empty["next_cursor"])["items"]) == ["a"]


def test_change_is_the_delivery_as_a_lookup_shows_it(service: Service) -> None:
    call_back(service, ID)

    assert changes(service)["items"] == [service.delivery()]


def test_oldest_change_comes_first(service: Service) -> None:
    call_back(service, "c", "a", "b")

    assert ids(changes(service)["items"]) == ["c", "a", "b"]


def test_cursor_goes_on_behind_the_page(service: Service) -> None:
    call_back(service, "a", "b")
    first = changes(service)
    call_back(service, "c")

    second = changes(service, cursor=first["next_cursor"])
    third = changes(service, cursor=second["next_cursor"])

    assert ids(second["items"]) == ["c"]
    assert third["items"] == []
    assert changes(service, cursor=third["next_cursor"])["items"] == []


def test_now_begins_at_the_end(service: Service) -> None:
    call_back(service, "before")
    now = changes(service, cursor="now")
    call_back(service, "after")

    assert now["items"] == []
    assert ids(changes(service, cursor=now["next_cursor"])["items"]) == ["after"]


def test_delivery_that_changes_again_moves_to_the_end_in_its_current_form(
    service: Service,
) -> None:
    call_back(service, "a", status=0, statuscode="accepted")
    call_back(service, "b")
    cursor = end_of(service)
    call_back(service, "a", status=0, statuscode="delivered")

    assert [(one["messageid"], one["state"]) for one in changes(service)["items"]] == [
        ("b", "delivered"),
        ("a", "delivered"),
    ]
    assert ids(changes(service, cursor=cursor)["items"]) == ["a"]


def test_reader_between_two_changes_of_one_delivery_sees_both(service: Service) -> None:
    call_back(service, "a", status=0, statuscode="accepted")
    first = changes(service)
    call_back(service, "a", status=404, statuscode="failed")
    second = changes(service, cursor=first["next_cursor"])

    assert [one["state"] for one in (*first["items"], *second["items"])] == [
        "accepted",
        "undelivered",
    ]


# The report after one with status 0, delivered, and True if it is news.
LATER_REPORTS: dict[str, tuple[dict[str, Any], bool]] = {
    "the same again": ({}, False),
    "a late one of a lower rank": ({"statuscode": "accepted"}, False),
    "a contradiction": ({"status": 404, "statuscode": "failed"}, True),
    "another network": ({"network": "52501"}, True),
}


@pytest.mark.parametrize("later", LATER_REPORTS)
def test_only_what_changes_the_visible_status_is_news(service: Service, later: str) -> None:
    fields, is_news = LATER_REPORTS[later]
    call_back(service, ID)
    cursor = end_of(service)

    call_back(service, ID, **fields)

    shown = changes(service, cursor=cursor)["items"]
    assert shown == ([service.delivery()] if is_news else [])


def test_second_contradiction_is_no_news(service: Service) -> None:
    call_back(service, ID)
    call_back(service, ID, status=404, statuscode="failed")
    cursor = end_of(service)

    call_back(service, ID, status=401)

    assert changes(service, cursor=cursor)["items"] == []


def test_refused_callback_is_no_change(service: Service) -> None:
    assert service.call_back(a_report(to="someone")).status_code == 400

    assert changes(service)["items"] == []


def test_pages_of_any_size_skip_and_repeat_nothing_within_one_commit(service: Service) -> None:
    in_one_commit = [f"m-{number:03}" for number in range(150)]
    call_back(service, "before")
    record(service.database_url, in_one_commit)
    call_back(service, "after")

    for limit in (1, 7, 100, 152, 1000):
        wait_until_settled(service.database_url)
        found = feed.all_changes(service.http, limit=limit)

        assert ids(found) == ["before", *in_one_commit, "after"], limit


def test_deliveries_of_before_there_was_a_feed_come_first(service: Service) -> None:
    before = [f"m-{number}" for number in range(9)]
    record(service.database_url, before)
    database = open_database(service.database_url)
    with database.write.begin() as connection:
        connection.execute(update(deliveries).values(changed_in=0))
    database.close()
    call_back(service, "after", "a")

    for limit in (1, 2, 9, 10, 1000):
        wait_until_settled(service.database_url)
        assert ids(feed.all_changes(service.http, limit=limit)) == [*before, "after", "a"], limit


def test_hundred_changes_a_page_unless_asked_otherwise(service: Service) -> None:
    record(service.database_url, [f"m-{number}" for number in range(1001)])

    assert len(changes(service)["items"]) == 100
    assert len(changes(service, limit=1000)["items"]) == 1000


def test_recipients_of_one_message_are_changes_of_their_own(service: Service) -> None:
    for recipient in ("6588888882", "6588888881"):
        service.call_back(a_report(to=recipient))

    assert [one["to"] for one in changes(service)["items"]] == ["6588888882", "6588888881"]


MALFORMED = [
    *("limit=0", "limit=1001", "limit=x", "limit=", "limit=1&limit=2", "offset=1", "wiat=1"),
    *("cursor=x", "cursor=", "cursor=%00", "cursor=%ff", "cursor=" + "A" * 4000, "cursor=NOW"),
    *("cursor=MTp6", "cursor=WzEsMl0=", "cursor=WzEsImEiXQ==", "cursor=now&cursor=now"),
    *("wait=-1", "wait=61", "wait=x", "wait=nan", "wait=inf", "wait=", "wait=1&wait=1"),
]


@pytest.mark.parametrize("path", ["/v1/changes", "/v1/changes/stream"])
def test_malformed_request_is_422_and_names_the_field(service: Service, path: str) -> None:
    for parameters in MALFORMED:
        answer = service.get(f"{path}?{parameters}")

        assert answer.status_code == 422, parameters
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "invalid_request"
        assert parameters.partition("=")[0] in answer.json()["detail"]


def test_cursor_of_another_list_is_422(service: Service) -> None:
    for number in range(2):
        service.call_back(f"type=mo&n={number}")
    refused = service.get("/v1/quarantine?limit=1", key=ADMIN_KEY).json()["next_cursor"]

    assert service.get("/v1/changes", params={"cursor": refused}).status_code == 422


@pytest.mark.parametrize("path", ["/v1/changes", "/v1/changes/stream"])
def test_feed_needs_a_key(service: Service, path: str) -> None:
    assert service.get(path, key=None).status_code == 401
    assert service.get(path, key="another").status_code == 401


def test_wait_answers_at_once_with_what_is_there(service: Service) -> None:
    call_back(service, "a")

    answer = service.get("/v1/changes?wait=60")

    assert ids(answer.json()["items"]) == ["a"]
    assert answer.elapsed.total_seconds() < 1


@pytest.mark.parametrize("cursor", [None, "now"])
def test_wait_answers_at_the_commit(service: Service, cursor: str | None) -> None:
    parameters = {"wait": "30"} if cursor is None else {"wait": "30", "cursor": cursor}
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(changes, service, **parameters)
        until(lambda: service.metric("dlr_waiting") == 1)
        call_back(service, "a")
        page = waiting.result(5)

    assert ids(page["items"]) == ["a"]
    assert changes(service, cursor=page["next_cursor"])["items"] == []


def test_wait_ends_with_a_cursor_that_goes_on(service: Service) -> None:
    call_back(service, "a")
    page = changes(service, cursor="now", wait=0.2)
    assert page["items"] == []
    call_back(service, "b")

    assert ids(changes(service, cursor=page["next_cursor"])["items"]) == ["b"]


def test_those_who_wait_from_different_places_each_get_their_own(service: Service) -> None:
    """One look serves all of them: each gets the part after its own cursor."""
    cursors = [changes(service, cursor="now")["next_cursor"] for _ in range(3)]
    far_on = end_of(service)
    with ThreadPoolExecutor(4) as threads:
        waiting = [
            threads.submit(changes, service, cursor=cursor, wait=30, limit=limit)
            for cursor, limit in zip([*cursors, far_on], (1, 2, 3, 1000), strict=True)
        ]
        until(lambda: service.metric("dlr_waiting") == 4)
        record(service.database_url, ["a", "b", "c", "d"])
        call_back(service, "e")
        pages = [one.result(5)["items"] for one in waiting]

    assert [len(page) for page in pages[:3]] == [1, 2, 3]
    assert all(ids(page) == ["a", "b", "c", "d", "e"][: len(page)] for page in pages)


def test_now_is_behind_the_last_change_and_not_ahead_of_it(service: Service) -> None:
    # A position ahead of all changes would be ahead of the first ones of a restored database.
    for number in range(3):
        service.call_back(a_report(messageid=f"m-{number}"))
    last = changes(service, limit=1000)["next_cursor"]

    assert changes(service, cursor="now") == {"items": [], "next_cursor": last}
