"""`from`: the sender id of a message, of its own or by default, or none at all."""

import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import URL

from app.store import sends
from app.store.engine import open_database
from app.store.sends import Send
from tests.process import free_port
from tests.sending.provider import Provider, accepted, account_at
from tests.service import SEND_KEY, Service, running_service
from tests.simulator.simulating import account_on, callback_of, check_of, only, send_api

TO = ["6588888881", "6588888882"]
MESSAGE: Any = {"to": TO, "text": "Hello", "reference": "order 17"}


@pytest.mark.parametrize(
    "sender",
    [
        *("My Shop", "a", "0", "A  1", "ABCDEFGHIJK", "12345678901"),
        *("123456789012", "123456789012345"),
    ],
)
def test_a_message_is_sent_with_its_sender_id(
    sending: Service, kept_provider: Provider, sender: str
) -> None:
    kept_provider.will_answer(accepted())

    answer = sending.send(**MESSAGE, **{"from": sender})

    assert answer.status_code == 201, answer.text
    assert [query.get("from") for query in kept_provider.queries] == [sender]


@pytest.mark.parametrize(
    "sender",
    [
        *("", " ", " Shop", "Shop ", "ABCDEFGHIJKL", "1234567890123456", "123456789012a"),
        *("Shöp", "shop!", "my-shop", "my\tshop", "shop\n", "+6588888888", "\u0661\u0662", "nul\0"),
        *(6588888888, ["Shop"], True),
    ],
    ids=repr,
)
def test_what_is_no_sender_id_is_refused_before_anything_is_sent(
    sending: Service, kept_provider: Provider, sender: object
) -> None:
    message: Any = {**MESSAGE, "from": sender}
    answer = sending.send(**message)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in answer.json()["errors"]] == ["from"]
    assert kept_provider.asked == []


def test_without_any_sender_id_nothing_is_sent_as_from(
    sending: Service, kept_provider: Provider
) -> None:
    kept_provider.will_answer(accepted("one"), accepted("two"))

    assert sending.send(**MESSAGE).status_code == 201
    assert sending.send(**MESSAGE, **{"from": None}).status_code == 201

    assert ["from" in query for query in kept_provider.queries] == [False, False]
    assert all(f"&to={','.join(TO)}&" in target for target in kept_provider.asked)


def test_the_setting_is_for_messages_without_one_of_their_own(
    database_url: URL, provider: Provider
) -> None:
    provider.will_answer(accepted("one"), accepted("two"))
    with running_service(database_url, **account_at(provider), paasoo_from="Default 1") as service:
        service.send(**MESSAGE)
        service.send(**MESSAGE, **{"from": "My Shop"})

    assert [query["from"] for query in provider.queries] == ["Default 1", "My Shop"]


def test_a_sender_id_is_a_part_of_what_a_repeat_must_have(
    database_url: URL, provider: Provider
) -> None:
    provider.will_answer(accepted("one"))
    others: list[Any] = [{"from": "My Shop 2"}, {}, {"from": None}]
    with running_service(database_url, **account_at(provider)) as service:
        first = service.send(**MESSAGE, **{"from": "My Shop"}, idempotency_key="a-key")
        refused = [service.send(**MESSAGE, **other, idempotency_key="a-key") for other in others]
        again = service.send(**MESSAGE, **{"from": "My Shop"}, idempotency_key="a-key")

    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {
        (409, "idempotency_key_reused")
    }
    assert (again.status_code, again.content) == (201, first.content)
    assert len(provider.asked) == 1


def test_another_default_makes_no_other_message(database_url: URL, provider: Provider) -> None:
    provider.will_answer(accepted("one"))
    answers = []
    for sender in ("Shop 1", "Shop 2", None):
        with running_service(database_url, **account_at(provider), paasoo_from=sender) as service:
            answers.append(service.send(**MESSAGE, idempotency_key="a-key"))

    assert {(answer.status_code, answer.content) for answer in answers} == {
        (201, answers[0].content)
    }
    assert len(provider.asked) == 1


def test_a_send_of_the_version_before_sender_ids_is_still_known(
    database_url: URL, provider: Provider
) -> None:
    """The digests as that version wrote them."""
    body = json.dumps([TO, "Hello", "order 17"]).encode()
    sent = Send(
        key_digest=sha256(b"shop\0a-key").hexdigest(),
        body_digest=hmac.digest(b"a-key", body, sha256).hex(),
        attempt="0" * 32,
        started_at=2**52,
    )
    database = open_database(database_url)
    with database.write.begin() as connection:
        assert sends.start(connection, sent)
        sends.conclude(connection, sent, 201, '{"messageid":"sent-before"}')
    database.close()

    with running_service(database_url, **account_at(provider)) as service:
        again = service.send(**MESSAGE, idempotency_key="a-key")
        other = service.send(**MESSAGE, **{"from": "My Shop"}, idempotency_key="a-key")

    assert (again.status_code, again.json()) == (201, {"messageid": "sent-before"})
    assert again.headers["Idempotent-Replayed"] == "true"
    assert other.json()["code"] == "idempotency_key_reused"
    assert provider.asked == []


def test_a_public_account_sends_with_a_sender_id_and_agrees(database_url: URL) -> None:
    port = free_port()
    settings = account_on(port, paasoo_from="Default 1")
    with running_service(database_url, **settings) as service:
        options = ("--account-kind", "public", *only("early"), *check_of(service))
        with send_api(callback_of(service), *options, port=port) as simulator:
            own = service.send(to=TO, text="one", **{"from": "My Shop"})
            default = service.send(to=TO, text="two")
            sent = simulator.events("sent")
            ended = simulator.end()

    assert (own.status_code, default.status_code) == (201, 201)
    assert [event["from"] for event in sent] == ["My Shop"] * 2 + ["Default 1"] * 2
    assert ended.code == 0, ended
    assert ended.stdout.endswith(": all agree\n")


def test_an_account_that_needs_a_sender_id_says_that_nothing_was_sent(database_url: URL) -> None:
    port = free_port()
    with running_service(database_url, **account_on(port)) as service:
        options = ("--account-kind", "public", *only("never"))
        with send_api("http://127.0.0.1:1/", *options, port=port):
            refused = service.send(**MESSAGE, idempotency_key="a-key")
            found = service.found_by("order 17")
            sent = service.send(**MESSAGE, **{"from": "My Shop"}, idempotency_key="a-key")

    assert (refused.status_code, refused.json()["code"]) == (422, "provider_bad_request")
    assert refused.json()["provider"] == {"status": 2, "status_code": "Missing params."}
    assert "`from`" in refused.json()["detail"]
    assert found == []
    assert sent.status_code == 201


def test_the_sender_id_is_in_the_document_with_its_rule(service: Service) -> None:
    document = service.get("/openapi.json").json()
    (field, _) = document["components"]["schemas"]["MessageToSend"]["properties"]["from"]["anyOf"]

    answer = service.http.post(
        "/v1/messages",
        headers={"Authorization": f"Bearer {SEND_KEY}"},
        json={"to": TO, "text": "Hello", "sender": "My Shop"},
    )

    assert field["type"] == "string"
    assert "{1,15}" in field["pattern"]
    assert [error["field"] for error in answer.json()["errors"]] == ["sender"]
