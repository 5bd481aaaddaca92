"""A sent message without a final report expires; a late report takes over."""

from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import URL, text

from app.store.engine import open_database
from tests.feed import wait_until_settled
from tests.process import until
from tests.service import SAMPLE, Service, a_report, running_service
from tests.times import HOUR, ago, written

ID = SAMPLE["messageid"]
TO = SAMPLE["to"]


def total_expired(*services: Service) -> float:
    return sum(service.metric("dlr_expired_total") for service in services)


def states(service: Service, **filters: str) -> Any:
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    return {
        item["to"]: item["state"] for item in service.get(f"/v1/deliveries?{query}").json()["items"]
    }


def test_sent_messages_without_a_final_report_in_time_expire(database_url: URL) -> None:
    with running_service(database_url, report_timeout_hours=0) as service:
        service.register(
            "old",
            to=["6588888881", "6588888882", "6588888883"],
            submitted_at=written(ago(hours=73)),
        )
        service.register("young", to=["6588888884"], submitted_at=written(ago(hours=71)))
        service.call_back(a_report(messageid="old", to="6588888882"))
        service.call_back(a_report(messageid="old", to="6588888883", statuscode="accepted"))
        wait_until_settled(database_url)
        end = service.get("/v1/changes?cursor=now").json()["next_cursor"]

    with running_service(database_url) as service:
        until(lambda: total_expired(service) == 2)

        old = service.message("old")
        assert [it["state"] for it in old["deliveries"]] == ["expired", "delivered", "expired"]
        assert old["final"]
        assert service.message("young")["state"] == "pending"
        wait_until_settled(database_url)
        changed = service.get(f"/v1/changes?cursor={end}").json()["items"]
        assert {(item["to"], item["state"]) for item in changed} == {
            ("6588888881", "expired"),
            ("6588888883", "expired"),
        }
        totals = service.get("/v1/stats").json()["totals"]
        assert totals["by_state"]["expired"] == 2
        assert totals["delivery_rate"] == pytest.approx(1 / 3)
        assert states(service, state="expired").keys() == {"6588888881", "6588888883"}


@pytest.mark.parametrize(
    ("late", "state"),
    [
        ({"status": 0}, "delivered"),
        ({"status": 404, "statuscode": "Unroutable"}, "undelivered"),
        ({"statuscode": "accepted"}, "expired"),
        ({"statuscode": "failed"}, "expired"),
    ],
    ids=str,
)
def test_a_late_final_report_takes_over(
    database_url: URL, late: dict[str, Any], state: str
) -> None:
    with running_service(database_url) as service:
        service.register(ID, to=[TO], submitted_at=written(ago(hours=100)))
    with running_service(database_url) as service:
        until(lambda: service.delivery()["state"] == "expired")
        assert service.delivery()["first_received_at"] is None

        service.call_back(a_report(**late))

        delivery = service.delivery()
        assert delivery["state"] == state
        assert not delivery["conflicting"]
        assert delivery["first_received_at"] is not None


def test_a_message_accepted_long_ago_expires_though_nobody_registered_it(
    database_url: URL,
) -> None:
    with running_service(database_url, report_timeout_hours=0) as service:
        service.call_back(a_report(statuscode="accepted"))
        database = open_database(service.database_url)
        with database.write.begin() as connection:
            connection.execute(
                text("UPDATE deliveries SET first_received_at = first_received_at - :hours"),
                {"hours": 73 * HOUR},
            )
        database.close()

    with running_service(database_url) as service:
        until(lambda: service.delivery()["state"] == "expired")


def test_several_replicas_expire_nothing_twice(database_url: URL) -> None:
    replicas = 1 if database_url.get_backend_name() == "sqlite" else 3
    with running_service(database_url, report_timeout_hours=0) as service:
        for number in range(40):
            recipients = [f"65888888{one:02}" for one in range(50)]
            service.register(f"m-{number}", to=recipients, submitted_at=written(ago(hours=100)))

    with ExitStack() as opened:
        services = [opened.enter_context(running_service(database_url)) for _ in range(replicas)]
        # A busy server may end a statement late, and the next sweep comes half a minute later.
        until(
            lambda: services[0].get("/v1/stats").json()["totals"]["by_state"]["expired"] == 2000, 60
        )
        until(lambda: total_expired(*services) >= 2000)

        assert total_expired(*services) == 2000
