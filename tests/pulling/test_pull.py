"""PaaSoo is asked for the reports of a message that never came: by itself, and on demand."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import URL

from tests.process import until
from tests.pulling.answers import ID, NUMBER, SAMPLE
from tests.sending.provider import (
    ACCOUNT,
    HANGS_UP,
    SECRET,
    Provider,
    accepted,
    account_at,
    answered,
    running_provider,
)
from tests.service import READ_KEY, SEND_KEY, Service, a_report, running_service

SOON = 0.001  # minutes
NEVER = 100_000


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as running:
        yield running


def asking(provider: Provider, after_minutes: float = NEVER, **changes: Any) -> dict[str, Any]:
    url = provider.url.replace("/json", "/dlr")
    return {
        **account_at(provider),
        "paasoo_report_url": url,
        "pull_after_minutes": after_minutes,
        **changes,
    }


@pytest.fixture
def on_demand(database_url: URL, provider: Provider) -> Iterator[Service]:
    """A service that asks only if it is told to."""
    with running_service(database_url, **asking(provider)) as running:
        yield running


def pull(service: Service, message_id: str = ID, key: str = SEND_KEY) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return service.http.post(f"/v1/messages/{message_id}/pull", headers=headers)


def steps(service: Service) -> dict[str, float]:
    names = ("asked", "answered", "found", "not_understood")
    return {name: service.metric(f'dlr_pulls_total{{step="{name}"}}') for name in names}


def test_a_message_is_asked_about_now_and_shown(on_demand: Service, provider: Provider) -> None:
    on_demand.register(ID, to=[NUMBER])
    provider.will_answer(answered([SAMPLE]))

    answer = pull(on_demand)

    assert answer.status_code == 200
    assert answer.json() == on_demand.message(ID)
    (delivery,) = answer.json()["deliveries"]
    assert (delivery["state"], delivery["price"], delivery["parts"]) == ("delivered", "0.05", 1)
    assert provider.asked == [f"/dlr?key={ACCOUNT}&secret={SECRET}&messageid={ID}"]
    assert steps(on_demand) == {"asked": 1, "answered": 1, "found": 1, "not_understood": 0}


def test_the_history_has_the_raw_answer(on_demand: Service, provider: Provider) -> None:
    on_demand.register(ID, to=[NUMBER])
    answer = f'[ {{"to":"{NUMBER}", "drStatus":404,"drStatuscode":"空号","price":0.050}} ]'
    provider.will_answer(answered(answer))

    pull(on_demand)

    (report,) = on_demand.reports(ID)
    assert (report["source"], report["status"], report["statuscode"]) == ("pull", 404, "空号")
    assert report["query"].isascii()
    assert json.loads(report["query"]) == json.loads(answer)[0]
    assert '"price":0.050' in report["query"]


def test_an_unknown_message_begins_with_what_is_told_of_it(
    on_demand: Service, provider: Provider
) -> None:
    provider.will_answer(answered([]), answered([SAMPLE]))

    before, after = pull(on_demand), pull(on_demand)

    assert (before.status_code, before.json()["code"]) == (404, "message_not_found")
    assert after.status_code == 200
    assert after.json()["deliveries"][0]["price"] == "0.05"


def test_an_answer_changes_nothing_that_a_callback_made_right(
    on_demand: Service, provider: Provider
) -> None:
    on_demand.call_back(a_report(messageid=ID, to=NUMBER))
    failed = {**SAMPLE, "drStatus": 404, "drStatuscode": "Unroutable", "price": None}
    provider.will_answer(answered([failed]))

    delivery = pull(on_demand).json()["deliveries"][0]

    assert (delivery["state"], delivery["errcode"]) == ("delivered", "1")
    assert (delivery["conflicting"], delivery["price"], delivery["parts"]) == (True, None, 1)


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        (answered("<html>busy</html>"), 502, "provider_bad_answer"),
        (answered({"status": "4", "status_code": "illegal"}), 502, "provider_bad_answer"),
        (answered("", status=500), 502, "provider_bad_answer"),
        (answered("busy", status=503), 502, "provider_bad_answer"),
        (answered({"status": "10", "status_code": "too many"}), 502, "provider_bad_answer"),
        (HANGS_UP, 503, "provider_unreachable"),
    ],
)
def test_without_a_list_the_answer_says_so(
    on_demand: Service, provider: Provider, given: bytes, status: int, code: str
) -> None:
    on_demand.register(ID, to=[NUMBER])
    provider.will_answer(given)

    answer = pull(on_demand)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert SECRET not in answer.text
    assert on_demand.delivery(ID)["state"] == "pending"


def test_only_a_sender_may_ask(on_demand: Service, provider: Provider) -> None:
    assert pull(on_demand, key=READ_KEY).status_code == 403
    assert provider.asked == []


def test_without_the_setting_nothing_is_asked(service: Service) -> None:
    answer = pull(service)

    assert (answer.status_code, answer.json()["code"]) == (503, "pull_not_configured")


def test_more_than_the_rate_is_refused(database_url: URL, provider: Provider) -> None:
    provider.will_answer(*[answered([])] * 3)
    with running_service(database_url, **asking(provider, pulls_a_second=0.01)) as service:
        statuses = [pull(service).json()["code"] for _ in range(2)]

    assert statuses == ["message_not_found", "pull_busy"]
    assert len(provider.asked) == 1


def test_a_sent_message_without_a_report_is_asked_about(
    database_url: URL, provider: Provider
) -> None:
    provider.will_answer(accepted(ID), answered([{**SAMPLE, "drStatus": None}]), answered([SAMPLE]))
    with running_service(database_url, **asking(provider, SOON)) as service:
        service.send(to=[NUMBER])
        until(lambda: service.delivery(ID)["state"] == "delivered")
        until(lambda: service.metric("dlr_pulls_waiting") == 0)
        done = steps(service)

    assert [query.get("messageid") for query in provider.queries] == [None, ID, ID]
    assert done == {"asked": 2, "answered": 2, "found": 1, "not_understood": 0}


def test_a_message_with_a_final_report_is_not_asked_about(
    database_url: URL, provider: Provider
) -> None:
    provider.will_answer(answered([SAMPLE]))
    with running_service(database_url, **asking(provider, SOON)) as service:
        service.call_back(a_report(messageid="reported", to=NUMBER))
        for message_id in ("reported", ID):
            service.register(message_id, to=[NUMBER])
        until(lambda: service.delivery(ID)["state"] == "delivered")

    assert [query["messageid"] for query in provider.queries] == [ID]


def test_a_message_that_was_registered_before_asking_was_set_up_is_asked_about(
    database_url: URL, provider: Provider
) -> None:
    with running_service(database_url) as service:
        service.register(ID, to=[NUMBER])
        too_old = datetime.now(UTC) - timedelta(hours=73)
        service.register("too-old", to=[NUMBER], submitted_at=too_old.isoformat())
    provider.will_answer(answered([SAMPLE]))
    with running_service(database_url, **asking(provider, SOON)) as service:
        until(lambda: service.delivery(ID)["state"] == "delivered")

    assert [query["messageid"] for query in provider.queries] == [ID]


def test_a_send_whose_outcome_is_unknown_has_no_id_to_ask_for(
    database_url: URL, provider: Provider
) -> None:
    provider.will_answer(HANGS_UP, answered([SAMPLE]))
    with running_service(database_url, **asking(provider, SOON)) as service:
        assert service.send(to=[NUMBER]).status_code == 504
        service.register(ID, to=[NUMBER])
        until(lambda: service.delivery(ID)["state"] == "delivered")

    assert [query.get("messageid") for query in provider.queries] == [None, ID]


def test_odd_answers_are_counted_and_asked_for_again(
    database_url: URL, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    odd = [answered("<html>busy</html>"), answered("null"), answered("[")]
    provider.will_answer(*odd, answered([SAMPLE]))
    with running_service(database_url, **asking(provider, SOON)) as service:
        service.register(ID, to=[NUMBER])
        until(lambda: service.delivery(ID)["state"] == "delivered")
        done = steps(service)

    said = [it.getMessage() for it in caplog.records if "not understood" in it.getMessage()]
    assert done == {"asked": 4, "answered": 4, "found": 1, "not_understood": 3}
    assert len(said) == 1
    assert "busy" not in caplog.text


@pytest.mark.parametrize(
    "refusal",
    [
        answered("busy", status=503),
        answered("busy", status=429),
        answered({"status": "10", "status_code": "too many requests"}),
    ],
)
def test_a_question_that_is_turned_away_is_asked_again_a_little_later(
    database_url: URL, provider: Provider, refusal: bytes
) -> None:
    provider.will_answer(refusal, answered([SAMPLE]))
    with running_service(database_url, **asking(provider, SOON)) as service:
        service.register(ID, to=[NUMBER])
        until(lambda: service.delivery(ID)["state"] == "delivered")
        refused_and_found = steps(service)

    assert refused_and_found["asked"] == 2


def test_an_answer_that_tells_less_than_the_callback_takes_nothing_away(
    on_demand: Service, provider: Provider
) -> None:
    failed = {"status": "404", "statuscode": "failed", "errcode": "Absent Subscriber Temporary"}
    on_demand.call_back(a_report(messageid=ID, to=NUMBER, **failed))
    before = on_demand.delivery(ID)
    poorer = {"drStatus": 404, "drStatuscode": "failed", "drErrcode": None}
    provider.will_answer(answered([{**SAMPLE, **poorer}]))

    after = pull(on_demand).json()["deliveries"][0]

    assert after == {**before, "price": "0.05", "parts": 1}


def test_while_paasoo_is_away_no_question_is_lost(
    database_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    with running_provider() as gone:
        address = gone.url
    with running_service(database_url, **asking(Provider(address), SOON)) as service:
        service.register(ID, to=[NUMBER])
        until(lambda: "PaaSoo doesn't answer" in caplog.text)
    with running_provider() as provider:
        provider.will_answer(answered([SAMPLE]))
        # As often as if it had never been asked: the schedule has no question more.
        with running_service(database_url, **asking(provider, SOON)) as service:
            until(lambda: service.delivery(ID)["state"] == "delivered")
            found = steps(service)["found"]

    assert found == 1


def test_callbacks_are_answered_while_paasoo_is_not(database_url: URL, provider: Provider) -> None:
    with running_service(database_url, **asking(provider, SOON)) as service:
        service.register(ID, to=[NUMBER])
        assert provider.is_asked.wait(10)
        began = time.monotonic()
        statuses = {service.call_back(a_report(messageid=f"m{n}")).status_code for n in range(20)}
        took_s = time.monotonic() - began
        provider.will_answer(HANGS_UP)

    assert statuses == {200}
    assert took_s < 10  # a question waits longer
