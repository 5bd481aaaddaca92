"""PUT /v1/messages/{messageid}: messages sent elsewhere, before their reports come or after."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.service import ADMIN_KEY, READ_KEY, SAMPLE, Service, a_report
from tests.times import YESTERDAY, written

ID = SAMPLE["messageid"]
SENT_AT = written(YESTERDAY)


def test_a_registered_message_is_pending_until_a_report_comes(service: Service) -> None:
    answer = service.register(
        ID, to=["+6588888888", "006588888889"], reference="order 17", submitted_at=SENT_AT
    )

    assert answer.status_code == 200, answer.text
    assert answer.json() == service.message(ID)
    assert answer.json() == {
        "messageid": ID,
        "state": "pending",
        "final": False,
        "deliveries": [
            {
                "messageid": ID,
                "to": to,
                "state": "pending",
                "final": False,
                "reason": None,
                "retryable": False,
                "conflicting": False,
                "status": None,
                "statuscode": None,
                "errcode": None,
                "network": None,
                "first_received_at": None,
                "last_received_at": None,
                "submitted_at": SENT_AT,
                "reference": "order 17",
                "price": None,
                "parts": None,
            }
            for to in ("6588888888", "6588888889")
        ],
    }
    assert service.reports(ID) == []

    service.call_back(a_report())

    message = service.message(ID)
    assert [delivery["state"] for delivery in message["deliveries"]] == ["delivered", "pending"]
    assert (message["state"], message["final"]) == ("mixed", False)
    assert message["deliveries"][0]["reference"] == "order 17"
    assert message["deliveries"][0]["submitted_at"] == SENT_AT


@pytest.mark.parametrize("statuscode", ["delivered", "accepted", "failed"])
def test_a_report_that_came_first_stays(service: Service, statuscode: str) -> None:
    service.call_back(a_report(statuscode=statuscode))
    before = service.delivery()

    service.register(ID, to=["6588888888"], reference="order 17", submitted_at=SENT_AT)

    assert service.delivery() == {
        **before,
        "reference": "order 17",
        "submitted_at": SENT_AT,
    }


@pytest.mark.parametrize("order", list(itertools.permutations("rad")), ids="".join)
def test_every_order_of_registration_and_reports_is_the_same(
    service: Service, order: tuple[str, ...]
) -> None:
    for step in order:
        if step == "r":
            service.register(ID, to=["6588888888"], reference="x", submitted_at=SENT_AT)
        else:
            service.call_back(a_report(statuscode="accepted" if step == "a" else "delivered"))

    delivery = service.delivery()

    assert (delivery["state"], delivery["reference"]) == ("delivered", "x")
    assert len(service.reports()) == 2


def test_the_same_call_again_changes_nothing(service: Service) -> None:
    first = service.register(ID, to=["6588888888"], reference="order 17")

    again = service.register(ID, to=["6588888888"], reference="order 17")

    assert again.json() == first.json()
    assert first.json()["deliveries"][0]["submitted_at"] is not None


def test_another_call_replaces_what_it_gives_and_adds_recipients(service: Service) -> None:
    service.register(ID, to=["6588888881"], reference="order 17", submitted_at=SENT_AT)

    service.register(ID, to=["6588888882", "6588888881"], reference="order 18")

    one, two = service.message(ID)["deliveries"]
    assert (one["reference"], two["reference"]) == ("order 18", "order 18")
    assert one["submitted_at"] == SENT_AT
    assert two["submitted_at"] > one["submitted_at"]


def test_a_registered_message_is_found_by_its_reference(service: Service) -> None:
    service.register("m-1", to=["6588888881", "6588888882"], reference="order 17")
    service.register("m-2", to=["6588888881"], reference="order 18")
    service.call_back(a_report(messageid="m-1", to="6588888882"))

    found = service.get("/v1/deliveries?reference=order+17").json()["items"]

    # Deliveries without a report come last.
    assert [(item["to"], item["state"]) for item in found] == [
        ("6588888882", "delivered"),
        ("6588888881", "pending"),
    ]


def test_registering_while_reports_come_loses_neither(service: Service) -> None:
    recipients = [f"65888888{number:02}" for number in range(50)]

    def act(number: int) -> int:
        if number % 5 == 0:
            return service.register(ID, to=recipients, reference="order 17").status_code
        return service.call_back(a_report(to=recipients[number % 50])).status_code

    with ThreadPoolExecutor(20) as threads:
        answers = set(threads.map(act, range(200)))

    assert answers == {200}
    deliveries = service.message(ID)["deliveries"]
    assert [delivery["to"] for delivery in deliveries] == recipients
    assert {delivery["reference"] for delivery in deliveries} == {"order 17"}
    for number, delivery in enumerate(deliveries):
        assert delivery["state"] == ("pending" if number % 5 == 0 else "delivered")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "to"),
        ({"to": []}, "to"),
        ({"to": "6588888888"}, "to"),
        ({"to": [f"65888888{number:02}" for number in range(51)]}, "to"),
        ({"to": ["6588888888", "+6588888888"]}, "to"),
        ({"to": ["6588888888", "12"]}, "to.1"),
        ({"to": ["6588888888"], "reference": "nul\0"}, "reference"),
        ({"to": ["6588888888"], "reference": ""}, "reference"),
        ({"to": ["6588888888"], "reference": "x" * 256}, "reference"),
        ({"to": ["6588888888"], "submitted_at": "yesterday"}, "submitted_at"),
        ({"to": ["6588888888"], "submitted_at": 1790000000}, "submitted_at"),
        ({"to": ["6588888888"], "submitted_at": "0001-01-01T00:00:00+14:00"}, "submitted_at"),
        ({"to": ["6588888888"], "submitted_at": "9999-12-31T23:59:59-14:00"}, "submitted_at"),
        ({"to": ["6588888888"], "submitted_at": "1969-12-31T23:59:59Z"}, "submitted_at"),
        ({"to": ["6588888888"], "text": "hello"}, "text"),
    ],
)
def test_a_malformed_body_is_refused_by_name(
    service: Service, body: dict[str, Any], field: str
) -> None:
    answer = service.register("malformed", **body)

    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert service.get("/v1/messages/malformed").status_code == 404


@pytest.mark.parametrize(("key", "status"), [(None, 401), (READ_KEY, 403), (ADMIN_KEY, 200)])
def test_registering_needs_the_role_send(service: Service, key: str | None, status: int) -> None:
    assert service.register("roles", key=key, to=["6588888888"]).status_code == status


def test_an_id_with_reserved_characters_is_registered_to_the_letter(service: Service) -> None:
    service.register("a/b?c%2F", to=["6588888888"])

    assert service.message("a/b?c%2F")["messageid"] == "a/b?c%2F"
