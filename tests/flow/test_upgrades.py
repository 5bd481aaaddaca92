"""Offers to upgrade a connection: ignored, and no byte of a body is ever a request."""

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.upgrades import UpgradeFilter
from tests.flow import proxies
from tests.flow.test_raw_sockets import ask, connect, read_all, send, status_of, statuses_of
from tests.service import ADMIN_KEY, READ_KEY, Service, a_report

REPORT = a_report(messageid="victim").encode()
INJECTED = a_report(messageid="injected").encode()

OFFERS = [
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n",
    b"upgrade:websocket\r\nconnection:upgrade\r\n",
    b"UPGRADE:\r\nCONNECTION: UPGRADE\r\n",
    b"Connection: close, upgrade\r\nUpgrade: TLS/1.0, HTTP/1.1\r\n",
    b"Upgrade: a\r\nUpgrade: b\r\nConnection: upgrade\r\nConnection: upgrade\r\n",
    b"Connection: upgrade\r\nUpgrade-Insecure-Requests: 1\r\nUpgrade: x\r\n",
    b"",
]
BODIES = [
    b"",
    b"hello",
    b"\r\nUpgrade: h2c\r\nupgrade",
    b"\nu",
    b"\r\n\r\nGET /livez HTTP/1.1\r\nX-A: ",
    b"Upgrade: h2c\r\n\r\n",
    b"\r\n" * 40 + ask(INJECTED),
]


class Parsed:
    """The requests that the parser reads behind the filter."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self._in_head = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._filter = UpgradeFilter(lambda: self._in_head)

    def feed(self, data: bytes) -> None:
        for piece in self._filter.pieces(data):
            self.parser.feed_data(piece)

    def on_message_begin(self) -> None:
        self._in_head = True
        self.url, self.body = b"", b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_headers_complete(self) -> None:
        self._in_head = False
        assert not self.parser.should_upgrade()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.requests.append((self.url, self.body))


def framed(body: bytes, *, in_chunks: bool) -> bytes:
    if not in_chunks:
        return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    chunks = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@given(
    st.lists(
        st.tuples(st.sampled_from(OFFERS), st.sampled_from(BODIES), st.booleans()), max_size=3
    ),
    st.lists(st.integers(0, 2000), max_size=12),
)
def test_however_it_is_cut_a_body_is_a_body_and_a_request_a_request(
    requests: Sequence[tuple[bytes, bytes, bool]], cuts: list[int]
) -> None:
    data = b"".join(
        b"POST /%d HTTP/1.1\r\n%bHost: x\r\n%b" % (number, offer, framed(body, in_chunks=chunked))
        for number, (offer, body, chunked) in enumerate(requests)
    )
    parsed = Parsed()
    for piece in pieces_of(data, cuts):
        parsed.feed(piece)

    expected = [(b"/%d" % number, body) for number, (_, body, _) in enumerate(requests)]
    closing = [number for number, (offer, _, _) in enumerate(requests) if b"close" in offer]
    assert parsed.requests == expected[: closing[0] + 1 if closing else None]


def test_an_offer_is_hidden_at_each_single_cut() -> None:
    for offer in OFFERS:
        data = b"POST / HTTP/1.1\r\nHost: x\r\n" + offer + framed(INJECTED, in_chunks=False)
        for cut in range(len(data)):
            parsed = Parsed()
            for piece in pieces_of(data, [cut, cut + 1]):
                parsed.feed(piece)
            assert parsed.requests == [(b"/", INJECTED)]


def pieces_of(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    return (data[start:end] for start, end in pairwise(places))


@pytest.fixture(params=proxies.PROXIES)
def proxy(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Iterator[int]:
    """A port where a proxy listens that keeps one connection to the service."""
    with proxies.PROXIES[request.param](service.port, tmp_path) as port:
        yield port


def through(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def attack(offer: bytes, beginning: bytes, padding: int) -> bytes:
    """A body that would be read as the beginning of the next request."""
    body = b"\r\n" * padding + beginning
    head = b"POST /livez HTTP/1.1\r\nHost: x\r\n" + offer
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("offer", OFFERS)
def test_a_strangers_body_swallows_nobodys_report(
    service: Service, proxy: int, offer: bytes
) -> None:
    for padding in (0, 1, 150_000):
        through(proxy, attack(offer, b"GET /livez HTTP/1.1\r\nX-A: ", padding))
        query = a_report(messageid=f"victim-{padding}").encode()
        answer = through(proxy, ask(query, head=b"Host: x\r\n\r\n"))

        assert status_of(answer) == 200
        assert service.delivery(f"victim-{padding}")["state"] == "delivered"


def test_a_strangers_body_borrows_nobodys_key(service: Service, proxy: int) -> None:
    assert service.call_back("type=dlr").status_code == 400
    (row,) = service.quarantine()
    theft = b"DELETE /v1/quarantine/%b HTTP/1.1\r\nHost: x\r\nX-A: " % row["id"].encode()
    as_admin = b"Host: x\r\nAuthorization: Bearer %b\r\n\r\n" % ADMIN_KEY.encode()
    for offer in OFFERS:
        through(proxy, attack(offer, theft, 150_000))
        through(proxy, b"GET /v1/quarantine HTTP/1.1\r\n" + as_admin)

    assert service.quarantine() == [row]


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("apart", [True, False], ids=["body apart", "in one packet"])
def test_a_body_is_read_whatever_is_offered(service: Service, offer: bytes, apart: bool) -> None:
    service.call_back(a_report(messageid="known"))
    body = json.dumps({"messageids": ["known"]}).encode()
    head = b"POST /v1/messages/lookup HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"Authorization: Bearer %b\r\n" % READ_KEY.encode() + offer
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    with connect(service) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (head, body) if apart else (head + body,):
            connection.sendall(part)
        answer = answer_of(connection)

    assert status_of(answer) == 200
    assert b'"state":"delivered"' in answer


def answer_of(connection: socket.socket) -> bytes:
    answer = connection.recv(65536)
    length = int(answer.partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(answer.partition(b"\r\n\r\n")[2]) < length:
        answer += connection.recv(65536)
    return answer


@pytest.mark.parametrize("offer", OFFERS)
def test_a_callback_in_a_body_is_not_stored(service: Service, offer: bytes) -> None:
    inner = ask(INJECTED)
    with connect(service) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        framing = b"Content-Length: %d\r\n\r\n" % len(inner)
        connection.sendall(ask(REPORT, head=b"Host: x\r\n" + offer + framing))
        connection.sendall(inner)
        answers = b""
        with suppress(ConnectionError):  # it may send behind the end of the connection
            connection.sendall(ask(a_report(messageid="behind").encode()))
            while more := connection.recv(65536):
                answers += more

    assert statuses_of(answers)[0] == 200
    assert service.delivery("victim")["final"]
    assert service.get("/v1/messages/injected").status_code == 404


def test_connect_is_refused_and_nothing_behind_it_is_a_request(service: Service) -> None:
    for target in (b"/livez", b"/callback/paasoo/x", b"x:443", b"*"):
        head = b"CONNECT %b HTTP/1.1\r\nHost: x\r\n\r\n" % target
        for together in (True, False):
            with connect(service) as connection:
                connection.sendall(head + ask(INJECTED) if together else head)
                answers = read_all(connection) if together else connection.recv(65536)
                if not together:
                    answers += read_all(connection)
            assert [status in {400, 404, 405} for status in statuses_of(answers)] == [True]
    assert service.get("/v1/messages/injected").status_code == 404
    assert status_of(send(service, ask(REPORT))) == 200
