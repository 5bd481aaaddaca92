"""Statistics: the counts, their groups, and their spans of time."""

from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import URL, insert

from app.query import stats as stats_endpoint
from app.reports import State
from app.store import write
from app.store.tables import deliveries
from tests.service import Service, a_report, running_service
from tests.store.test_fold import understood
from tests.store.test_stats import registered
from tests.times import DAY, HOUR, YESTERDAY, begun, written

NOTHING = {state.value: 0 for state in State}


def ask(service: Service, query: str = "") -> Any:
    answer = service.get(f"/v1/stats?{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def record(service: Service, *facts: tuple[dict[str, Any], int]) -> None:
    """Report so many messages, each with its meaning and its time."""
    batch = [
        understood(f"m-{at}-{number}", "6588888888", meaning, at)
        for number, (meaning, at) in enumerate(facts)
    ]
    with service.app.parts.database.write.begin() as connection:
        write.record(connection, batch)


def shown(groups: list[dict[str, Any]], *keys: str) -> list[tuple[Any, ...]]:
    return [(*(group[key] for key in keys), group["total"]) for group in groups]


def test_nothing_is_counted_as_nothing(service: Service) -> None:
    totals = {"total": 0, "by_state": NOTHING, "delivery_rate": None}

    assert ask(service) == {"groups": [], "totals": totals}
    assert ask(service, "group_by=hour") == {"groups": [], "totals": totals}


def test_totals_have_every_state_and_the_rate_of_those_that_are_final(service: Service) -> None:
    meanings: list[dict[str, Any]] = [
        {"status": 0},
        {"status": 0},
        {"status": 404, "statuscode": "Unroutable"},
        {"status": 401, "statuscode": None},
        {"status": 0, "statuscode": "accepted"},
        {"status": 777, "statuscode": None},
    ]
    for number, meaning in enumerate(meanings):
        service.call_back(a_report(messageid=f"m-{number}", **meaning))
    service.call_back(a_report(messageid="m-0"))  # a repeat is not another delivery

    assert ask(service) == {
        "groups": [],
        "totals": {
            "total": 6,
            "by_state": {
                **NOTHING,
                "delivered": 2,
                "undelivered": 1,
                "rejected": 1,
                "accepted": 1,
                "unknown": 1,
            },
            "delivery_rate": 0.5,
        },
    }


def test_rate_is_null_where_nothing_is_final(service: Service) -> None:
    service.call_back(a_report(statuscode="accepted"))

    assert ask(service)["totals"]["delivery_rate"] is None


def test_a_delivery_moves_from_group_to_group_with_its_status(service: Service) -> None:
    for statuscode in ("accepted", "delivered"):
        service.call_back(a_report(statuscode=statuscode))

        (group,) = ask(service, "group_by=state")["groups"]

        assert (group["state"], group["total"]) == (statuscode, 1)


def test_networks_belong_to_countries_by_their_first_three_digits(service: Service) -> None:
    networks = ("52099", "52001", "40410", "40500", "ID-UNKNOWN", "520AIS", "99999", "52", None)
    for number, network in enumerate(networks):
        service.call_back(a_report(messageid=f"m-{number}", network=network))

    by_network = ask(service, "group_by=network")["groups"]
    by_country = ask(service, "group_by=country")["groups"]
    by_both = ask(service, "group_by=country,network")["groups"]

    assert shown(by_network, "network") == [
        (network, 1) for network in [*sorted(filter(None, networks)), None]
    ]
    assert shown(by_country, "country") == [("IN", 2), ("TH", 2), (None, 5)]
    assert shown(by_both, "country", "network")[:4] == [
        ("IN", "40410", 1),
        ("IN", "40500", 1),
        ("TH", "52001", 1),
        ("TH", "52099", 1),
    ]


def test_groups_have_the_keys_asked_for_and_no_other(service: Service) -> None:
    record(service, ({"status": 404, "statuscode": "Unroutable", "network": "52099"}, YESTERDAY))

    (group,) = ask(service, "group_by=day&group_by=hour,reason&group_by=network,country,state")[
        "groups"
    ]
    (by_reason,) = ask(service, "group_by=reason")["groups"]

    figures = {
        "total": 1,
        "by_state": {**NOTHING, "undelivered": 1},
        "delivery_rate": 0.0,
    }
    assert group == {
        "network": "52099",
        "country": "TH",
        "state": "undelivered",
        "reason": "unroutable",
        "hour": begun(YESTERDAY, HOUR),
        "day": begun(YESTERDAY, DAY),
        **figures,
    }
    assert by_reason == {"reason": "unroutable", **figures}


def test_groups_are_in_the_order_of_their_keys_as_they_were_asked_for(service: Service) -> None:
    for hour in (1, 0):
        record(
            service,
            ({"status": 0}, YESTERDAY + hour * HOUR),
            ({"status": 777}, YESTERDAY + hour * HOUR),
        )

    by_hour = ask(service, "group_by=hour,state")["groups"]
    by_state = ask(service, "group_by=state,hour")["groups"]

    first, second = (begun(YESTERDAY + hour * HOUR, HOUR) for hour in (0, 1))
    assert [(group["hour"], group["state"]) for group in by_hour] == [
        *((first, "delivered"), (first, "unknown"), (second, "delivered"), (second, "unknown"))
    ]
    assert [(group["state"], group["hour"]) for group in by_state] == [
        *(("delivered", first), ("delivered", second), ("unknown", first), ("unknown", second))
    ]


def test_a_span_begins_with_since_and_ends_before_until(service: Service) -> None:
    record(service, *(({"status": 0}, YESTERDAY + offset) for offset in (-1, 0, 1, HOUR - 1, HOUR)))

    def total(**span: str) -> int:
        return int(ask(service, urlencode(span))["totals"]["total"])

    start, end = written(YESTERDAY), written(YESTERDAY + HOUR)
    assert total(since=start) == 4
    assert total(until=start) == 1
    assert total(since=start, until=end) == 3
    assert total(since=written(YESTERDAY + 1), until=written(YESTERDAY + HOUR // 2)) == 1
    assert total(since=written(YESTERDAY - 1, hours_east=8), until=start) == 1
    assert total(since=begun(YESTERDAY, HOUR), until=begun(YESTERDAY + HOUR, HOUR)) == 3
    assert total(since=end, until=start) == 0


def test_what_was_sent_and_not_reported_counts_at_the_time_of_sending(service: Service) -> None:
    with service.app.parts.database.write.begin() as connection:
        connection.execute(insert(deliveries).values(registered("sent", YESTERDAY)))
    before = shown(ask(service, "group_by=hour,state")["groups"], "hour", "state")
    span = {"since": written(YESTERDAY), "until": written(YESTERDAY + HOUR // 6)}
    part = ask(service, urlencode(span))["totals"]

    record(service, ({"status": 0}, YESTERDAY + HOUR))
    service.call_back(a_report(messageid="sent"))
    (first_hour_is_gone, *_) = ask(service, "group_by=hour")["groups"]

    assert before == [(begun(YESTERDAY, HOUR), "pending", 1)]
    assert part["by_state"] == {**NOTHING, "pending": 1}
    assert first_hour_is_gone["hour"] == begun(YESTERDAY + HOUR, HOUR)


MALFORMED = [
    *("group_by=planet", "group_by=", "group_by=hour,", "group_by=hour&group_by=planet"),
    *("since=yesterday", "since=", "since=2000-01-31T08:00:00", "until=2000-01-31", "until=0"),
    *("since=2000-02-30T00:00:00Z", "since=%00", "until=2000-01-31T08:00:00Z&until=x", "from=x"),
]


def test_malformed_request_is_422_and_names_the_field(service: Service) -> None:
    for query in MALFORMED:
        answer = service.get(f"/v1/stats?{query}")

        assert answer.status_code == 422, query
        assert answer.json()["code"] == "invalid_request"
        assert query.partition("=")[0] in answer.json()["detail"]
    assert "planet" in service.get("/v1/stats?group_by=planet").json()["detail"]


def test_statistics_need_a_key(service: Service) -> None:
    assert service.get("/v1/stats", key=None).status_code == 401


def test_more_groups_than_one_answer_takes_are_refused(
    database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_endpoint, "MAX_ROWS", 3)
    with running_service(database_url) as service:
        record(service, *(({"status": 0}, YESTERDAY + hour * HOUR) for hour in range(4)))

        refused = service.get("/v1/stats?group_by=hour")
        taken = service.get("/v1/stats?group_by=day")

    assert refused.status_code == 422
    assert "too many groups" in refused.json()["detail"]
    assert taken.status_code == 200
