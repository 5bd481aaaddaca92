"""Reads requests from a connection's bytes with uvicorn's parser, within bounds."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, Protocol
from urllib.parse import unquote

import httptools

from app.errors import MalformedRequestError
from app.exchange import Request
from app.http.request_line import RequestLine
from app.http.upgrades import UpgradeFilter

# Of a head, and of what comes between or behind the chunks of a body: their sizes, trailers.
MAX_FRAMING_BYTES: Final = 64 * 1024


class Stage(Enum):
    """The part of a request that the reader waits for."""

    BETWEEN = auto()
    HEAD = auto()
    BODY = auto()


class Listener(Protocol):
    def on_head(self, request: Request) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_end(self) -> None: ...


class Reader:
    """Tells the listener of each request. Once `is_over`, all further bytes are ignored.

    The attributes describe the latest request: `headers` from its first header on, and
    `http_version`, `keeps` and `values` from the end of its head.
    """

    http_version: str
    keeps: bool  # the connection is kept after the answer
    values: Mapping[bytes, bytes]  # of several equal headers, the last one's

    def __init__(self, listener: Listener, peer: str | None) -> None:
        self._listener = listener
        self._peer = peer
        self._parser = httptools.HttpRequestParser(self)
        self._line = RequestLine()
        self._upgrades = UpgradeFilter(lambda: self._is_in_head)
        self._is_in_head = False  # behind the request line
        self._framing_bytes = 0
        self._stage = Stage.BETWEEN
        self.is_over = False
        self.requests = 0  # how many have come whole
        self.headers: list[tuple[bytes, bytes]] = []

    @property
    def stage(self) -> Stage:
        if self._stage is Stage.BETWEEN and self._line.has_begun:
            return Stage.HEAD
        return self._stage

    @property
    def expects_continue(self) -> bool:
        """True if the client sends its body only after `100 Continue` (RFC 9110, 10.1.1)."""
        expected = self.values.get(b"expect", b"").lower()
        return expected == b"100-continue" and self.http_version != "1.0"

    def feed(self, data: bytes) -> None:
        """Read on. Raises `ApiError` if that is no request."""
        self._framing_bytes += len(data)
        if self._stage is not Stage.BODY:
            data = self._line.feed(data)
        for piece in self._upgrades.pieces(data):
            if self.is_over:
                return
            self._parse(piece)
        if self._framing_bytes > MAX_FRAMING_BYTES and self._stage is not Stage.BETWEEN:
            part = "request head is" if self._stage is Stage.HEAD else "trailers are"
            raise MalformedRequestError(f"the {part} too large")

    def close(self) -> None:
        """Drop all that refers back, which else only a garbage collection would free."""
        self.is_over = True
        del self._parser, self._upgrades, self._listener

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.is_over = True  # what follows a CONNECT is no HTTP
        except httptools.HttpParserCallbackError as error:
            if not self.is_over:
                raise error.__context__ or error from None
        except httptools.HttpParserError:
            if not self.is_over:
                raise MalformedRequestError from None

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        if self.is_over:
            raise MalformedRequestError  # nobody hears it: it stops the parser
        self._stage = Stage.HEAD
        self._line.has_passed = True
        self._is_in_head = True
        self._url = b""
        self.headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # trailers, after a body in chunks, are not kept
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._stage = Stage.BODY
        parser, headers = self._parser, self.headers
        self.values = values = dict(headers)
        self.http_version = version = parser.get_http_version()
        if version == "1.1" and (
            b"host" not in values
            or (len(values) < len(headers) and [name for name, _ in headers].count(b"host") > 1)
        ):
            raise MalformedRequestError("there must be one Host header")
        method = parser.get_method().decode("ascii")
        self.keeps = parser.should_keep_alive() and version != "1.0" and method != "CONNECT"
        raw_path, path, query = _target(self._url)
        self._listener.on_head(Request(method, path, raw_path, query, headers, self._peer))

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        self._listener.on_body(body)

    def on_message_complete(self) -> None:
        self._stage = Stage.BETWEEN
        self.requests += 1
        self._framing_bytes = 0
        self._line.has_passed = False
        self.is_over = not self.keeps
        self._listener.on_end()


def _target(url: bytes) -> tuple[bytes, str, bytes]:
    """The path as sent, the path decoded, and the query."""
    try:
        parsed = httptools.parse_url(url)
        raw_path = parsed.path or b"/"
        path = raw_path.decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        raise MalformedRequestError from None
    return raw_path, unquote(path) if "%" in path else path, parsed.query or b""
