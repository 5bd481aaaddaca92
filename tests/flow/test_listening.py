"""Sockets that systemd keeps open for `serve`: nobody is refused while it restarts."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import IO, Any

import pytest
from sqlalchemy import URL

from tests.process import END_WITHIN_S, PROGRAM, client_of, is_listening, serving, until
from tests.service import READ_KEY, TOKEN, a_report

# As systemd does: the sockets are 3, 4 and so on, and the variables say for which process.
HAND_OVER = """
import os, sys
descriptors, *command = sys.argv[1:]
given = [int(descriptor) for descriptor in descriptors.split(",")]
high = [os.dup2(descriptor, 100 + descriptor) for descriptor in given]
for place, descriptor in enumerate(high, start=3):
    os.dup2(descriptor, place)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.environ.setdefault("LISTEN_FDS", str(len(given)))
os.execv(command[0], command)
"""
SECRETS = {"DLR_CALLBACK_TOKENS": TOKEN, "DLR_API_KEYS": f"reader:read:{READ_KEY}"}


class Activated:
    """`serve` as systemd starts it, with sockets that stay open when it ends."""

    def __init__(self, *given: socket.socket | IO[Any], **environment: str) -> None:
        descriptors = [one.fileno() for one in given]
        handed = ",".join(map(str, descriptors))
        self.log = Path(f"serve-{os.urandom(4).hex()}.log").resolve()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-IS", "-c", HAND_OVER, handed, PROGRAM, "serve"],
                env={"PATH": os.defpath, "DLR_DRAIN_SECONDS": "0", **SECRETS, **environment},
                stderr=log,
                stdout=log,
                pass_fds=descriptors,
            )

    def stop(self) -> int:
        self.process.send_signal(SIGTERM)
        return self.process.wait(END_WITHIN_S)


@contextmanager
def activated(*given: socket.socket | IO[Any], **environment: str) -> Iterator[Activated]:
    program = Activated(*given, **environment)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as opened:
        yield opened


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def call_back_until(over: threading.Event, port: int, caller: int) -> list[tuple[str, bytes]]:
    """A callback after the other, each on a connection of its own: the ids and their answers."""
    answers: list[tuple[str, bytes]] = []
    while not over.wait(0.03):
        message_id = f"m-{caller}-{len(answers)}"
        request = f"GET /callback/paasoo/{TOKEN}?{a_report(messageid=message_id)} HTTP/1.1"
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(f"{request}\r\nHost: x\r\n\r\n".encode())
            answers.append((message_id, connection.recv(65536)[:15]))
    return answers


def test_every_callback_is_answered_while_serve_restarts(
    postgres_url: URL, listener: socket.socket
) -> None:
    environment = {"DLR_DATABASE_URL": postgres_url.render_as_string(hide_password=False)}
    port, over = port_of(listener), threading.Event()
    with ThreadPoolExecutor(2) as callers:
        calling = [callers.submit(call_back_until, over, port, number) for number in range(2)]
        try:
            with activated(listener, **environment) as program, client_of(port) as http:
                assert http.get("/livez").status_code == 200
                assert program.stop() == 0
            with activated(listener, **environment), client_of(port) as http:
                assert http.get("/livez").status_code == 200
                over.set()
                answers = [answer for done in calling for answer in done.result()]
                found = lookups(http, [message_id for message_id, _ in answers])
        finally:
            over.set()

    assert len(answers) >= 4
    assert {answer for _, answer in answers} == {b"HTTP/1.1 200 OK"}
    assert found == {message_id for message_id, _ in answers}


def lookups(http: Any, message_ids: list[str]) -> set[str]:
    key = {"Authorization": f"Bearer {READ_KEY}"}
    found: set[str] = set()
    for first in range(0, len(message_ids), 1000):
        wanted = {"messageids": message_ids[first : first + 1000]}
        answer = http.post("/v1/messages/lookup", json=wanted, headers=key)
        found |= {message["messageid"] for message in answer.json()["messages"]}
    return found


def test_it_serves_on_each_of_several_sockets(listener: socket.socket) -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as other,
        activated(listener, other, LISTEN_FDNAMES="public:private") as program,
    ):
        with client_of(port_of(listener)) as http:
            first = http.get("/livez").status_code
            second = http.get(f"http://[::1]:{port_of(other)}/livez").status_code
        assert program.stop() == 0

    assert (first, second) == (200, 200)
    assert f"127.0.0.1:{port_of(listener)}" in program.log.read_text()


def test_sockets_for_another_process_are_left_alone() -> None:
    with serving(LISTEN_PID="1", LISTEN_FDS="1", **SECRETS) as program:
        assert program.http.get("/livez").status_code == 200


@pytest.fixture(params=["a file", "a client's", "a path"])
def unusable(request: pytest.FixtureRequest, listener: socket.socket) -> Iterator[Any]:
    with (
        Path("a-file").open("wb") as file,
        socket.create_connection(listener.getsockname()) as client,
        socket.socket(socket.AF_UNIX) as path,
    ):
        path.bind("a-socket")
        path.listen()
        yield {"a file": file, "a client's": client, "a path": path}[request.param]


def assert_refused(program: Activated, part: str) -> None:
    assert program.process.wait(30) == 2
    (line,) = program.log.read_text().splitlines()
    assert line.startswith("paasoo-dlr: LISTEN_FDS: ")
    assert part in line


def test_what_cannot_be_served_on_is_one_clear_error(unusable: Any) -> None:
    with activated(unusable, LISTEN_FDNAMES="odd") as program:
        assert_refused(program, "descriptor 3 (odd) is no")


def test_a_socket_that_is_missing_is_one_clear_error(listener: socket.socket) -> None:
    with activated(listener, LISTEN_FDS="2") as program:
        assert_refused(program, "descriptor 4 is no")


def test_a_request_that_is_on_its_way_when_the_port_closes_is_answered() -> None:
    request = f"GET /callback/paasoo/{TOKEN}?{a_report()} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with serving(DLR_DRAIN_SECONDS="0", **SECRETS) as program:
        port = program.http.base_url.port
        assert port
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as unused,
            socket.create_connection(("127.0.0.1", port), timeout=10) as begun,
        ):
            begun.sendall(request[:30])
            program.http.get("/livez")  # it has accepted the two by now
            program.process.send_signal(SIGTERM)
            until(lambda: not is_listening(port))
            unused.sendall(request)
            begun.sendall(request[30:])
            answers = [one.recv(65536)[:15] for one in (unused, begun)]
            assert program.process.wait(END_WITHIN_S) == 0

    assert answers == [b"HTTP/1.1 200 OK"] * 2


def test_a_connection_without_a_request_holds_up_the_end_only_for_a_moment() -> None:
    with serving(DLR_DRAIN_SECONDS="0", **SECRETS) as program:
        port = program.http.base_url.port
        with socket.create_connection(("127.0.0.1", port), timeout=10) as unused:
            program.http.get("/livez")
            program.process.send_signal(SIGTERM)
            assert program.process.wait(END_WITHIN_S) == 0
            assert unused.recv(1) == b""
