"""The way without a parser: it takes what is usual, and reads it as the parser would."""

import socket
import time
from collections.abc import Iterable
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL
from uvicorn.protocols.http import httptools_impl

from app import server
from app.callback.usual import MAX_BYTES, usual_callback
from tests.flow.test_raw_sockets import ask, connect, read_all, status_of, statuses_of
from tests.ingest.test_batches import held_up_writes
from tests.process import is_listening, until
from tests.service import Service, a_report, running_service

CLIENT = ("203.0.113.7", 40000)
QUERY = a_report().encode()
USUAL = ask(QUERY, head=b"Host: x\r\n\r\n")
EXPECT = b"Expect: x\r\n\r\n"  # unusual, and without effect
MESSAGE_ID = "052804b7368321"


class Parsed:
    """What the parser makes of some bytes: the requests in it, or why it refuses them."""

    def __init__(self, data: bytes) -> None:
        self.requests: list[dict[str, Any]] = []
        self.bodies = b""
        self.is_whole = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.is_whole = False
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        url = httptools.parse_url(self.url)
        self.requests.append(
            {
                "method": self.parser.get_method().decode(),
                "path": url.path.decode(),
                "query_string": url.query or b"",
                "headers": tuple(self.headers),
                "client": CLIENT,
            }
        )
        self.stays = self.parser.should_keep_alive() and not self.parser.should_upgrade()

    def on_body(self, body: bytes) -> None:
        self.bodies += body

    def on_message_complete(self) -> None:
        self.is_whole = True


def joined(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts)


def one_of(pieces: bytes) -> st.SearchStrategy[bytes]:
    """Any of them, which stand apart by spaces; `_` is a space, `~` an end of line."""
    plain = [piece.replace(b"_", b" ").replace(b"~", b"\r\n") for piece in pieces.split()]
    return st.sampled_from(plain)


NAMES = b"Host user-agent X-Forwarded-For Keep-Alive TE Trailer Accept"
VALUES = b"x x__y a:b keep-alive text/html,*/*;q=0.8 0 __ x__ ____________________x___"
USUAL_HEADER = st.tuples(one_of(NAMES), one_of(b": :_ :__"), one_of(VALUES), st.just(b"\r\n")).map(
    joined
)
KEPT_ALIVE = st.just(b"Connection: Keep-Alive\r\n")

# What a request is made of: as it usually is, and as it is not.
PARTS = [
    (one_of(b"GET"), one_of(b"HEAD POST get _GET ~GET")),
    (one_of(b"_"), one_of(b"__") | st.just(b"\t")),
    (
        one_of(b"/callback/paasoo /callback/paasoo/tok-1.2"),
        one_of(b"/callback/paasoo/ /callback/paasoo/a%62 /callback/paasoo/a/b /callback/paasoox")
        | one_of(b"//callback/paasoo http://x/callback/paasoo /livez"),
    ),
    (
        one_of(b"? ?type=dlr&messageid=1&to=%2B65 ?a=b?c&d=%ff") | st.just(b""),
        one_of(b"?a#b ?a_b ?\xe4 #?a ?\0"),
    ),
    (st.just(b" HTTP/1.1\r\n"), one_of(b"_HTTP/1.0~ ~ _HTTP/1.1~_ _HTTP/2~")),
    (
        st.lists(st.one_of(USUAL_HEADER, KEPT_ALIVE), max_size=4).map(joined),
        st.tuples(
            one_of(b"Connection CONNECTION Expect Content-Length transfer-encoding Upgrade")
            | one_of(b"Proxy-Connection Host _Host Host_ H\xf6st Ho_st"),
            one_of(b": :_ _:_") | st.just(b""),
            one_of(b"close keep-alive,close 0 5 chunked websocket 100-continue \xff a\0b a\x7fb")
            | st.sampled_from([b"keep-alive ", b"a\rb", b"a\nb: c", b"x\r\n folded"]),
            one_of(b"~ _~") | st.just(b"\n"),
        ).map(joined),
    ),
    (st.just(b"\r\n"), one_of(b"~~ ~body ~GET_/ ~x~~") | st.sampled_from([b"\n", b""])),
]


def a_request(odd: int | None) -> st.SearchStrategy[bytes]:
    """Usual in all its parts but one."""
    parts = (unusual if part == odd else usual for part, (usual, unusual) in enumerate(PARTS))
    return st.tuples(*parts).map(joined)


@given(a_request(None))
def test_what_is_usual_is_taken_and_read_as_the_parser_does(data: bytes) -> None:
    scope = usual_callback(data, CLIENT)

    assert scope is not None
    assert_read_alike(scope, data)


@given(st.integers(0, len(PARTS) - 1).flatmap(a_request))
def test_what_is_taken_all_the_same_is_read_as_the_parser_does(data: bytes) -> None:
    scope = usual_callback(data, CLIENT)

    if scope is not None:
        assert_read_alike(scope, data)


def assert_read_alike(scope: dict[str, Any], data: bytes) -> None:
    parsed = Parsed(data)
    assert parsed.requests == [scope]
    assert parsed.is_whole
    assert parsed.stays
    assert parsed.bodies == b""


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n",
        b"Host: dlr.example:8000\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
        b"Host: x\r\nConnection: Keep-Alive\r\nUser-Agent: Apache-HttpClient/4.5\r\n\r\n",
        b"Host: x\r\nX-Forwarded-For: 203.0.113.7\r\nVia: 2.0 Caddy\r\n\r\n",
    ],
)
def test_what_clients_send_is_taken(head: bytes) -> None:
    scope = usual_callback(ask(QUERY, head=head), CLIENT)

    assert scope is not None
    assert scope["query_string"] == QUERY


@pytest.mark.parametrize(
    "data",
    [
        USUAL[:-1],
        USUAL + b"x",
        USUAL + USUAL,
        ask(QUERY, method=b"POST", head=b"\r\n"),
        ask(QUERY, version=b"HTTP/1.0", head=b"\r\n"),
        ask(QUERY + b"&x=" + b"a" * MAX_BYTES, head=b"\r\n"),
        ask(QUERY, head=b"X: " + b"a" * MAX_BYTES + b"\r\n\r\n"),
        *(
            ask(QUERY, head=special + b"\r\n\r\n")
            for special in (
                b"Connection: close",
                b"connection: keep-alive, upgrade",
                b"Content-Length: 0",
                b"TRANSFER-ENCODING: chunked",
                b"Expect: 100-continue",
                b"Upgrade: h2c",
                b"X: a\r\n folded",
            )
        ),
    ],
)
def test_what_is_special_is_left_to_the_parser(data: bytes) -> None:
    assert usual_callback(data, CLIENT) is None


def test_what_comes_behind_a_callback_is_answered_behind_it(service: Service) -> None:
    refused, other = ask(b"type=mo", head=b"\r\n"), b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(service) as connection:
        with held_up_writes(service.database_url):
            send_apart(service, connection, USUAL, refused, other, ask(QUERY))
        answers = read_all(connection)

    assert statuses_of(answers) == [200, 400, 200, 200]
    assert service.reports(MESSAGE_ID)[0]["times_received"] == 2


@pytest.mark.parametrize("behind", [b"", ask(QUERY, head=b"\r\n"), ask(QUERY, head=EXPECT)])
def test_the_end_of_the_service_answers_what_waits_and_what_is_behind_it(
    database_url: URL, behind: bytes
) -> None:
    with running_service(database_url) as service, connect(service) as connection:
        with held_up_writes(database_url):
            send_apart(service, connection, USUAL, behind)
            service.server.close()
            until(lambda: not is_listening(service.port))
        answers = read_all(connection)

    assert statuses_of(answers) == [200, 200] if behind else [200]
    assert answers.count(b"connection: close\r\n") == 1
    assert answers.rindex(b"connection: close") > answers.rindex(b"HTTP/1.1 200")


@pytest.mark.parametrize("together", [2, 3])
def test_requests_in_one_packet_are_all_answered_while_it_drains(
    service: Service, together: int
) -> None:
    service.app.state.draining.set()
    with connect(service) as connection:
        connection.sendall(USUAL * together)
        answers = read_all(connection)

    assert statuses_of(answers) == [200] * together
    assert answers.count(b"connection: close\r\n") == 1
    assert answers.rindex(b"connection: close") > answers.rindex(b"HTTP/1.1 200")


def test_the_end_of_the_service_is_not_kept_by_half_a_request_behind(database_url: URL) -> None:
    with running_service(database_url) as service, connect(service) as connection:
        with held_up_writes(database_url):
            send_apart(service, connection, USUAL, USUAL[:-10])
            service.server.close()
            until(lambda: not is_listening(service.port))
        assert statuses_of(read_all(connection)) == [200]


def test_a_connection_stays_open_between_usual_callbacks_and_while_one_waits(
    database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.1)
    with (
        running_service(database_url, keep_alive_seconds=0.3) as service,
        connect(service) as connection,
    ):
        for _ in range(2):
            connection.sendall(USUAL)
            assert status_of(connection.recv(65536)) == 200
            time.sleep(0.15)  # past the one, the only way to see that nothing happens
        with held_up_writes(database_url):
            connection.sendall(USUAL)
            time.sleep(0.35)  # past the other
        assert status_of(connection.recv(65536)) == 200
        assert connection.recv(1) == b""  # in the end it is not kept for ever


def test_usual_callbacks_need_no_parser(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(httptools_impl.HttpToolsProtocol, "data_received", fail)
    with connect(service) as connection:
        for _ in range(3):
            connection.sendall(USUAL)
            assert status_of(connection.recv(65536)) == 200
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536) == b""  # so the parser is what fails


def send_apart(service: Service, connection: socket.socket, first: bytes, *others: bytes) -> None:
    """The others once the first waits for its commit."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(first)
    until(lambda: service.app.state.writer.queued == 1)
    for other in others:
        connection.sendall(other)


def test_a_usual_callback_is_answered_as_any_other(service: Service) -> None:
    wrong = (b"/callback/paasoo/wrong", b"/callback/paasoo", b"/callback/paasoo/")
    for query, path in [(QUERY, None), (b"type=mo", None), *((QUERY, path) for path in wrong)]:
        where = {"path": path} if path else {}
        with connect(service) as usual, connect(service) as other:
            usual.sendall(ask(query, head=b"\r\n", **where))
            answer = usual.recv(65536)
            other.sendall(ask(query, head=EXPECT, **where))
            assert without_date(answer) == without_date(other.recv(65536))
        assert status_of(answer) == (404 if path else 400 if query != QUERY else 200)


def without_date(answer: bytes) -> list[bytes]:
    lines = answer.split(b"\r\n")
    assert sum(line.startswith(b"date: ") for line in lines) == 1
    return [line for line in lines if not line.startswith(b"date: ")]
