"""Requests behind a callback are answered behind it, and the connection ends after the last."""

import socket
import time

import pytest
from sqlalchemy import URL

from app.http import protocol
from tests.flow.test_raw_sockets import KEPT_OPEN, ask, connect, read_all, status_of, statuses_of
from tests.ingest.test_batches import held_up_writes
from tests.process import is_listening, until
from tests.service import Service, a_report, running_service

QUERY = a_report().encode()
CALLBACK = ask(QUERY, head=KEPT_OPEN)
MESSAGE_ID = "052804b7368321"


def test_what_comes_behind_a_callback_is_answered_behind_it(service: Service) -> None:
    refused, other = (
        ask(b"type=mo", head=KEPT_OPEN),
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    with connect(service) as connection:
        with held_up_writes(service.database_url):
            send_apart(service, connection, CALLBACK, refused, other, ask(QUERY))
        answers = read_all(connection)

    assert statuses_of(answers) == [200, 400, 200, 200]
    assert service.reports(MESSAGE_ID)[0]["times_received"] == 2


@pytest.mark.parametrize(
    "behind",
    [b"", ask(QUERY, head=KEPT_OPEN), ask(QUERY, head=b"Expect: x\r\nHost: x\r\n\r\n")],
)
def test_the_end_of_the_service_answers_what_waits_and_what_is_behind_it(
    database_url: URL, behind: bytes
) -> None:
    with running_service(database_url) as service, connect(service) as connection:
        with held_up_writes(database_url):
            send_apart(service, connection, CALLBACK, behind)
            service.server.close()
            until(lambda: not is_listening(service.port))
        answers = read_all(connection)

    assert statuses_of(answers) == [200, 200] if behind else [200]
    assert answers.count(b"connection: close\r\n") == 1
    assert answers.rindex(b"connection: close") > answers.rindex(b"HTTP/1.1 200")


@pytest.mark.parametrize("together", [2, 3])
def test_requests_in_one_packet_are_all_answered_while_it_drains(
    own_service: Service, together: int
) -> None:
    own_service.app.parts.draining.set()
    with connect(own_service) as connection:
        connection.sendall(CALLBACK * together)
        answers = read_all(connection)

    assert statuses_of(answers) == [200] * together
    assert answers.count(b"connection: close\r\n") == 1
    assert answers.rindex(b"connection: close") > answers.rindex(b"HTTP/1.1 200")


def test_the_end_of_the_service_is_not_kept_by_half_a_request_behind(database_url: URL) -> None:
    with running_service(database_url) as service, connect(service) as connection:
        with held_up_writes(database_url):
            send_apart(service, connection, CALLBACK, CALLBACK[:-10])
            service.server.close()
            until(lambda: not is_listening(service.port))
        assert statuses_of(read_all(connection)) == [200]


def test_a_connection_stays_open_between_callbacks_and_while_one_waits(
    database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    with (
        running_service(database_url, keep_alive_seconds=0.3) as service,
        connect(service) as connection,
    ):
        for _ in range(2):
            connection.sendall(CALLBACK)
            assert status_of(connection.recv(65536)) == 200
            time.sleep(0.15)  # past the one, the only way to see that nothing happens
        with held_up_writes(database_url):
            connection.sendall(CALLBACK)
            time.sleep(0.35)  # past the other
        assert status_of(connection.recv(65536)) == 200
        assert connection.recv(1) == b""  # in the end it is not kept for ever


def send_apart(service: Service, connection: socket.socket, first: bytes, *others: bytes) -> None:
    """The others once the first waits for its commit."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(first)
    until(lambda: service.app.parts.writer.queued == 1)
    for other in others:
        connection.sendall(other)
