"""One POST to an address of a webhook, and how it was answered. Nothing is repeated here.

httpcore, under httpx: a push is made often, and httpx would double its cost on the event loop.
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from ipaddress import ip_address
from socket import SOCK_STREAM, gaierror, getaddrinfo
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore2
import httpx2

from app.guards import is_in
from app.reports import is_digits
from app.settings import Network

TIMEOUT_S: Final = 15
CONNECT_TIMEOUT_S: Final = 10
MAX_ANSWER_BYTES: Final = 64 * 1024  # with its head
READ_BYTES: Final = 4096
# A receiver may close an idle connection just as it is used again, which looks like a failure. So
# close it before common servers do: the quickest of them waits for 2 s.
KEEP_ALIVE_S: Final = 1.5


class NotAllowedError(Exception):
    """No address of the host is in the networks that may be pushed to."""


class TooLongError(httpcore2.ReadError):
    """An answer has more than `MAX_ANSWER_BYTES`."""


# The first that a failure is, or came from.
WORDS: Final[dict[type[BaseException], str]] = {
    TooLongError: "its answer is too long",
    NotAllowedError: "no address of its host is in DLR_WEBHOOK_ALLOWED_NETWORKS",
    gaierror: "its host is not known",
    ssl.SSLCertVerificationError: "its certificate is not valid here",
    ssl.SSLError: "no TLS with it",
    ConnectionRefusedError: "it refuses connections",
    httpcore2.ConnectTimeout: f"no connection within {CONNECT_TIMEOUT_S} s",
    httpcore2.ConnectError: "it can't be reached",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a push. `error` is None for 2xx alone."""

    status: int | None  # HTTP's; None without an answer
    error: str | None
    duration_ms: int
    retry_after_s: float = 0


class PushClient:
    """At most one connection to one address. No redirect is followed, and no proxy is used."""

    def __init__(self, url: str, networks: Sequence[Network]) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc
        self._url = httpcore2.URL(
            scheme=parts.scheme,
            host=parts.hostname or "",
            port=parts.port,
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        )
        self._connections = httpcore2.AsyncConnectionPool(
            ssl_context=tls_context(),
            max_connections=1,
            keepalive_expiry=KEEP_ALIVE_S,
            network_backend=Connector(networks),
        )

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Push a JSON body. Never raises: whatever happens is an answer, or the want of one."""
        began = time.monotonic()
        response = error = None
        sent = {
            "Host": self._host,
            "User-Agent": "paasoo-dlr",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }
        try:
            async with asyncio.timeout(TIMEOUT_S):
                streamed = self._connections.stream(
                    "POST",
                    self._url,
                    headers=[*sent.items()],
                    content=body,
                )
                async with streamed as response:
                    # To its end, so that the connection can be used again.
                    async for _ in response.aiter_stream():
                        pass
        except Exception as failure:  # noqa: BLE001 - the push is tried again
            error = _in_words(failure)
        duration_ms = round((time.monotonic() - began) * 1000)
        if response is None:
            return Answer(None, error, duration_ms)
        # The status stands, whatever happens after it.
        fault = _fault_of(response.status)
        return Answer(response.status, fault, duration_ms, _retry_after_s(response) if fault else 0)

    async def close(self) -> None:
        with suppress(Exception):  # whatever is wrong with the connection, it is gone
            await self._connections.aclose()


class Connector(httpcore2.AsyncNetworkBackend):
    """Connects to an address that the name resolves to, if it is in an allowed network.

    The connection goes to the very address that was checked: the name may resolve to another one
    a moment later.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        self._inner = httpcore2.AnyIOBackend()
        self._look_up: Future[list[str]] | None = None
        self._good: str | None = None  # the address that was connected to last

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - httpcore's own
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        allowed = [it for it in await self._addresses_of(host) if self._is_allowed(it)]
        if not allowed:
            raise NotAllowedError
        allowed.sort(key=lambda it: it != self._good)
        share = CONNECT_TIMEOUT_S / len(allowed)
        for address in allowed:
            try:
                connected = await self._inner.connect_tcp(
                    address, port, share, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if address == allowed[-1]:
                    raise
            else:
                self._good = address
                break
        return BriefStream(connected)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _addresses_of(self, host: str) -> list[str]:
        if self._look_up is None or self._look_up.done():
            self._look_up = _look_up(host)
        return await asyncio.wrap_future(self._look_up)

    def _is_allowed(self, address: str) -> bool:
        found = ip_address(address)
        known = getattr(found, "ipv4_mapped", None) or found
        return not self._networks or is_in(known, self._networks)


class BriefStream(httpcore2.AsyncNetworkStream):
    """Reads a short answer to each push, little by little.

    All that one read brings is gone through before callbacks have their turn, and a thousand bytes
    may be forty answers that say `100 Continue`.
    """

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = MAX_ANSWER_BYTES

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's own
        self._left = MAX_ANSWER_BYTES
        await self._stream.write(buffer, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's own
        await asyncio.sleep(0)
        found = await self._stream.read(min(max_bytes, READ_BYTES), timeout)
        self._left -= len(found)
        if self._left < 0:
            raise TooLongError
        return found

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
    ) -> httpcore2.AsyncNetworkStream:
        return BriefStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _look_up(host: str) -> "Future[list[str]]":
    """Look a name up, on a thread of its own: one that hangs must hold up no other."""
    found: Future[list[str]] = Future()
    found.set_running_or_notify_cancel()

    def look_up() -> None:
        try:
            addresses = [str(address[0]) for *_, address in getaddrinfo(host, 0, type=SOCK_STREAM)]
            found.set_result([*dict.fromkeys(addresses)])
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            found.set_exception(error)

    threading.Thread(target=look_up, name="webhook's host", daemon=True).start()
    return found


@cache
def tls_context() -> ssl.SSLContext:
    """One for all addresses: it takes long to make. Finds certificates as OpenSSL does."""
    return httpx2.create_ssl_context()


def _fault_of(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if status == 410:
        return "HTTP 410: the address is gone"
    if 300 <= status < 400:
        return f"HTTP {status}: redirects are not followed"
    return f"HTTP {status}"


def _in_words(failure: BaseException) -> str:
    """A push that got no answer. Quotes nothing: a library's words may have the address."""
    if isinstance(failure, TimeoutError):  # of the push as a whole
        return f"no answer within {TIMEOUT_S} s"
    causes = _causes(failure)
    for kind, words in WORDS.items():
        if any(isinstance(cause, kind) for cause in causes):
            return words
    return "the connection broke before an answer"


def _causes(failure: BaseException) -> list[BaseException]:
    """The failure, and all that led to it: one for each address that was tried."""
    found = [failure]
    for one in found:
        earlier = getattr(one, "exceptions", (one.__cause__ or one.__context__,))
        found += [it for it in earlier if it is not None and it not in found]
    return found


def _retry_after_s(response: httpcore2.Response) -> float:
    """The wait that a receiver asks for, in seconds or up to a time; 0 for none."""
    given = [value for name, value in response.headers if name.lower() == b"retry-after"]
    text = given[0].decode("latin-1").strip() if given else ""
    if is_digits(text) and len(text) <= 9:
        return int(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
