"""POST /v1/messages with a provider that answers oddly, or not at all."""

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from sqlalchemy import URL

from app.store import sends
from app.store.engine import open_database
from tests.conftest import migrated_database
from tests.process import serving, until
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
from tests.service import SEND_KEY, TOKEN, Service, running_service

TEXT = "Y0ur c0de is 123456, señor & co."
MESSAGE: Any = {"text": TEXT, "reference": "order 17", "idempotency_key": "a-key"}
TLS = Path(__file__).with_name("tls")


@pytest.fixture
def sqlite_url(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[URL]:
    """One database is enough for tests that don't depend on it."""
    with migrated_database("sqlite", tmp_path, request) as url:
        yield url


@pytest.fixture
def service(sqlite_url: URL, provider: Provider) -> Iterator[Service]:
    with running_service(sqlite_url, **account_at(provider)) as running:
        yield running


def test_the_call_is_the_guides(service: Service, provider: Provider) -> None:
    provider.will_answer(accepted())

    service.send(to=["6588888888", "6588888889"], text=TEXT)

    (target,) = provider.asked
    assert target.startswith(f"/json?key={ACCOUNT}&secret={SECRET}&to=6588888888,6588888889&text=")
    assert provider.queries == [
        {"key": ACCOUNT, "secret": SECRET, "to": "6588888888,6588888889", "text": TEXT}
    ]


@pytest.mark.parametrize(
    "answer",
    [
        accepted("015bd4-d6dfa7-58w"),
        accepted("!" * 128),
        answered({"status": 0, "messageid": "x"}),
        answered({"status": "0", "messageid": "x", "credit": [1, None]}),
        answered({"status": "0", "messageid": "x"}, status=500),
        b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"status":"0","messageid":"x"}',
    ],
    ids=lambda answer: answer[-40:].decode(),
)
def test_an_accepted_message_is_known_by_its_id(
    service: Service, provider: Provider, answer: bytes
) -> None:
    provider.will_answer(answer)

    sent = service.send()

    assert sent.status_code == 201, sent.text
    assert service.message(sent.json()["messageid"]) == sent.json()


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (answered(""), (None, None)),
        (answered("OK"), (None, None)),
        (answered("<html>Bad gateway</html>", status=502), (None, None)),
        (answered("", status=301), (None, None)),
        (answered("[" * 10000), (None, None)),
        (answered('{"status": "0", "messageid": "x"'), (None, None)),
        (answered('{"status": ' + "9" * 5000 + "}"), (None, None)),
        (answered([{"status": "0", "messageid": "x"}]), (None, None)),
        (answered("null"), (None, None)),
        (answered({}), (None, None)),
        (answered({"messageid": "x"}), (None, None)),
        (answered({"status": "0"}), (0, None)),
        (answered({"status": "0", "messageid": ""}), (0, None)),
        (answered({"status": "0", "messageid": "two words"}), (0, None)),
        (answered({"status": "0", "messageid": "nul\0"}), (0, None)),
        (answered({"status": "0", "messageid": "é"}), (0, None)),
        (answered({"status": "0", "messageid": "x" * 129}), (0, None)),
        (answered({"status": True, "messageid": "x"}), (None, None)),
        (answered({"status": 0.0, "messageid": "x"}), (None, None)),
        (answered({"status": "accepted", "messageid": "x"}), (None, None)),
        (answered({"status": "400", "messageid": "x"}), (400, None)),
        (answered({"status": "500", "status_code": "our fault"}), (500, "our fault")),
        (answered({"status": "-1", "status_code": 7}), (None, None)),
        (
            answered({"status": "500", "status_code": "\ud800\n" + "x" * 999}),
            (500, "??" + "x" * 253),
        ),
        (answered({"status": "0", "messageid": "x", "more": "x" * 65536}), (None, None)),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Encoding: gzip\r\n\r\n{}x",
            (None, None),
        ),
    ],
    ids=lambda value: value[-40:].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_an_answer_that_is_not_understood_may_have_sent(
    service: Service, provider: Provider, answer: bytes, shown: tuple[int | None, str | None]
) -> None:
    provider.will_answer(answer, accepted())

    problem = service.send(**MESSAGE)
    again = service.send(**MESSAGE)
    (found,) = service.found_by("order 17")

    assert (problem.status_code, problem.json()["code"]) == (502, "provider_bad_answer")
    assert problem.json()["provider"] == {"status": shown[0], "status_code": shown[1]}
    assert problem.json()["messageid"] == found["messageid"]
    assert (found["state"], found["to"]) == ("pending", "6588888888")
    assert again.content == problem.content
    assert len(provider.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        HANGS_UP,
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n{}",
        b"garbage\r\n\r\n",
    ],
    ids=repr,
)
def test_an_answer_that_is_cut_off_leaves_the_outcome_unknown(
    service: Service, provider: Provider, answer: bytes
) -> None:
    provider.will_answer(answer, HANGS_UP)

    problem = service.send(reference="order 17")
    (found,) = service.found_by("order 17")

    assert (problem.status_code, problem.json()["code"]) == (504, "outcome_unknown")
    assert problem.json()["messageid"] == found["messageid"]


def test_an_answer_that_never_comes_leaves_the_outcome_unknown(
    service: Service, provider: Provider
) -> None:
    problem = service.send(reference="order 17")

    assert (problem.status_code, problem.json()["code"]) == (504, "outcome_unknown")
    assert len(service.found_by("order 17")) == 1
    assert len(provider.asked) == 1


def test_each_message_that_was_perhaps_sent_has_an_id_of_its_own(
    service: Service, provider: Provider
) -> None:
    provider.will_answer(*[answered("")] * 3)

    ids = {service.send(reference="order 17").json()["messageid"] for _ in range(3)}

    assert {delivery["messageid"] for delivery in service.found_by("order 17")} == ids
    assert len(ids) == 3


def test_a_database_that_fails_before_the_send_sends_nothing(
    service: Service, provider: Provider
) -> None:
    provider.will_answer(accepted())
    with closing(locked(service)):
        refused = service.send(**MESSAGE)
    sent = service.send(**MESSAGE)

    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert sent.status_code == 201
    assert len(provider.asked) == 1


def test_a_database_that_fails_for_a_moment_after_the_send_is_tried_again(
    service: Service, provider: Provider
) -> None:
    with ThreadPoolExecutor() as threads:
        sending = threads.submit(service.send, **MESSAGE)
        assert provider.is_asked.wait(10)
        with closing(locked(service)):
            provider.will_answer(accepted())
            assert not sending.done()

    assert sending.result().status_code == 201


def test_a_database_that_fails_after_the_send_is_told_and_it_is_not_sent_again(
    service: Service, provider: Provider
) -> None:
    with ThreadPoolExecutor() as threads:
        sending = threads.submit(service.send, **MESSAGE)
        assert provider.is_asked.wait(10)
        with closing(locked(service)):
            provider.will_answer(accepted(), accepted())
            problem = sending.result()

    assert (problem.status_code, problem.json()["code"]) == (500, "outcome_not_recorded")
    assert (problem.json()["outcome"], problem.json()["messageid"]) == ("sent", "052804b7368321")
    # The process that sent it may still be running.
    with running_service(service.database_url, **account_at(provider)) as restarted:
        again = restarted.send(**MESSAGE)
    assert (again.status_code, again.json()["code"]) == (504, "outcome_unknown")
    assert len(provider.asked) == 1


def locked(service: Service) -> sqlite3.Connection:
    """A connection that keeps all others from writing."""
    assert service.database_url.database
    connection = sqlite3.connect(service.database_url.database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def test_forgotten_keys_are_free_again(database_url: URL, provider: Provider) -> None:
    provider.will_answer(accepted("first"), accepted("second"))
    with running_service(database_url, **account_at(provider)) as service:
        first = service.send(**MESSAGE).json()
        database = open_database(database_url)
        with database.write.begin() as connection:
            forgotten = [sends.forget_before(connection, cutoff, 100) for cutoff in (1, 2**62)]
        database.close()
        second = service.send(**MESSAGE).json()

    assert forgotten == [0, 1]
    assert (first["messageid"], second["messageid"]) == ("first", "second")


def test_without_a_key_nothing_is_kept_of_the_answer(database_url: URL, provider: Provider) -> None:
    provider.will_answer(accepted(), answered(""), HANGS_UP, answered({"status": "403"}))
    with running_service(database_url, **account_at(provider)) as service:
        statuses = [service.send().status_code for _ in range(4)]
        database = open_database(database_url)
        with database.write.begin() as connection:
            kept = sends.forget_before(connection, 2**62, 100)
        database.close()

    assert statuses == [201, 502, 504, 502]
    assert kept == 0


def echo(status: int) -> bytes:
    """A refusal that repeats the whole request."""
    url = f"/json?key={ACCOUNT}&secret={SECRET}&to=6588888888&text={quote_plus(TEXT)}"
    return answered({"status": status, "status_code": f"bad request: {url}"})


@pytest.mark.parametrize("repeated", [ACCOUNT, SECRET, SECRET.upper(), TEXT, quote(TEXT)])
def test_a_status_code_that_repeats_a_secret_is_not_shown(
    service: Service, provider: Provider, repeated: str
) -> None:
    provider.will_answer(answered({"status": 400, "status_code": f"what is ({repeated})?"}))

    answer = service.send(text=TEXT)

    assert answer.json()["provider"] == {
        "status": 400,
        "status_code": "(not shown: it repeats the account or the text)",
    }


@pytest.mark.parametrize("level", ["debug", "info"])
def test_no_secret_is_in_any_answer_or_log(provider: Provider, level: str) -> None:
    headers = {"Authorization": f"Bearer {SEND_KEY}"}
    message = {"to": ["6588888888"], "text": TEXT}
    provider.will_answer(accepted(), HANGS_UP, answered("garbage"), echo(400), echo(500), echo(403))
    with serving(
        DLR_CALLBACK_TOKENS=TOKEN,
        DLR_API_KEYS=f"shop:send:{SEND_KEY}",
        DLR_LOG_LEVEL=level,
        **{f"DLR_{name.upper()}": value for name, value in account_at(provider).items()},
    ) as program:
        answers = [
            program.http.post("/v1/messages", headers=headers, json=message) for _ in range(6)
        ]
        answers.append(
            program.http.post("/v1/messages", headers=headers, json={**message, "to": ["12"]})
        )
        program.terminate()
        unreachable = {**account_at(provider), "paasoo_url": "http://127.0.0.1:1/json"}
        told = program.stdout + program.stderr + "".join(answer.text for answer in answers)
        logged = program.log_lines()
    with serving(
        DLR_CALLBACK_TOKENS=TOKEN,
        DLR_API_KEYS=f"shop:send:{SEND_KEY}",
        DLR_LOG_LEVEL=level,
        **{f"DLR_{name.upper()}": value for name, value in unreachable.items()},
    ) as program:
        answers.append(program.http.post("/v1/messages", headers=headers, json=message))
        told += program.stdout + program.stderr + answers[-1].text

    assert [answer.status_code for answer in answers] == [201, 504, 502, 422, 502, 502, 422, 503]
    assert any(line["message"] == "request" for line in logged)
    for secret in (ACCOUNT, SECRET, TEXT):
        for form in (secret, quote(secret), quote_plus(secret), json.dumps(secret)[1:-1]):
            assert form not in told


def test_a_wrong_account_setting_stops_nothing_else(provider: Provider) -> None:
    """Sending fails, and the metrics have its code."""
    provider.will_answer(answered({"status": 401, "status_code": "illegal secret.,"}))
    with serving(
        DLR_METRICS_PUBLIC="true",
        DLR_CALLBACK_TOKENS=TOKEN,
        DLR_API_KEYS=f"shop:send:{SEND_KEY}",
        **{f"DLR_{name.upper()}": value for name, value in account_at(provider).items()},
    ) as program:
        program.http.post(
            "/v1/messages",
            headers={"Authorization": f"Bearer {SEND_KEY}"},
            json={"to": ["6588888888"], "text": TEXT},
        )
        metrics = program.http.get("/metrics").text

    assert 'dlr_sends_total{outcome="provider_refused_credentials"} 1.0' in metrics


def test_https_is_spoken_with_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    tls = SSLContext(PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(TLS / "localhost-with-key.pem")
    headers = {"Authorization": f"Bearer {SEND_KEY}"}
    message = {"to": ["6588888888"], "text": TEXT}
    answers = []
    with running_provider(tls) as provider:
        provider.will_answer(accepted())
        for trusted in ({}, {"SSL_CERT_FILE": str(TLS / "localhost.pem")}):
            with serving(
                DLR_CALLBACK_TOKENS=TOKEN,
                DLR_API_KEYS=f"shop:send:{SEND_KEY}",
                **{f"DLR_{name.upper()}": value for name, value in account_at(provider).items()},
                **trusted,
            ) as program:
                answers.append(program.http.post("/v1/messages", headers=headers, json=message))

    assert [answer.status_code for answer in answers] == [503, 201]
    assert answers[0].json()["code"] == "provider_unreachable"
    assert [query["text"] for query in provider.queries] == [TEXT]


def test_connections_are_used_again_while_they_last(service: Service, provider: Provider) -> None:
    provider.will_answer(*[accepted()] * 5)

    statuses = {service.send().status_code for _ in range(5)}

    assert statuses == {201}
    assert len(set(provider.peers)) == 1


def test_a_connection_that_the_provider_closed_is_not_used_again(
    service: Service, provider: Provider
) -> None:
    closing_answer = accepted().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    for answer in (accepted(), closing_answer, accepted()):
        provider.will_answer(answer)
        assert service.send().status_code == 201

    until(lambda: len(provider.asked) == 3)
    assert len(set(provider.peers)) == 2
