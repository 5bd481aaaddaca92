"""Two replicas behind nginx, as `deploy/nginx.conf` has them: one after the other may restart."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import httpx2
from sqlalchemy import URL

from tests.flow.proxies import nginx_as_deployed
from tests.process import (
    END_WITHIN_S,
    START_WITHIN_S,
    STARTER,
    Started,
    client_of,
    free_port,
    until,
)
from tests.service import READ_KEY, TOKEN, a_report

CALLERS = 3
PAUSE_S = 0.02


@contextmanager
def replica(port: int, environment: dict[str, str]) -> Iterator[Started]:
    with TemporaryFile() as output:
        arguments = ("serve", "--port", str(port))
        process = STARTER.start("app.cli", arguments, environment, output, output)
    try:
        with client_of(port) as http:
            until(lambda: is_ready(http), START_WITHIN_S)
        yield process
    finally:
        process.kill()
        process.wait(END_WITHIN_S)


def is_ready(http: httpx2.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def test_no_callback_goes_unanswered_while_one_replica_dies_and_then_the_other_restarts(
    postgres_url: URL, tmp_path: Path
) -> None:
    environment = {
        "DLR_DATABASE_URL": postgres_url.render_as_string(hide_password=False),
        "DLR_CALLBACK_TOKENS": TOKEN,
        "DLR_API_KEYS": f"reader:read:{READ_KEY}",
        "DLR_DATA_DIR": str(tmp_path / "data"),
        "DLR_DRAIN_SECONDS": "0",
    }
    ports = (free_port(), free_port())
    are_over = threading.Event()
    with ExitStack() as started:
        replicas = [started.enter_context(replica(port, environment)) for port in ports]
        proxy = started.enter_context(nginx_as_deployed(ports, tmp_path))
        with ThreadPoolExecutor(CALLERS) as callers:
            calls = [callers.submit(call_back, proxy, name, are_over) for name in range(CALLERS)]
            ends = (Started.kill, Started.terminate)
            for process, port, end in zip(replicas, ports, ends, strict=True):
                end(process)
                process.wait(END_WITHIN_S)
                started.enter_context(replica(port, environment))
            are_over.set()
        answers = {key: value for call in calls for key, value in call.result().items()}
        with client_of(proxy) as http:
            headers = {"Authorization": f"Bearer {READ_KEY}"}
            found = {name: http.get(f"/v1/messages/{name}", headers=headers) for name in answers}

    assert len(answers) > CALLERS
    assert set(answers.values()) == {200}
    assert {response.status_code for response in found.values()} == {200}


def call_back(port: int, caller: int, are_over: threading.Event) -> dict[str, int]:
    """Call back until the restarts are over: the status of each message's answer."""
    answers: dict[str, int] = {}
    with client_of(port) as http:
        while not are_over.wait(PAUSE_S):
            name = f"{caller}-{len(answers)}"
            path = f"/callback/paasoo/{TOKEN}?{a_report(messageid=name)}"
            answers[name] = http.get(path).status_code
    return answers


def test_nginx_writes_no_address_of_a_callback(tmp_path: Path) -> None:
    with nginx_as_deployed((free_port(), free_port()), tmp_path) as port, client_of(port) as http:
        assert http.get(f"/callback/paasoo/{TOKEN}?{a_report()}").status_code == 502

    written = "".join(file.read_text() for file in tmp_path.glob("*.log"))
    assert not re.search(f"{TOKEN}|6588888888", written)
