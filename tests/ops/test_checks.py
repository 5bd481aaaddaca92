"""Test reports of `paasoo-dlr check`: taken as any other, and then nothing is left of them."""

import pytest
from sqlalchemy import URL, func, select

from app.ops import upkeep
from app.reports import CHECK_PREFIX, TEST_NUMBER
from app.store import checks
from app.store.tables import deliveries, reports
from tests.process import until
from tests.service import Service, a_report, running_service

CHECK = f"{CHECK_PREFIX}0123456789abcdef"


def a_check(**changes: object) -> str:
    return a_report(**{"messageid": CHECK, "to": TEST_NUMBER, **changes})


def is_known(service: Service, message_id: str) -> bool:
    return service.get(f"/v1/messages/{message_id}").status_code == 200


def test_a_check_is_found_and_then_removed_with_all_its_traces(
    database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "CHECKS_INTERVAL_S", 0.05)
    monkeypatch.setattr(checks, "KEPT_S", 0.5)
    with running_service(database_url) as service:
        for status in ("0", "404"):
            assert service.call_back(a_check(status=status, statuscode=None)).status_code == 200
        was_found = is_known(service, CHECK)
        until(lambda: not is_known(service, CHECK))

        assert was_found
        assert service.get("/v1/deliveries").json()["items"] == []
        assert service.get("/v1/changes").json()["items"] == []
        assert service.get("/v1/stats?group_by=state").json()["totals"]["total"] == 0
        with service.app.parts.database.read.connect() as connection:
            left = [
                connection.scalar(select(func.count()).select_from(table))
                for table in (deliveries, reports)
            ]
        assert left == [0, 0]


def test_only_checks_are_removed(database_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "CHECKS_INTERVAL_S", 0.05)
    monkeypatch.setattr(checks, "KEPT_S", 0)
    others = [
        a_check(to="6588888888"),
        a_check(messageid=CHECK_PREFIX[:-1]),
        a_check(messageid=f"{CHECK_PREFIX[:-1]}.1"),
        a_check(messageid=f"x{CHECK}"),
        a_check(messageid=CHECK.upper()),
    ]
    with running_service(database_url) as service:
        for query in others:
            service.call_back(query)
        service.call_back(a_check(messageid=f"{CHECK}-2"))
        until(lambda: not is_known(service, f"{CHECK}-2"))

        assert len(service.get("/v1/deliveries").json()["items"]) == len(others)
        assert len(service.get("/v1/changes").json()["items"]) == len(others)


def test_a_check_of_a_clock_that_was_ahead_is_removed_too(
    database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "CHECKS_INTERVAL_S", 0.05)
    with running_service(database_url) as service:
        monkeypatch.setattr(upkeep, "_now", lambda: 1)
        assert service.call_back(a_check()).status_code == 200

        until(lambda: not is_known(service, CHECK))


def test_readers_of_the_feed_hear_nothing_of_a_check(service: Service) -> None:
    service.call_back(a_report(messageid="before"))
    cursor = service.get("/v1/changes").json()["next_cursor"]
    service.call_back(a_check())
    nothing = service.get("/v1/changes", params={"cursor": cursor, "wait": 0.3}).json()
    service.call_back(a_report(messageid="after"))
    page = service.get("/v1/changes", params={"cursor": nothing["next_cursor"], "wait": 10}).json()

    assert nothing == {"items": [], "next_cursor": cursor}
    assert [item["messageid"] for item in page["items"]] == ["after"]
