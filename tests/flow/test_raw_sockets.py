"""Any bytes on the socket get an answer of the contract, and the service goes on."""

import socket
from typing import NamedTuple

import pytest

from app.http import protocol
from tests.service import TOKEN, Service, a_report

# The statuses of the contract for the callback, without 503: nothing here causes it.
ANSWERS = frozenset({200, 400, 403, 404, 405, 414})
PATH = f"/callback/paasoo/{TOKEN}".encode()
HOST = b"Host: x\r\nConnection: close\r\n\r\n"
KEPT_OPEN = b"Host: x\r\n\r\n"
KEPT = a_report(messageid="kept").encode()
TURNED_AWAY = a_report(messageid="turned-away").encode()


def ask(
    query: bytes,
    *,
    method: bytes = b"GET",
    path: bytes = PATH,
    version: bytes = b"HTTP/1.1",
    head: bytes = HOST,
) -> bytes:
    return b"%b %b?%b %b\r\n%b" % (method, path, query, version, head)


def filled(query: bytes, size: int) -> bytes:
    """The query at `size` bytes, by a parameter that no guide names."""
    return query + b"&x=" + b"a" * (size - len(query) - len(b"&x="))


def connect(service: Service) -> socket.socket:
    """A connection on which waiting for too long is a failure."""
    return socket.create_connection(("127.0.0.1", service.port), timeout=10)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def send(service: Service, request: bytes) -> bytes:
    with connect(service) as connection:
        connection.sendall(request)
        return read_all(connection)


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer.split(b" ", 2)[1])


def statuses_of(answers: bytes) -> list[int]:
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


class Case(NamedTuple):
    label: str
    request: bytes
    status: int
    body: bytes = b""  # a part of it
    kept: str | None = None  # the query that is in the quarantine afterwards


def refused(label: str, query: bytes, code: bytes) -> Case:
    return Case(label, ask(query), 400, b'"code":"%b"' % code, query.decode("ascii"))


def broken(label: str, old: bytes, new: bytes, code: bytes) -> Case:
    assert old in TURNED_AWAY
    return refused(label, TURNED_AWAY.replace(old, new), code)


def unread(label: str, old: bytes, new: bytes) -> Case:
    """An optional value that can't be read, or not whole, costs its report nothing."""
    assert old in KEPT
    return Case(label, ask(KEPT.replace(old, new)), 200, b"OK")


def with_head(label: str, head: bytes, body: bytes = b"") -> Case:
    return Case(label, ask(KEPT, head=head + HOST) + body, 200, b"OK")


def not_allowed(method: bytes) -> Case:
    body = b"" if method == b"HEAD" else b'"code":"method_not_allowed"'
    return Case(f"method {method.decode()}", ask(TURNED_AWAY, method=method), 405, body)


# The contract gives the exact answer.
EXACT = [
    refused("no query", b"", b"missing_parameter"),
    refused("nothing but separators", b"&&&", b"missing_parameter"),
    refused("nothing but equal signs", b"===&=", b"missing_parameter"),
    refused("semicolons separate nothing", KEPT.replace(b"&", b";"), b"unsupported_type"),
    unread("escaped NUL", b"statuscode=delivered", b"statuscode=%00"),
    broken("NUL in the id", b"turned-away", b"turned%00away", b"invalid_encoding"),
    unread("%ff", b"statuscode=delivered", b"statuscode=%ff"),
    broken("%ff in the number", b"to=6588888888", b"to=65%ff", b"invalid_encoding"),
    unread("no hexadecimal digits", b"network=52099", b"network=%zz"),
    unread("escape cut off", b"network=52099", b"network=5%2"),
    broken("escape cut off in the status", b"status=0", b"status=0%2", b"invalid_encoding"),
    unread("lone percent sign", b"network=52099", b"network=%"),
    unread("lone surrogate", b"=delivered", b"=%ed%a0%80"),
    unread("overlong slash", b"=delivered", b"=%c0%af"),
    unread("overlong NUL", b"=delivered", b"=%c0%80"),
    unread("beyond Unicode", b"=delivered", b"=%f4%90%80%80"),
    unread("emoji cut off", b"=delivered", b"=%f0%9f%98"),
    unread("statuscode of 5000 characters", b"=delivered", b"=" + b"x" * 5000),
    unread("bytes of GBK, not escaped", b"=delivered", b"=\xbf\xd5\xba\xc5"),
    broken("emoji in the id", b"turned-away", b"%F0%9F%98%80", b"invalid_parameter"),
    broken("two ids", b"&to=", b"&messageid=other&to=", b"duplicate_parameter"),
    broken("two ids, one key escaped", b"&to=", b"&message%69d=b&to=", b"duplicate_parameter"),
    broken("status of 5000 digits", b"status=0", b"status=" + b"9" * 5000, b"invalid_parameter"),
    broken("to of 5000 digits", b"to=6588888888", b"to=" + b"6" * 5000, b"invalid_parameter"),
    broken("id of 5000 characters", b"turned-away", b"a" * 5000, b"invalid_parameter"),
    broken("negative status", b"status=0", b"status=-1", b"invalid_parameter"),
    broken("digits of another script", b"status=0", b"status=%D9%A3", b"invalid_parameter"),
    Case("emoji escaped", ask(KEPT.replace(b"delivered", b"%F0%9F%98%80")), 200, b"OK"),
    Case("keys escaped", ask(KEPT.replace(b"messageid", b"%6Dessage%69d")), 200, b"OK"),
    Case("7 KiB", ask(filled(KEPT, 7 * 1024)), 200, b"OK"),
    Case("8 KiB", ask(filled(KEPT, 8 * 1024)), 200, b"OK"),
    Case("question marks", ask(KEPT + b"&x=??"), 200, b"OK"),
    Case("absolute form", ask(KEPT, path=b"http://x:80" + PATH), 200, b"OK"),
    Case("HTTP/1.0", ask(KEPT, version=b"HTTP/1.0", head=b"\r\n"), 200, b"OK"),
    with_head("body", b"Content-Length: 5\r\n", b"hello"),
    with_head("chunked body", b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    with_head("body announced and not sent", b"Content-Length: 5\r\n"),
    with_head("100-continue", b"Expect: 100-continue\r\nContent-Length: 5\r\n"),
    with_head("unknown expectation", b"Expect: a-miracle\r\n"),
    with_head("header not ASCII", b"X-A: \xff\xfe\r\n"),
    with_head("upgrade to what we don't speak", b"Upgrade: h2c\r\n"),
    *map(not_allowed, (b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE")),
    *map(not_allowed, (b"CONNECT", b"PROPFIND")),
    Case("path with dots", ask(TURNED_AWAY, path=b"/callback/../" + PATH), 404, b"not_found"),
    Case("path with a NUL", ask(TURNED_AWAY, path=PATH + b"%00"), 404, b"not_found"),
    Case("path not UTF-8", ask(TURNED_AWAY, path=b"/callback/paasoo/%ff"), 404, b"not_found"),
    Case("path of a surrogate", ask(TURNED_AWAY, path=PATH + b"%ed%a0%80"), 404, b"not_found"),
    Case("path escaped twice", ask(TURNED_AWAY, path=PATH + b"%252e"), 404, b"not_found"),
]

# Not quite HTTP, or HTTP with liberties: any answer of the contract will do.
ODD = {
    "raw NUL": ask(KEPT + b"&x=\0"),
    "raw space": ask(KEPT + b"&x= y"),
    "raw tab": ask(KEPT + b"&x=\t"),
    "raw bytes in the path": ask(TURNED_AWAY, path=b"/callback/paasoo/\xff\xfe"),
    "raw UTF-8 in another path": ask(b"", path="/é".encode()),
    "unescaped #": ask(b"type=dlr#" + TURNED_AWAY),
    "no host": ask(KEPT, head=b"Connection: close\r\n\r\n"),
    "HTTP/9.9": ask(TURNED_AWAY, version=b"HTTP/9.9"),
    "no such protocol": ask(TURNED_AWAY, version=b"GOPHER/1.1"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "bare line feeds": ask(KEPT).replace(b"\r\n", b"\n"),
    "folded header": ask(KEPT, head=b"X-A: b\r\n  c\r\n" + HOST),
    "huge header": ask(KEPT, head=b"X-A: " + b"a" * 100_000 + b"\r\n" + HOST),
    "very many headers": ask(KEPT, head=b"X-A: b\r\n" * 2_000 + HOST),
    "space before the colon": ask(KEPT, head=b"X-A : b\r\n" + HOST),
    "NUL in a header": ask(KEPT, head=b"X-A: \0\r\n" + HOST),
    "unknown method": ask(TURNED_AWAY, method=b"BREW"),
    "method in small letters": ask(TURNED_AWAY, method=b"get"),
    "negative length": ask(KEPT, head=b"Content-Length: -5\r\n" + HOST),
    "two lengths": ask(KEPT, head=b"Content-Length: 5\r\nContent-Length: 6\r\n" + HOST),
    "length and chunks": ask(
        KEPT, head=b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" + HOST
    ),
    "chunk that is none": ask(KEPT, head=b"Transfer-Encoding: chunked\r\n" + HOST) + b"zz\r\n",
    "path without a slash": ask(TURNED_AWAY, path=b"callback"),
    "asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST,
    "authority": b"CONNECT x:443 HTTP/1.1\r\n" + HOST,
    "no path": b"GET  HTTP/1.1\r\n" + HOST,
}


def assert_still_works(service: Service) -> None:
    assert service.call_back(a_report(messageid="afterwards")).status_code == 200
    assert service.message("afterwards")["state"] == "delivered"


def test_callback_answers_and_keeps_exactly_what_the_contract_says(service: Service) -> None:
    found = [(case, send(service, case.request)) for case in EXACT]

    wrong = [
        (case.label, answer)
        for case, answer in found
        if status_of(answer) != case.status or case.body not in answer
    ]
    assert wrong == []
    assert {row["query"] for row in service.quarantine()} == {
        case.kept for case in EXACT if case.kept is not None
    }
    assert service.get("/v1/messages/turned-away").status_code == 404
    assert_still_works(service)


def test_what_is_hardly_http_is_answered_and_harms_nothing(service: Service) -> None:
    statuses = {label: status_of(send(service, request)) for label, request in ODD.items()}

    assert {label: status for label, status in statuses.items() if status not in ANSWERS} == {}
    assert service.get("/v1/messages/turned-away").status_code == 404
    assert_still_works(service)


@pytest.mark.parametrize("size", [8 * 1024 + 1, *(kib * 1024 for kib in (9, 63, 64, 65, 70))])
def test_longer_query_is_414_however_long_and_not_stored(service: Service, size: int) -> None:
    answer = send(service, ask(filled(TURNED_AWAY, size)))

    assert status_of(answer) == 414
    assert b'"code":"query_too_long"' in answer
    assert service.get("/v1/messages/turned-away").status_code == 404
    assert service.quarantine() == []
    assert_still_works(service)


@pytest.mark.parametrize(
    "value",
    [
        b"\xf0\x9f\x98\x80",
        "não entregue".encode(),
        b"Absent Subscriber Temporary",
        b"\xff\xfe",
        b"a\0b",
        b"a#b",
    ],
    ids=["emoji", "UTF-8 text", "spaces", "not UTF-8", "NUL", "hash"],
)
def test_report_with_unescaped_bytes_is_not_lost(service: Service, value: bytes) -> None:
    answer = send(service, ask(KEPT.replace(b"delivered", value)))

    assert status_of(answer) == 200
    assert service.message("kept")["deliveries"]
    assert service.quarantine() == []


def test_pipelined_requests_are_answered_in_order(service: Service) -> None:
    first = ask(a_report(messageid="first").encode(), head=KEPT_OPEN)
    second = ask(b"", head=KEPT_OPEN)
    third = ask(a_report(messageid="third").encode())

    answers = send(service, first + second + third)

    assert statuses_of(answers) == [200, 400, 200]
    assert service.message("first")["final"]
    assert service.message("third")["final"]


def test_half_a_request_keeps_nobody_waiting(service: Service) -> None:
    for part in (b"G", b"GET " + PATH, ask(KEPT)[:-2]):
        with connect(service) as half:
            half.sendall(part)

            assert_still_works(service)  # while it is open

            half.shutdown(socket.SHUT_WR)
            assert read_all(half)[:13] in {b"", b"HTTP/1.1 400 "}
        assert service.get("/v1/messages/kept").status_code == 404
        assert_still_works(service)


def test_request_that_comes_byte_by_byte_is_taken(service: Service) -> None:
    request = ask(KEPT)
    with connect(service) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for position in range(len(request)):
            connection.sendall(request[position : position + 1])

        answer = read_all(connection)

    assert status_of(answer) == 200
    assert service.message("kept")["state"] == "delivered"


def test_report_is_stored_though_its_caller_left(service: Service) -> None:
    with connect(service) as leaver:
        leaver.sendall(ask(KEPT, head=KEPT_OPEN) + ask(KEPT)[:20])
        assert leaver.recv(1)  # admitted, and answered

    assert service.message("kept")["state"] == "delivered"
    assert_still_works(service)


def test_a_head_that_does_not_come_is_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.2)
    for part in (b"", b"GET /livez", ask(KEPT)[:-2]):
        with connect(service) as half:
            half.sendall(part)
            assert half.recv(1) == b""  # it hung up; a socket time-out fails the test

    with connect(service) as slow:  # a second request, after one that was answered
        slow.sendall(ask(KEPT, head=KEPT_OPEN))
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        slow.sendall(b"GET /livez")
        assert slow.recv(1) == b""


def test_a_head_without_an_end_is_cut_off(service: Service) -> None:
    with connect(service) as endless:
        endless.sendall(b"GET /livez HTTP/1.1\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            for _ in range(10_000):
                endless.sendall(b"X-A: b\r\n" * 1000)
    assert_still_works(service)


def test_many_requests_in_one_packet_are_answered_one_after_the_other(service: Service) -> None:
    together = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + 600 * (
        b"GET /callback/paasoo/wrong?x HTTP/1.1\r\nHost: x\r\n\r\n"
    )

    answers = send(service, together + ask(KEPT))

    assert answers.count(b"HTTP/1.1 404 Not Found") == 600
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert len(service.reports("kept")) == 1
