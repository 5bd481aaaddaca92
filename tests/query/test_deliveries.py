"""GET /v1/deliveries: filters, and pages that neither skip nor repeat."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import text

from app.store.engine import open_database
from tests.plans import plans_of, reads_a_whole_table, statements_on
from tests.service import Service, a_report


def list_of(service: Service, **filters: object) -> Any:
    answer = service.get(f"/v1/deliveries?{urlencode(filters)}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(page: Any) -> list[str]:
    return [delivery["messageid"] for delivery in page["items"]]


def all_pages(service: Service, **filters: object) -> Iterator[Any]:
    cursor: dict[str, object] = {}
    while True:
        page = list_of(service, **filters, **cursor)
        yield page
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


REPORTS: tuple[dict[str, Any], ...] = (
    {"messageid": "m-0", "to": "6588888881"},
    {"messageid": "m-1", "to": "6588888882", "network": "52501"},
    {"messageid": "m-2", "to": "6588888881", "status": 404, "statuscode": "Unroutable"},
    {"messageid": "m-3", "to": "6588888883", "status": 402, "statuscode": "failed", "errcode": "7"},
    {"messageid": "m-4", "to": "6588888884", "statuscode": "accepted", "network": None},
)


@pytest.fixture
def reported(service: Service) -> Service:
    for report in REPORTS:
        assert service.call_back(a_report(**report)).status_code == 200
    return service


def test_deliveries_are_listed_latest_first(reported: Service) -> None:
    page = list_of(reported)

    assert ids(page) == ["m-4", "m-3", "m-2", "m-1", "m-0"]
    assert page["next_cursor"] is None
    assert page["items"][4] == reported.delivery("m-0")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"to": "6588888881"}, ["m-2", "m-0"]),
        ({"to": "+6588888881"}, ["m-2", "m-0"]),
        ({"to": "006588888881"}, ["m-2", "m-0"]),
        ({"state": "delivered"}, ["m-1", "m-0"]),
        ({"state": "rejected"}, ["m-3"]),
        ({"state": "expired"}, []),
        ({"reason": "unroutable"}, ["m-2"]),
        ({"network": "52501"}, ["m-1"]),
        ({"errcode": "7"}, ["m-3"]),
        ({"errcode": "7", "state": "rejected", "network": "52099"}, ["m-3"]),
        ({"to": "6588888881", "state": "undelivered"}, ["m-2"]),
        ({"reference": "nobody's"}, []),
        ({"network": "'; DROP TABLE deliveries; --"}, []),
    ],
)
def test_each_filter_finds_its_own(
    reported: Service, filters: dict[str, str], expected: list[str]
) -> None:
    assert ids(list_of(reported, **filters)) == expected


def test_since_and_until_are_times_of_the_last_report(reported: Service) -> None:
    times = {item["messageid"]: item["last_received_at"] for item in list_of(reported)["items"]}

    assert ids(list_of(reported, since=times["m-3"])) == ["m-4", "m-3"]
    assert ids(list_of(reported, until=times["m-2"])) == ["m-1", "m-0"]
    assert ids(list_of(reported, since=times["m-1"], until=times["m-3"])) == ["m-2", "m-1"]
    in_bangkok = datetime.fromisoformat(times["m-3"]) + timedelta(hours=7)
    assert ids(list_of(reported, since=f"{in_bangkok:%Y-%m-%dT%H:%M:%S.%f}+07:00")) == [
        "m-4",
        "m-3",
    ]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_neither_skip_nor_repeat_what_does_not_change(service: Service, limit: int) -> None:
    for number in range(7):
        service.call_back(a_report(messageid="m", to=f"658888888{number}"))
    # Equal times, as in a batch of callbacks.
    database = open_database(service.database_url)
    with database.write.begin() as connection:
        connection.execute(text("UPDATE deliveries SET last_received_at = 7"))
    database.close()
    seen = []

    for page in all_pages(service, limit=limit):
        assert len(page["items"]) <= limit
        seen += [delivery["to"] for delivery in page["items"]]
        # New deliveries come first, so they never shift later pages.
        service.call_back(a_report(messageid=f"new-{len(seen)}"))

    assert seen == [f"658888888{number}" for number in reversed(range(7))]


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_messages_without_a_report_come_last(reported: Service, limit: int) -> None:
    for number in range(5):
        assert reported.register(f"sent-{number}", to=["6588888881"]).status_code == 200

    pages = [ids(page) for page in all_pages(reported, limit=limit)]

    of_each = ["m-4", "m-3", "m-2", "m-1", "m-0", *(f"sent-{it}" for it in reversed(range(5)))]
    assert [it for page in pages for it in page] == of_each
    assert all(len(page) == limit for page in pages[:-1])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("state=lost", "state"),
        ("reason=because", "reason"),
        ("to=12", "to"),
        ("to=abc", "to"),
        ("to=", "to"),
        ("network=", "network"),
        ("errcode=%00", "errcode"),
        ("network=" + "x" * 65, "network"),
        ("since=yesterday", "since"),
        ("since=1790000000", "since"),
        ("since=2000-01-31", "since"),
        ("until=2000-01-31T08:00:00", "until"),
        ("until=2000-13-31T08:00:00Z", "until"),
        ("cursor=x", "cursor"),
        ("cursor=WzEsMiwzXQ%3D%3D", "cursor"),
        ("nonsense=1", "nonsense"),
        ("limit=1&limit=2", "limit"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(service: Service, query: str, field: str) -> None:
    answer = service.get(f"/v1/deliveries?{query}")

    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_a_cursor_of_another_list_is_refused(reported: Service) -> None:
    of_list = list_of(reported, limit=1)["next_cursor"]
    of_feed = reported.get("/v1/changes?limit=1").json()["next_cursor"]

    for path in (f"changes?cursor={of_list}", f"deliveries?cursor={of_feed}"):
        answer = reported.get(f"/v1/{path}")

        assert answer.status_code == 422, path
        (error,) = answer.json()["errors"]
        assert error == {"field": "cursor", "message": "not a cursor of this list"}


def test_a_plus_that_was_not_escaped_is_understood(reported: Service) -> None:
    assert reported.get("/v1/deliveries?to=+6588888884").json()["items"][0]["messageid"] == "m-4"
    since = "2000-01-01T00:00:00+00:00"
    assert len(reported.get(f"/v1/deliveries?since={since}").json()["items"]) == 5


def test_the_list_needs_a_key(service: Service) -> None:
    assert service.get("/v1/deliveries", key=None).status_code == 401


def sorts_the_table(plan: str) -> bool:
    """True if the plan sorts rows of the table. A page, and ties in an index, may be sorted."""
    on_postgresql = re.findall(r"(?<!Incremental )Sort  \(.*\n(?:.*: .*\n)*(.*)", plan)
    on_sqlite = re.findall(r"(.*)\nUSE TEMP B-TREE FOR ORDER BY", plan)
    return any("Limit  (" not in child for child in on_postgresql) or any(
        " deliveries " in source for source in on_sqlite
    )


def test_every_query_of_the_api_goes_by_an_index(reported: Service) -> None:
    a_time, later = "2000-01-31T08:00:00Z", "2000-02-01T08:00:00Z"
    with statements_on(reported.app.parts.database.read) as statements:
        for path in (
            "messages/m-1",
            "messages/m-1/reports",
            "deliveries",
            f"deliveries?since={a_time}",
            f"deliveries?until={a_time}",
            f"deliveries?cursor={list_of(reported, limit=1)['next_cursor']}",
            "deliveries?to=6588888881",
            f"deliveries?to=6588888881&state=delivered&since={a_time}",
            "deliveries?to=6588888881&network=52099&errcode=1",
            "deliveries?to=6588888881&state=rejected",
            f"deliveries?to=6588888881&reason=unroutable&since={a_time}",
            "deliveries?reference=order+17&network=52099",
            "deliveries?state=delivered",
            "deliveries?state=expired",
            "deliveries?reason=unroutable",
            "deliveries?reason=unroutable&network=52099",
            f"deliveries?reason=unroutable&network=52099&since={a_time}&until={later}",
            "deliveries?network=52099",
            "deliveries?errcode=1",
            "deliveries?reference=order+17",
        ):
            assert reported.get(f"/v1/{path}").status_code == 200, path

    # The page for the cursor is one of them, and twice there is room for those without a report.
    assert len(statements) == 23
    for statement, plan in plans_of(reported.database_url, statements):
        assert "INDEX" in plan.upper(), statement + plan
        for one in ("recipient", "reference"):
            if f"deliveries.{one} = " in statement:  # few rows, whatever the other filters
                assert f"ix_deliveries_{one}" in plan, statement + plan
        assert ("never_reported" in plan) == ("last_received_at = 0" in statement), statement + plan
        if "deliveries.mcc_mnc = " in statement and "deliveries.reason = " in statement:
            assert "ix_deliveries_mcc_mnc_reason" in plan, statement + plan
        # A number may have a million, and few failures. Without statistics PostgreSQL can't tell.
        if "deliveries.recipient = " in statement and "state <> 'delivered'" in statement:
            is_sqlite = reported.database_url.drivername == "sqlite"
            assert not is_sqlite or "recipient_not_delivered" in plan, statement + plan
        assert not reads_a_whole_table(plan), statement + plan
        if "LIMIT" in statement:
            assert not sorts_the_table(plan), statement + plan


def test_more_lists_at_once_than_there_are_connections_are_all_answered(
    reported: Service,
) -> None:
    # More than there are threads, too: a request that waits for one must not hold the other.
    with ThreadPoolExecutor(120) as threads:
        answers = list(threads.map(lambda _: reported.get("/v1/deliveries"), range(240)))

    assert {answer.status_code for answer in answers} == {200}
