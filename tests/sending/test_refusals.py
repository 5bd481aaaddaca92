"""Every refusal of both tables: nothing was sent, the key is free, and its problem says so."""

from typing import Any

import pytest
from sqlalchemy import URL

from tests.process import free_port, until
from tests.sending.provider import Provider, accepted, account_at, answered
from tests.service import Service, running_service
from tests.simulator.simulating import account_on, only, send_api

MESSAGE: Any = {"reference": "order 17", "idempotency_key": "a-key"}
# PaaSoo's status: HTTP's, the code, and `Retry-After`.
REFUSALS = {
    # The guide's.
    400: (422, "provider_bad_request", None),
    401: (502, "provider_refused_credentials", None),
    403: (502, "provider_restricted", None),
    404: (502, "provider_refused_address", None),
    # The public pages'.
    2: (422, "provider_bad_request", None),
    4: (502, "provider_refused_credentials", None),
    5: (502, "provider_refused_address", None),
    6: (422, "provider_bad_request", None),
    7: (422, "provider_bad_request", None),
    8: (503, "provider_throttled", "3"),
    9: (502, "provider_restricted", None),
    10: (503, "provider_throttled", "1"),
}


@pytest.mark.parametrize("as_number", [False, True], ids=["text", "number"])
@pytest.mark.parametrize("given", REFUSALS)
def test_a_refusal_sends_nothing_and_leaves_the_key_free(
    sending: Service, kept_provider: Provider, given: int, as_number: bool
) -> None:
    shown = given if as_number else str(given)
    name = repr(shown)
    status, code, retry_after = REFUSALS[given]
    counted = sending.metric(f'dlr_sends_total{{outcome="{code}"}}')
    kept_provider.will_answer(answered({"status": shown, "status_code": "say no"}), accepted())

    refused = sending.send(reference=name, idempotency_key=name)
    found = sending.found_by(name)
    sent = sending.send(reference=name, idempotency_key=name)

    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert refused.headers.get("Retry-After") == retry_after
    assert refused.json()["provider"] == {"status": given, "status_code": "say no"}
    assert "nothing was sent" in refused.json()["detail"]
    assert found == []
    assert sent.status_code == 201
    assert sending.metric(f'dlr_sends_total{{outcome="{code}"}}') == counted + 1


def test_a_system_error_may_have_sent_and_is_never_sent_again(
    database_url: URL, provider: Provider
) -> None:
    provider.will_answer(answered({"status": "11", "status_code": "System error."}))
    with running_service(database_url, **account_at(provider)) as service:
        problem = service.send(**MESSAGE)
        again = service.send(**MESSAGE)
        (found,) = service.found_by("order 17")
        counted = service.metric('dlr_sends_total{outcome="provider_system_error"}')

    assert (problem.status_code, problem.json()["code"]) == (502, "provider_system_error")
    assert problem.json()["provider"] == {"status": 11, "status_code": "System error."}
    assert problem.json()["messageid"] == found["messageid"]
    assert found["messageid"].startswith("outcome-unknown:")
    assert found["state"] == "pending"
    assert (again.content, again.headers["Idempotent-Replayed"]) == (problem.content, "true")
    assert len(provider.asked) == 1
    assert counted == 1


def public_account(port: int, **changes: Any) -> dict[str, Any]:
    return account_on(port, **{"paasoo_from": "My Shop", **changes})


@pytest.mark.parametrize(
    ("options", "changes", "given"),
    [
        ((), {"paasoo_from": None}, 2),
        ((), {"paasoo_secret": "wrong"}, 4),
        (("--allowed-network", "192.0.2.0/24"), {}, 5),
        ((), {"paasoo_key": "wrong"}, 4),
        (("--balance", "0"), {}, 9),
    ],
    ids=["from", "secret", "address", "key", "balance"],
)
def test_a_public_account_is_refused_as_its_pages_say(
    database_url: URL, options: tuple[str, ...], changes: dict[str, Any], given: int
) -> None:
    port = free_port()
    with (
        running_service(database_url, **public_account(port, **changes)) as service,
        send_api("http://127.0.0.1:1/", "--account-kind", "public", *options, port=port) as api,
    ):
        answers = [service.send(**MESSAGE) for _ in range(2)]
        refused = api.events("refused")

    status, code, _ = REFUSALS[given]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.json()["provider"]["status"] == given
    assert [event["status"] for event in refused] == [given] * 2


def test_the_same_text_within_3_seconds_is_throttled_and_sent_later(database_url: URL) -> None:
    port = free_port()
    with (
        running_service(database_url, **public_account(port)) as service,
        send_api(
            "http://127.0.0.1:1/", "--account-kind", "public", *only("never"), port=port
        ) as api,
    ):
        first = service.send()
        other = service.send(text="Another text")
        repeated = service.send(idempotency_key="a-key")
        until(lambda: service.send(idempotency_key="a-key").status_code == 201)
        sms = [event["text"] for event in api.events("sent")]

    assert (first.status_code, other.status_code) == (201, 201)
    assert (repeated.status_code, repeated.json()["code"]) == (503, "provider_throttled")
    assert repeated.headers["Retry-After"] == "3"
    assert repeated.json()["provider"]["status"] == 8
    assert sms == ["Hello world", "Another text", "Hello world"]


def test_too_many_sends_a_second_are_throttled(database_url: URL) -> None:
    port = free_port()
    options = ("--account-kind", "public", "--send-rate", "2", *only("never"))
    with (
        running_service(database_url, **public_account(port)) as service,
        send_api("http://127.0.0.1:1/", *options, port=port),
    ):
        answers = [service.send(text=f"text {number}") for number in range(20)]
        until(lambda: service.send(text="text 20").status_code == 201)

    throttled = [answer for answer in answers if answer.status_code != 201]
    assert throttled
    assert {
        (answer.status_code, answer.json()["code"], answer.headers["Retry-After"])
        for answer in throttled
    } == {(503, "provider_throttled", "1")}
