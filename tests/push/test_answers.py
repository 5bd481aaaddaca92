"""What an address answers, or doesn't: when it is tried again, and what is said about it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest
from sqlalchemy import URL

from tests.process import serving, until
from tests.push.receiver import HANGS, Hooks, Receiver, answer, running_receiver
from tests.push.test_owners import environment_of
from tests.service import ADMIN_KEY, TOKEN, a_report, running_service

CERTIFICATE = Path(__file__).parents[1] / "sending" / "tls"


@pytest.fixture
def own_hooks(sqlite_url: URL) -> Iterator[Hooks]:
    with running_service(sqlite_url) as service:
        yield Hooks(service)


@pytest.mark.parametrize("in_words", [False, True])
def test_a_receiver_may_ask_for_a_longer_pause(
    own_hooks: Hooks, receiver: Receiver, in_words: bool
) -> None:
    at = datetime.now(UTC) + timedelta(seconds=9)
    receiver.answers.put(answer(503, f"Retry-After: {format_datetime(at) if in_words else 8}"))
    own_hooks.add(receiver.url)
    own_hooks.service.call_back(a_report())

    first, second = receiver.next_push(), receiver.next_push()

    assert second.at - first.at >= 7.5
    assert second.id == first.id


def test_each_pause_is_twice_as_long(own_hooks: Hooks, receiver: Receiver) -> None:
    for _ in range(2):
        receiver.answers.put(answer(500))
    own_hooks.add(receiver.url)
    own_hooks.service.call_back(a_report())

    times = [receiver.next_push().at for _ in range(3)]

    assert 5 <= times[1] - times[0] < 9
    assert 10 <= times[2] - times[1] < 15


def test_an_address_that_does_not_answer_is_tried_again(
    own_hooks: Hooks, receiver: Receiver
) -> None:
    receiver.answers.put(HANGS)
    added = own_hooks.add(receiver.url)
    own_hooks.service.call_back(a_report())
    first = receiver.next_push()

    until(lambda: own_hooks.show(added["id"])["last_error"] == "no answer within 15 s", 30)
    own_hooks.enable(added["id"])

    assert receiver.next_push().id == first.id


def test_an_endless_answer_is_not_read_to_its_end(hooks: Hooks, receiver: Receiver) -> None:
    head = b"HTTP/1.1 200 X\r\nContent-Length: 10000000000\r\n\r\n"
    receiver.answers.put(head + b"x" * 1024**2)
    hooks.add(receiver.url)
    hooks.service.call_back(a_report(messageid="first"))
    first = receiver.next_push()
    hooks.service.call_back(a_report(messageid="second"))

    second = receiver.next_push()

    assert second.message_ids == ["second"]
    assert second.id != first.id


def test_a_certificate_must_be_valid(sqlite_url: URL) -> None:
    tls = SSLContext(PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE / "localhost-with-key.pem")
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with running_receiver(tls) as receiver:
        with serving(**environment_of(sqlite_url)) as program:
            program.http.post("/v1/webhooks", json={"url": receiver.url}, headers=headers)
            program.http.get(f"/callback/paasoo/{TOKEN}?{a_report()}")

            def last_error() -> object:
                (shown,) = program.http.get("/v1/webhooks", headers=headers).json()["items"]
                return shown["last_error"]

            until(lambda: last_error() == "its certificate is not valid here")
            assert not receiver.has_push()
            program.terminate()
        trusted = {"SSL_CERT_FILE": str(CERTIFICATE / "localhost.pem")}
        with serving(**environment_of(sqlite_url, **trusted)):
            assert receiver.next_push().message_ids == ["052804b7368321"]


@pytest.mark.parametrize(
    ("networks", "is_allowed"),
    [("10.0.0.0/8", False), ("10.0.0.0/8,127.0.0.0/8,::1/128", True), ("127.0.0.1", True)],
)
def test_only_allowed_networks_are_pushed_to(
    sqlite_url: URL, receiver: Receiver, networks: str, is_allowed: bool
) -> None:
    with running_service(sqlite_url, webhook_allowed_networks=networks) as service:
        hooks = Hooks(service)
        added = hooks.add(receiver.url)
        service.call_back(a_report())
        if is_allowed:
            assert receiver.next_push().message_ids == ["052804b7368321"]
            return
        error = "no address of its host is in DLR_WEBHOOK_ALLOWED_NETWORKS"
        until(lambda: hooks.show(added["id"])["last_error"] == error)
        assert hooks.call("POST", f"/{added['id']}/test").json()["error"] == error
        assert not receiver.has_push()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_certificate_must_be_the_hosts_where_networks_are_limited(
    sqlite_url: URL, host: str
) -> None:
    tls = SSLContext(PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE / "localhost-with-key.pem")  # of 127.0.0.1 alone
    settings = {
        "SSL_CERT_FILE": str(CERTIFICATE / "localhost.pem"),
        "DLR_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with (
        running_receiver(tls) as receiver,
        serving(**environment_of(sqlite_url, **settings)) as program,
    ):
        url = receiver.url.replace("127.0.0.1", host)
        added = program.http.post("/v1/webhooks", json={"url": url}, headers=headers).json()

        path = f"/v1/webhooks/{added['id']}/test"
        told = program.http.post(path, headers=headers).json()

        expected = (
            (204, None) if host == "127.0.0.1" else (None, "its certificate is not valid here")
        )
        assert (told["status"], told["error"]) == expected
        assert receiver.has_push() == (host == "127.0.0.1")


def test_an_unknown_host_is_said(hooks: Hooks) -> None:
    added = hooks.add("https://nowhere.invalid/dlr")

    told = hooks.call("POST", f"/{added['id']}/test").json()

    assert (told["status"], told["error"]) == (None, "its host is not known")


def test_failures_are_logged_once_with_nothing_secret(sqlite_url: URL, receiver: Receiver) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with serving(**environment_of(sqlite_url, DLR_LOG_LEVEL="debug")) as program:
        receiver.answers.put(answer(500, body=b"the-receivers-words"))
        body = {"url": receiver.url + "/s3cret-path"}
        added = program.http.post("/v1/webhooks", json=body, headers=headers).json()
        program.http.get(f"/callback/paasoo/{TOKEN}?{a_report()}")
        receiver.next_push()
        receiver.next_push()

        def lines() -> list[Any]:
            return [line for line in program.log_lines() if line.get("webhook") == added["id"]]

        until(lambda: len(lines()) >= 2)
        assert [(line["message"], line.get("error")) for line in lines()] == [
            ("a webhook takes no pushes", "HTTP 500"),
            ("a webhook takes pushes again", None),
        ]
        for secret in (added["secret"], "6588888888", "s3cret-path", "the-receivers-words"):
            assert secret not in program.stderr


def test_metrics_tell_of_each_webhook(own_hooks: Hooks, receiver: Receiver) -> None:
    added = own_hooks.add(receiver.url)
    service, webhook = own_hooks.service, f'{{webhook="{added["id"]}"}}'
    until(
        lambda: (
            f'dlr_webhook_pushes_total{{outcome="failed",webhook="{added["id"]}"}} 0.0'
            in service.get("/metrics").text
        )
    )
    assert service.metric(f"dlr_webhook_lag_changes{webhook}") == 0
    assert service.metric(f"dlr_webhook_lag_seconds{webhook}") == 0
    receiver.answers.put(answer(410))
    service.call_back(a_report())
    until(lambda: service.metric(f"dlr_webhook_disabled{webhook}") == 1)

    assert service.metric(f"dlr_webhook_failing{webhook}") == 1
    assert service.metric(f"dlr_webhook_lag_changes{webhook}") == 1
    assert service.metric(f"dlr_webhook_lag_seconds{webhook}") > 0
    assert service.metric(f"dlr_webhook_last_success_timestamp_seconds{webhook}") == 0
    own_hooks.enable(added["id"])
    until(lambda: service.metric(f"dlr_webhook_last_success_timestamp_seconds{webhook}") > 0)
    until(lambda: service.metric(f"dlr_webhook_lag_changes{webhook}") == 0)
    assert service.metric(f"dlr_webhook_failing{webhook}") == 0
    own_hooks.call("DELETE", f"/{added['id']}")
    until(lambda: f"dlr_webhook_lag_seconds{webhook}" not in service.get("/metrics").text)
