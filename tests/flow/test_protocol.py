"""The protocol's own promises, through real sockets: bounds, ends of connections, odd clients."""

import asyncio
import json
import socket
import threading
import time
from contextlib import suppress
from hashlib import sha256
from inspect import getsource

import pytest
from sqlalchemy import URL
from uvicorn.protocols.http import flow_control, httptools_impl

from app.http import protocol
from tests.flow.differential import differing
from tests.flow.test_raw_sockets import (
    KEPT_OPEN,
    ask,
    connect,
    read_all,
    send,
    status_of,
    statuses_of,
)
from tests.ingest.test_batches import held_up_writes
from tests.process import until
from tests.service import ADMIN_KEY, READ_KEY, Service, a_report, running_service

MIB = 1024 * 1024
REPORT = a_report(messageid="kept").encode()
KEY = b"Authorization: Bearer %b\r\n" % READ_KEY.encode()
UNDERSTOOD = "e0949cf941b154da"


def test_uvicorn_inside_is_the_one_that_our_protocol_was_written_for() -> None:
    """Ours calls into uvicorn's cycle: read what changed before the new digest goes here."""
    inside = getsource(httptools_impl.RequestResponseCycle) + getsource(flow_control.FlowControl)

    assert sha256(inside.encode()).hexdigest()[:16] == UNDERSTOOD, (
        "uvicorn's RequestResponseCycle or FlowControl has changed: compare with app/http/cycle.py "
        "and app/http/protocol.py, then note the new digest"
    )


@pytest.mark.parametrize("seed", range(2))
def test_the_short_way_the_routed_way_and_plain_uvicorn_read_the_same(seed: int) -> None:
    told: list[str] = []

    assert asyncio.run(differing(500, seed, told.append)) == 0, told


@pytest.mark.parametrize(
    "head",
    [
        b"Transfer-Encoding: identity\r\nHost: x\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\nHost: x\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\nHost: x\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nHost: x\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\nHost: x\r\n\r\n5\r\nhelloo\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nHost: x\r\n\r\n5\r\nhello\r\n0\r\nX: \0\r\n\r\n",
        b"Content-Length: 5, 6\r\nHost: x\r\n\r\n",
        b"Host: x\r\nHost: x\r\n\r\n",
        b"\r\n",
    ],
)
@pytest.mark.parametrize("shortcuts", ["on", "off"])
def test_a_report_that_is_refused_late_is_not_stored(
    database_url: URL, head: bytes, shortcuts: str
) -> None:
    with running_service(database_url, shortcuts=shortcuts) as service:
        answer = send(service, ask(REPORT, head=head))

        assert statuses_of(answer) == [400]
        assert b'"code":"malformed_request"' in answer
        assert b"\r\nx-request-id: " in answer
        assert service.get("/v1/messages/kept").status_code == 404
        assert service.quarantine() == []


def test_a_refusal_has_its_id_in_the_log(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"X-Request-Id: mine\r\nContent-Length: abc\r\nHost: x\r\n\r\n"

    answer = send(service, ask(REPORT, head=head))

    assert b"\r\nx-request-id: mine\r\n" in answer
    (refused,) = (it for it in caplog.records if it.getMessage() == "request refused")
    assert refused.__dict__["request_id"] == "mine"


def test_rubbish_behind_a_callback_doesnt_change_its_answer(service: Service) -> None:
    answers = send(service, ask(REPORT, head=KEPT_OPEN) + b"\0rubbish\r\n\r\n")

    assert statuses_of(answers) == [200, 400]
    assert service.message("kept")["state"] == "delivered"


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_a_stream_comes_in_chunks_only_to_who_knows_chunks(
    own_service: Service, version: bytes
) -> None:
    own_service.call_back(REPORT.decode())
    request = b"GET /v1/changes/stream %b\r\n%bHost: x\r\n\r\n" % (version, KEY)
    with connect(own_service) as stream:
        stream.sendall(request)
        answer = b""
        while b"\n\n" not in answer.partition(b"\r\n\r\n")[2]:
            answer += stream.recv(65536)
        own_service.server.close()
        answer += read_all(stream)

    head, _, body = answer.partition(b"\r\n\r\n")
    assert (b"transfer-encoding: chunked" in head) == (version == b"HTTP/1.1")
    assert body.startswith(b"event: delivery\n") == (version == b"HTTP/1.0")


LOOKUP = json.dumps({"messageids": ["kept"]}).encode()
LOOKUP_REQUEST = (
    b"POST /v1/messages/lookup HTTP/1.1\r\n%bHost: x\r\nContent-Length: %d\r\n"
    b"Content-Type: application/json\r\n\r\n%b" % (KEY, len(LOOKUP), LOOKUP)
)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (ask(REPORT, head=KEPT_OPEN), b"OK"),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"alive"),
        (b"GET /v1/messages/kept HTTP/1.1\r\n%bHost: x\r\n\r\n" % KEY, b"delivered"),
        (
            b"GET /v1/messages/none?wait=60 HTTP/1.1\r\n%bHost: x\r\n\r\n" % KEY,
            b"message_not_found",
        ),
        (LOOKUP_REQUEST, b"delivered"),
    ],
)
def test_a_client_that_has_closed_its_half_is_answered(
    service: Service, request_: bytes, body: bytes
) -> None:
    service.call_back(REPORT.decode())
    with connect(service) as half_closed:
        with held_up_writes(service.database_url):
            half_closed.sendall(request_)
            half_closed.shutdown(socket.SHUT_WR)
        answer = read_all(half_closed)

    assert body in answer


def test_a_body_in_chunks_without_end_is_refused_and_nothing_is_stored(service: Service) -> None:
    with connect(service) as endless:
        endless.sendall(ask(REPORT, head=b"Transfer-Encoding: chunked\r\nHost: x\r\n\r\n"))
        chunk = b"%x\r\n%b\r\n" % (MIB // 2, bytes(MIB // 2))
        for _ in range(2):
            endless.sendall(chunk)
        endless.sendall(b"1\r\nx\r\n")
        answer = read_all(endless)

    assert status_of(answer) == 413
    assert b'"code":"body_too_large"' in answer
    assert service.get("/v1/messages/kept").status_code == 404


@pytest.mark.parametrize("length", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_body_that_does_not_come_is_not_waited_for(
    service: Service, length: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_TIMEOUT_S", 0.2)
    head = b"POST /v1/messages/lookup HTTP/1.1\r\n%b%b\r\nHost: x\r\n\r\n" % (KEY, length)
    with connect(service) as slow:
        slow.sendall(head + b"1\r\n")
        answer = read_all(slow)

    assert status_of(answer) == 408
    assert b'"code":"request_timeout"' in answer


def test_an_answer_before_the_body_ends_the_connection_but_is_read(service: Service) -> None:
    head = b"POST /v1/messages/lookup HTTP/1.1\r\nContent-Length: %d\r\nHost: x\r\n\r\n"
    with connect(service) as sender:
        sender.sendall(head % (MIB // 2))
        sender.sendall(bytes(MIB // 4))
        answer = read_all(sender)

    assert status_of(answer) == 401
    assert b"connection: close" in answer


@pytest.mark.parametrize("behind", [b"0\r\nA: ", b"1;"], ids=["trailer", "chunk extension"])
def test_what_stands_around_chunks_is_bounded(service: Service, behind: bytes) -> None:
    head = b"Transfer-Encoding: chunked\r\nHost: x\r\n\r\n"
    with connect(service) as endless:
        endless.sendall(ask(b"x=1", path=b"/callback/paasoo/wrong", head=head) + behind)
        with suppress(OSError):  # it may be closed before all is sent
            endless.sendall(b"x" * MIB)
        answer = read_all(endless)

    assert status_of(answer) == 400
    assert b"too large" in answer


def test_a_request_whose_body_is_cut_off_is_not_carried_out(service: Service) -> None:
    assert service.call_back("type=dlr").status_code == 400
    (row,) = service.quarantine()
    path = f"/v1/quarantine/{row['id']}".encode()
    key = b"Authorization: Bearer %b\r\n" % ADMIN_KEY.encode()
    with connect(service) as half_closed:
        half_closed.sendall(
            b"DELETE %b HTTP/1.1\r\n%bContent-Length: 9\r\nHost: x\r\n\r\n" % (path, key)
        )
        half_closed.shutdown(socket.SHUT_WR)
        answer = read_all(half_closed)

    assert status_of(answer) == 400
    assert service.quarantine() == [row]


def test_a_stream_whose_client_has_closed_its_half_ends_without_an_error(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        with connect(service) as half_closed:
            half_closed.sendall(b"GET /v1/changes/stream HTTP/1.1\r\n%bHost: x\r\n\r\n" % KEY)
            half_closed.shutdown(socket.SHUT_WR)
            read_all(half_closed)
    until(lambda: service.app.parts.watch.streams == 0)

    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_body_in_chunks_that_waits_for_leave_gets_it(service: Service, version: bytes) -> None:
    head = b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n"
    request = ask(REPORT, head=head).replace(b"HTTP/1.1", b"HTTP/" + version)
    with connect(service) as waiting:
        waiting.sendall(request)
        if version == b"1.1":
            assert waiting.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        waiting.sendall(b"0\r\n\r\n")
        waiting.shutdown(socket.SHUT_WR)
        answer = read_all(waiting)

    assert b"100 Continue" not in answer
    assert statuses_of(answer) in ([200], [400])  # chunks are no part of HTTP/1.0


def test_a_body_is_a_body_and_the_connection_is_kept(service: Service) -> None:
    with connect(service) as kept:
        for _ in range(2):
            kept.sendall(LOOKUP_REQUEST)
            answer = b""
            while not answer.endswith(b"}"):
                answer += kept.recv(65536)
            assert status_of(answer) == 200
        kept.sendall(ask(REPORT))
        assert statuses_of(read_all(kept)) == [200]


def test_a_head_that_stops_behind_a_callback_doesnt_take_its_answer(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.2)
    with connect(service) as slow:
        with held_up_writes(service.database_url):
            slow.sendall(ask(REPORT, head=KEPT_OPEN) + b"GET /livez")
            time.sleep(0.5)  # past the limit, the only way to see that nothing happens
        answer = read_all(slow)

    assert statuses_of(answer) == [200]
    assert b"connection: close" in answer


def test_a_flood_of_rubbish_behind_a_callback_doesnt_take_its_answer(service: Service) -> None:
    with connect(service) as flooding:
        with held_up_writes(service.database_url):
            flooding.sendall(ask(REPORT, head=KEPT_OPEN) + b"\0")
            sender = threading.Thread(target=_send_all, args=(flooding, bytes(8 * MIB)))
            sender.start()
            until(lambda: service.app.parts.writer.queued == 1)
        answer = b""
        while b"HTTP/1.1 400" not in answer:
            answer += flooding.recv(65536)
    sender.join()

    assert statuses_of(answer)[:2] == [200, 400]


def _send_all(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        connection.sendall(data)
