"""The quarantine: what was refused is kept, counted, paged through, and bounded."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import URL

from tests.service import ADMIN_KEY, READ_KEY, Service, a_report, running_service

MAX_ROWS = 5


@pytest.fixture
def small_service(database_url: URL) -> Iterator[Service]:
    """One whose quarantine keeps few rows."""
    with running_service(database_url, quarantine_max_rows=MAX_ROWS) as running:
        yield running


def refused(service: Service, number: int) -> str:
    """Have a callback refused; its query, which `number` makes different from others."""
    query = a_report(type="mo", messageid=f"r-{number}")
    assert service.call_back(query).status_code == 400
    return query


def page(service: Service, **parameters: object) -> Any:
    answer = service.get("/v1/quarantine", key=ADMIN_KEY, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_empty_quarantine_is_an_empty_page(service: Service) -> None:
    service.call_back(a_report())

    assert page(service) == {"items": [], "next_cursor": None}


def test_refused_callback_is_kept_with_every_field(service: Service) -> None:
    query = a_report(to="someone")
    answer = service.call_back(query).json()

    (row,) = page(service)["items"]

    assert isinstance(row.pop("id"), str)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", row["received_at"])
    assert row.pop("received_at") == row.pop("last_received_at")
    assert row == {
        "times_received": 1,
        "code": "invalid_parameter",
        "detail": answer["detail"],
        "query": query,
    }


def test_repeats_of_one_query_collapse_and_others_do_not(service: Service) -> None:
    for query in ("type=mo", "type=mo", "type=mo&", "type=mo"):
        service.call_back(query)

    rows = {row["query"]: row for row in page(service)["items"]}

    assert {query: row["times_received"] for query, row in rows.items()} == {
        "type=mo": 3,
        "type=mo&": 1,
    }
    repeated = rows["type=mo"]
    assert repeated["received_at"] < repeated["last_received_at"]
    assert len({row["id"] for row in rows.values()}) == 2


def test_paging_neither_skips_nor_repeats(service: Service) -> None:
    queries = [refused(service, number) for number in range(7)]

    for limit in (1, 2, 3, 6, 7, 8):
        found, parameters = [], {"limit": str(limit)}
        while True:
            answer = page(service, **parameters)
            assert len(answer["items"]) <= limit
            found += [row["query"] for row in answer["items"]]
            if answer["next_cursor"] is None:
                break
            parameters["cursor"] = answer["next_cursor"]

        assert found == queries[::-1], limit  # latest first


def test_paging_is_not_disturbed_by_what_comes_or_repeats_meanwhile(service: Service) -> None:
    queries = [refused(service, number) for number in range(6)]

    first = page(service, limit=3)
    refused(service, 100)  # new
    refused(service, 0)  # on the next page, again
    refused(service, 5)  # on this page, again
    second = page(service, limit=3, cursor=first["next_cursor"])

    assert [row["query"] for row in first["items"] + second["items"]] == queries[::-1]
    assert second["next_cursor"] is None


def test_hundred_rows_a_page_unless_asked_otherwise(service: Service) -> None:
    for number in range(101):
        refused(service, number)

    assert len(page(service)["items"]) == 100
    assert len(page(service, limit=1000)["items"]) == 101


MALFORMED = [
    *("limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limit=1&limit=2", "limit=1.5"),
    *("limit=" + "9" * 4000, "cursor=x", "cursor=%00", "cursor=%ff", "cursor=" + "A" * 4000),
    *("cursor=MTp6", "cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTph", "offset=1"),
]


def test_malformed_request_is_422_and_names_the_field(service: Service) -> None:
    for parameters in MALFORMED:
        answer = service.get(f"/v1/quarantine?{parameters}", key=ADMIN_KEY)

        assert answer.status_code == 422, parameters
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "invalid_request"
        assert parameters.partition("=")[0] in answer.json()["detail"]


def test_quarantine_is_for_administrators(service: Service) -> None:
    assert service.get("/v1/quarantine", key=READ_KEY).status_code == 403
    assert service.get("/v1/quarantine", key=None).status_code == 401


def test_oldest_rows_go_first_and_are_counted(small_service: Service) -> None:
    queries = [refused(small_service, number) for number in range(MAX_ROWS)]
    assert small_service.metric("dlr_quarantine_dropped_total") == 0

    queries += [refused(small_service, number) for number in range(MAX_ROWS, MAX_ROWS + 3)]

    assert [row["query"] for row in page(small_service)["items"]] == queries[:-6:-1]
    assert small_service.metric("dlr_quarantine_dropped_total") == 3


def test_repeats_push_nothing_out(small_service: Service) -> None:
    queries = [refused(small_service, number) for number in range(MAX_ROWS)]

    for _ in range(3):
        refused(small_service, MAX_ROWS - 1)

    assert [row["query"] for row in page(small_service)["items"]] == queries[::-1]
    assert small_service.metric("dlr_quarantine_dropped_total") == 0


def test_refusals_are_counted_by_code_repeats_included(service: Service) -> None:
    for query in ("", "", "type=mo"):
        service.call_back(query)

    assert service.metric('dlr_quarantined_total{code="missing_parameter"}') == 2
    assert service.metric('dlr_quarantined_total{code="unsupported_type"}') == 1
