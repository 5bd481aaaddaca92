"""The account's balance: GET /v1/account and its metrics, whatever PaaSoo answers."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import URL

from app.sending import balance
from tests.process import free_port, serving, until
from tests.sending.provider import (
    ACCOUNT,
    HANGS_UP,
    SECRET,
    Provider,
    account_at,
    answered,
    bytes_answered,
)
from tests.service import READ_KEY, TOKEN, Service, a_report, running_service
from tests.simulator.simulating import account_on, send_api

SAMPLE = {"balance": "0.972", "currency": "EUR"}  # the public pages'
QUESTIONS = "dlr_balance_questions_total"


def asking(provider: Provider) -> dict[str, str]:
    address = provider.url.replace("/json", "/balance")
    return {**account_at(provider), "paasoo_balance_url": address}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again as soon as the question before is answered."""
    monkeypatch.setattr(balance, "EVERY_S", 0)
    monkeypatch.setattr(balance, "UNTIL_KNOWN_EVERY_S", 0)


def has_asked(service: Service, outcome: str, times: int = 1) -> None:
    until(lambda: service.metric(f'{QUESTIONS}{{outcome="{outcome}"}}') == times)


def test_the_balance_is_asked_for_at_once_and_shown_with_its_time(
    database_url: URL, provider: Provider
) -> None:
    provider.will_answer(answered(SAMPLE))
    with running_service(database_url, **asking(provider)) as service:
        answer = service.get("/v1/account")
        metric = service.metric('dlr_balance{currency="EUR"}')
        asked_at = service.metric("dlr_balance_asked_timestamp_seconds")
        again = service.get("/v1/account")

    assert answer.status_code == 200
    assert answer.json().keys() == {"balance", "currency", "asked_at"}
    assert (answer.json()["balance"], answer.json()["currency"]) == ("0.972", "EUR")
    assert answer.json()["asked_at"].endswith("Z")
    assert again.json() == answer.json()
    assert metric == 0.972
    assert asked_at > 0
    assert provider.asked == [f"/balance?key={ACCOUNT}&secret={SECRET}"]


def test_without_the_setting_there_is_no_account(service: Service) -> None:
    answer = service.get("/v1/account")

    assert (answer.status_code, answer.json()["code"]) == (404, "account_not_configured")
    assert "dlr_balance{currency" not in service.get("/metrics").text


def test_the_account_needs_a_key(service: Service) -> None:
    assert service.get("/v1/account", key=None).status_code == 401


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b'{"balance":0.972,"currency":"EUR"}', "0.972"),
        (b'{"balance":0.9720,"currency":"EUR"}', "0.9720"),
        (b'{"balance":12345678901234567.89,"currency":"EUR"}', "12345678901234567.89"),
        (b'{"balance":0,"currency":"EUR","more":[]}', "0"),
        (b'{"balance":1.0e-5,"currency":"EUR"}', "1.0e-5"),
        (b'\xef\xbb\xbf{"balance":" -3.50 ","currency":" EUR\\n"}\r\n', "-3.50"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_balance_is_shown_as_it_came(
    database_url: URL, provider: Provider, content: bytes, shown: str
) -> None:
    provider.will_answer(bytes_answered(content))
    with running_service(database_url, **asking(provider)) as service:
        told = service.get("/v1/account").json()

    assert (told["balance"], told["currency"]) == (shown, "EUR")


ODD = [
    *(b"", b"<html>", b"[]", b"null", b"{}", b'"0.972"'),
    *(b'{"balance":"0.972"}', b'{"balance":"0.972","currency":""}'),
    *(b'{"balance":"","currency":"EUR"}', b'{"balance":true,"currency":"EUR"}'),
    *(b'{"balance":NaN,"currency":"EUR"}', b'{"balance":1e999,"currency":"EUR"}'),
    *(b'{"balance":"1,5","currency":"EUR"}', b'{"balance":"much","currency":"EUR"}'),
    b'{"balance":"1","currency":"%b"}' % (b"x" * 17),
    b'{"balance":"%b","currency":"EUR"}' % (b"9" * 41),
]


@pytest.mark.usefixtures("often")
def test_an_answer_that_is_not_understood_is_counted_and_logged_once_without_its_content(
    database_url: URL, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    secret = json.dumps({"balance": SECRET, "currency": ACCOUNT})
    provider.will_answer(*map(bytes_answered, ODD), answered(secret))
    with running_service(database_url, **asking(provider)) as service:
        has_asked(service, "not_understood", len(ODD) + 1)
        unknown = service.get("/v1/account")
        provider.will_answer(answered(SAMPLE))
        has_asked(service, "answered")
        known = service.get("/v1/account")

    logged = [record.getMessage() for record in caplog.records if "balance" in record.getMessage()]
    assert (unknown.status_code, unknown.json()["code"]) == (503, "account_not_known_yet")
    assert int(unknown.headers["Retry-After"]) > 0
    assert known.json()["balance"] == "0.972"
    assert logged == ["PaaSoo doesn't tell the balance", "PaaSoo tells the balance again"]
    assert not any(word in str(record.__dict__) for record in caplog.records for word in (SECRET,))


@pytest.mark.usefixtures("often")
def test_the_last_known_balance_stays_with_its_time(database_url: URL, provider: Provider) -> None:
    refusal = answered({"status": "4", "status_code": f"no {SECRET}"})
    provider.will_answer(answered(SAMPLE))
    with running_service(database_url, **asking(provider)) as service:
        before = service.get("/v1/account").json()
        provider.will_answer(refusal, HANGS_UP, answered("garbage"))
        for outcome in ("refused", "no_answer", "not_understood"):
            has_asked(service, outcome)
        after = service.get("/v1/account").json()
        kept = service.metric('dlr_balance{currency="EUR"}')
        provider.will_answer(answered({"balance": "99", "currency": "CNY"}))
        has_asked(service, "answered", 2)
        later = service.get("/v1/account").json()
        currencies = service.get("/metrics").text.count("\ndlr_balance{")

    assert after == before
    assert kept == 0.972
    assert (later["balance"], later["currency"]) == ("99", "CNY")
    assert later["asked_at"] > before["asked_at"]
    assert currencies == 1


def test_a_question_that_hangs_delays_no_callback_and_no_end(
    database_url: URL, provider: Provider
) -> None:
    with ThreadPoolExecutor() as threads, running_service(database_url, **asking(provider)) as it:
        assert provider.is_asked.wait(10)
        asked = threads.submit(it.get, "/v1/account")
        stored = it.call_back(a_report())
        state = it.delivery()["state"]
        assert not asked.done()
        it.server.close()
        waited = asked.result(10)

    assert (stored.status_code, state) == (200, "delivered")
    assert (waited.status_code, waited.json()["code"]) == (503, "account_not_known_yet")


def test_a_process_that_asks_for_the_balance_ends_cleanly(provider: Provider) -> None:
    variables = {f"DLR_{name.upper()}": value for name, value in asking(provider).items()}
    keys = {"DLR_CALLBACK_TOKENS": TOKEN, "DLR_API_KEYS": f"reader:read:{READ_KEY}"}
    with serving(DLR_DRAIN_SECONDS="0", **keys, **variables) as program:
        assert provider.is_asked.wait(10)
        code = program.terminate()
        logged: list[Any] = program.log_lines()

    assert code == 0
    assert [line for line in logged if line["level"] == "error" or "exception" in line] == []
    assert SECRET not in program.stderr + program.stdout


def test_the_simulator_tells_its_balance_as_it_runs_out(database_url: URL) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}/balance"
    settings = account_on(port, paasoo_balance_url=address, paasoo_from="My Shop")
    with send_api(
        "http://127.0.0.1:1/", "--account-kind", "public", "--balance", "3", port=port
    ) as simulator:
        told = []
        for _ in range(2):
            with running_service(database_url, **settings) as service:
                told.append(service.get("/v1/account").json()["balance"])
                last = service.send(to=["6588888881", "6588888882"])
        wrong = simulator.http.get("/balance?key=simulator&secret=wrong").json()
        full = simulator.http.get("/balance?key=simulator&secret=simulator").json()

    assert told == ["0.15", "0.05"]
    assert last.json()["code"] in {"provider_restricted", "provider_throttled"}
    assert wrong["status"] == "4"
    assert full == {"balance": "0.05", "currency": "EUR"}
