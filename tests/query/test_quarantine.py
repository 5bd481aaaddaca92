"""The quarantine: refused callbacks are kept, counted, paged through, and bounded."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import URL, text

from app.reports import Refusal
from app.store import quarantine
from tests.service import ADMIN_KEY, READ_KEY, Service, a_report, running_service
from tests.times import YESTERDAY, written

MAX_ROWS = 5


@pytest.fixture
def small_service(database_url: URL) -> Iterator[Service]:
    """A service whose quarantine keeps few rows."""
    with running_service(database_url, quarantine_max_rows=MAX_ROWS) as running:
        yield running


def refused(service: Service, number: int) -> str:
    """Have a callback refused, and return its query; each `number` gives another."""
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


def test_refusals_are_counted_by_code_repeats_included(own_service: Service) -> None:
    for query in ("", "", "type=mo"):
        own_service.call_back(query)

    assert own_service.metric('dlr_quarantined_total{code="missing_parameter"}') == 2
    assert own_service.metric('dlr_quarantined_total{code="unsupported_type"}') == 1


def put_in(service: Service, *queries: str, at: int = YESTERDAY) -> None:
    """Put queries into the quarantine as if another version's rules had refused them."""
    refusals = [
        Refusal(query, "invalid_parameter", "it was not known then", at) for query in queries
    ]
    with service.app.parts.database.write.begin() as connection:
        quarantine.keep(connection, refusals, max_rows=10_000)


def replay(service: Service, **body: object) -> Any:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    answer = service.http.post("/v1/quarantine/replay", headers=headers, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def remove(service: Service, row_id: str, key: str = ADMIN_KEY) -> Any:
    return service.http.delete(
        f"/v1/quarantine/{row_id}", headers={"Authorization": f"Bearer {key}"}
    )


def test_replay_stores_what_is_valid_now_with_its_times(service: Service) -> None:
    put_in(service, a_report())
    put_in(service, a_report(), at=YESTERDAY + 7)
    put_in(service, a_report(), at=YESTERDAY + 9)

    assert replay(service) == {"replayed": 1, "still_rejected": 0}

    assert page(service)["items"] == []
    (report,) = service.reports()
    assert report["received_at"] == written(YESTERDAY)
    assert report["last_received_at"] == written(YESTERDAY + 9)
    assert report["times_received"] == 3
    assert report["source"] == "replay"
    assert report["query"] == a_report()
    assert service.delivery()["first_received_at"] == written(YESTERDAY)
    assert service.delivery()["state"] == "delivered"


def test_replay_leaves_what_is_still_refused(service: Service) -> None:
    still = refused(service, 1)
    put_in(service, a_report())
    before = {row["query"]: row for row in page(service)["items"]}

    assert replay(service) == {"replayed": 1, "still_rejected": 1}
    assert replay(service) == {"replayed": 0, "still_rejected": 1}

    assert page(service)["items"] == [before[still]]


def test_replay_of_an_old_report_does_not_undo_a_later_status(service: Service) -> None:
    service.call_back(a_report())
    put_in(service, a_report(status=404, statuscode="Unroutable"))

    replay(service)

    assert service.delivery()["state"] == "delivered"
    assert service.delivery()["conflicting"]
    assert len(service.reports()) == 2


def test_replay_of_chosen_rows_leaves_the_others(service: Service) -> None:
    put_in(service, *(a_report(messageid=f"m-{number}") for number in range(3)))
    chosen, *others = page(service)["items"]

    assert replay(service, ids=[chosen["id"], "0" * 32]) == {"replayed": 1, "still_rejected": 0}
    assert replay(service, ids=[chosen["id"]]) == {"replayed": 0, "still_rejected": 0}
    assert replay(service, ids=[]) == {"replayed": 0, "still_rejected": 0}

    assert page(service)["items"] == others


def test_replay_of_more_than_a_batch_looks_at_every_row_once(service: Service) -> None:
    put_in(
        service,
        *(a_report(messageid=f"m-{number}", to=f"6588{number:06}") for number in range(250)),
    )
    put_in(service, *(a_report(messageid=f"r-{number}", type="mo") for number in range(150)))

    assert replay(service) == {"replayed": 250, "still_rejected": 150}

    assert len(page(service, limit=1000)["items"]) == 150


def test_a_row_that_only_the_database_refuses_costs_the_others_nothing(
    own_service: Service,
) -> None:
    refuse_recipient = {
        "sqlite": """CREATE TRIGGER refuse BEFORE INSERT ON deliveries
            WHEN new.recipient = '6500000000' BEGIN SELECT RAISE(ABORT, 'no'); END""",
        "postgresql": "ALTER TABLE deliveries ADD CHECK (recipient <> '6500000000')",
    }
    database = own_service.app.parts.database.write
    with database.begin() as connection:
        connection.execute(text(refuse_recipient[connection.dialect.name]))
    put_in(own_service, *(a_report(messageid=f"m-{number}") for number in range(6)))
    put_in(own_service, a_report(to="6500000000"))

    assert replay(own_service) == {"replayed": 6, "still_rejected": 1}

    (row,) = page(own_service)["items"]
    assert row["query"] == a_report(to="6500000000")
    assert own_service.delivery("m-3")["state"] == "delivered"


@pytest.mark.parametrize(
    "body", ['{"ids": null}', '{"ids": "all"}', '{"ids": ["x y"]}', '{"all": true}', "[]", "", "{"]
)
def test_malformed_replay_is_422(service: Service, body: str) -> None:
    put_in(service, a_report())

    answer = service.http.post(
        "/v1/quarantine/replay",
        headers={"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"},
        content=body,
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert len(page(service)["items"]) == 1


def test_deleted_is_gone_and_a_second_time_not_found(service: Service) -> None:
    kept = refused(service, 1)
    refused(service, 2)
    row_id = page(service)["items"][0]["id"]

    first, second = remove(service, row_id), remove(service, row_id)

    assert (first.status_code, first.content) == (204, b"")
    assert second.status_code == 404
    assert second.headers["content-type"] == "application/problem+json"
    assert second.json()["code"] == "refused_callback_not_found"
    assert remove(service, "%00").status_code == 404
    assert [row["query"] for row in page(service)["items"]] == [kept]


def test_only_administrators_change_the_quarantine(service: Service) -> None:
    refused(service, 1)
    (row,) = page(service)["items"]

    answer = service.http.post(
        "/v1/quarantine/replay", headers={"Authorization": f"Bearer {READ_KEY}"}, json={}
    )

    assert answer.status_code == 403
    assert remove(service, row["id"], key=READ_KEY).status_code == 403
    assert page(service)["items"] == [row]


def test_callbacks_are_taken_while_a_replay_runs(service: Service) -> None:
    put_in(service, *(a_report(messageid=f"m-{number}") for number in range(1500)))
    with ThreadPoolExecutor(1) as threads:
        replaying = threads.submit(replay, service)
        statuses = set()
        number = 0
        while not replaying.done():
            number += 1
            statuses.add(service.call_back(a_report(messageid=f"n-{number}")).status_code)

    assert replaying.result() == {"replayed": 1500, "still_rejected": 0}
    assert statuses == {200}
