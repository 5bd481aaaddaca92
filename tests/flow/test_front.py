"""The front as proxies, shells and people meet it: addresses, prefixes, signals, and the log."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import URL

from tests.flow import proxies
from tests.flow.test_raw_sockets import KEPT_OPEN, ask, connect, send, status_of
from tests.process import PROGRAM, free_port, is_listening, serving, until
from tests.service import READ_KEY, TOKEN, Service, a_report, running_service

SECRETS = {"DLR_CALLBACK_TOKENS": TOKEN, "DLR_API_KEYS": f"reader:read:{READ_KEY}"}
PATH = f"/callback/paasoo/{TOKEN}".encode()


@pytest.mark.parametrize("end", [b"/", b"//", b"%20", b" ", b"/%20", b"%0D%0A", b"%09", b"%C2%A0"])
def test_what_a_pasted_address_ends_in_is_ignored(service: Service, end: bytes) -> None:
    answer = send(service, ask(a_report(messageid="pasted").encode(), path=PATH + end))

    assert status_of(answer) == 200
    assert service.delivery("pasted")["state"] == "delivered"


@pytest.mark.parametrize("end", [b"/x", b"%00", b"x/", b"%2e"])
def test_anything_else_behind_the_token_is_another_path(service: Service, end: bytes) -> None:
    answer = send(service, ask(a_report(messageid="pasted").encode(), path=PATH + end))

    assert status_of(answer) == 404
    assert service.get("/v1/messages/pasted").status_code == 404


def test_the_host_of_all_addresses_takes_ipv4_and_ipv6() -> None:
    with serving(**SECRETS, DLR_HOST="::") as service:
        port = service.http.base_url.port
        answers = [
            httpx2.get(f"http://{host}:{port}/livez", trust_env=False).status_code
            for host in ("127.0.0.1", "[::1]")
        ]

    assert answers == [200, 200]


@pytest.fixture
def _sighup_is_not_ignored() -> Iterator[None]:
    """Undo what nohup, say, has done to whoever runs the tests: children would inherit it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_sighup_is_not_ignored")
def test_sighup_drains_as_sigterm_does() -> None:
    with serving(**SECRETS, DLR_DRAIN_SECONDS="3") as service:
        service.process.send_signal(signal.SIGHUP)
        until(lambda: service.http.get("/readyz").status_code == 503)
        answer = service.http.get(f"/callback/paasoo/{TOKEN}?{a_report()}")

        assert answer.status_code == 200
        assert service.process.wait(10) == 0


def test_under_a_prefix_the_document_says_so_and_all_paths_stay(database_url: URL) -> None:
    with running_service(database_url, root_path="/v1/") as service:
        document = service.http.get("/openapi.json").json()
        assert document["servers"] == [{"url": "/v1"}]
        assert service.call_back(a_report()).status_code == 200
        assert service.delivery()["state"] == "delivered"
        assert service.get("/v1/messages/052804b7368321?wait=0").status_code == 200
        assert service.get("/nothing").status_code == 404


def test_behind_nginx_with_a_prefix_the_docs_work(database_url: URL, tmp_path: Path) -> None:
    with running_service(database_url, root_path="/sms") as service:
        prefix = {"location": "/sms/", "replaced_by": "/"}
        with (
            proxies.nginx(service.port, tmp_path, **prefix) as port,
            httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
        ):
            page = http.get("/sms/docs")
            assets = ("swagger-ui-bundle.js", "swagger-ui.css")
            found = [http.get(page.url.join(f"docs/assets/{asset}")) for asset in assets]

            assert "/sms/openapi.json" in page.text
            assert http.get("/sms/openapi.json").json()["servers"] == [{"url": "/sms"}]
            assert [asset.status_code for asset in found] == [200, 200]
            assert all(f"docs/assets/{asset}" in page.text for asset in assets)


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    unread, stderr = os.pipe()
    port = free_port()
    environment = {"PATH": os.defpath, **SECRETS, "DLR_DRAIN_SECONDS": "0"}
    process = subprocess.Popen(
        [PROGRAM, "serve", "--port", str(port)], env=environment, stderr=stderr
    )
    try:
        until(lambda: is_listening(port), 30)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            key = {"Authorization": f"Bearer {READ_KEY}"}
            dropped = 0.0
            turned_away = 500 * ask(b"x=1", path=b"/callback/paasoo/wrong", head=KEPT_OPEN)
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                while not dropped:  # each leaves a line; the test's own limit ends it
                    connection.sendall(turned_away)
                    answers = b""
                    while answers.count(b"HTTP/1.1 404") < 500:
                        answers += connection.recv(65536)
                    lines = http.get("/metrics", headers=key).text.splitlines()
                    name = "dlr_log_lines_dropped_total "
                    (dropped,) = [float(line.split()[1]) for line in lines if line.startswith(name)]
            assert http.get(f"/callback/paasoo/{TOKEN}?{a_report()}").status_code == 200
            assert http.get("/livez").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(unread)
        os.close(stderr)


def test_a_connection_is_kept_as_long_as_the_setting_says(database_url: URL) -> None:
    with (
        running_service(database_url, keep_alive_seconds=0.2) as service,
        connect(service) as connection,
    ):
        connection.sendall(ask(a_report().encode(), head=KEPT_OPEN))
        assert status_of(connection.recv(65536)) == 200
        assert connection.recv(1) == b""
