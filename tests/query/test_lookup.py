"""POST /v1/messages/lookup: up to 1,000 messages at once, in the order asked."""

from typing import Any

import pytest

from tests.service import READ_KEY, Service, a_report


def look_up(service: Service, body: Any, key: str | None = READ_KEY) -> Any:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return service.http.post("/v1/messages/lookup", json=body, headers=headers)


def test_known_and_unknown_messages_come_in_the_order_asked(service: Service) -> None:
    for message_id in ("b", "a", "c/%2F?"):
        service.call_back(a_report(messageid=message_id))
    service.call_back(a_report(messageid="a", to="6588888889", status=404))

    answer = look_up(service, {"messageids": ["x", "c/%2F?", "a", "b", "y", "a"]})

    assert answer.status_code == 200
    found = answer.json()
    assert [message["messageid"] for message in found["messages"]] == ["c/%2F?", "a", "b"]
    assert found["not_found"] == ["x", "y"]
    assert found["messages"][1] == service.message("a")
    assert [delivery["to"] for delivery in found["messages"][1]["deliveries"]] == [
        "6588888888",
        "6588888889",
    ]


def test_a_thousand_messages_are_looked_up_at_once(service: Service) -> None:
    for number in range(20):
        service.call_back(a_report(messageid=f"m-{number}"))

    found = look_up(service, {"messageids": [f"m-{number}" for number in range(1000)]}).json()

    assert len(found["messages"]) == 20
    assert len(found["not_found"]) == 980


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "messageids"),
        ({"messageids": []}, "messageids"),
        ({"messageids": ["m"] * 1001}, "messageids"),
        ({"messageids": ["a space"]}, "messageids.0"),
        ({"messageids": ["nul\0"]}, "messageids.0"),
        ({"messageids": ["m" * 129]}, "messageids.0"),
        ({"messageids": "m"}, "messageids"),
        ({"messageids": ["m"], "more": 1}, "more"),
    ],
)
def test_a_malformed_body_is_refused_by_name(
    service: Service, body: dict[str, Any], field: str
) -> None:
    answer = look_up(service, body)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_request"
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_a_body_that_is_no_json_is_refused(service: Service) -> None:
    answer = service.http.post(
        "/v1/messages/lookup",
        content=b"{",
        headers={"Authorization": f"Bearer {READ_KEY}", "Content-Type": "application/json"},
    )

    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"


def test_looking_up_needs_a_key(service: Service) -> None:
    assert look_up(service, {"messageids": ["m"]}, key=None).status_code == 401


def test_the_path_is_also_the_id_of_a_message(service: Service) -> None:
    service.call_back(a_report(messageid="lookup"))

    assert service.message("lookup")["messageid"] == "lookup"
