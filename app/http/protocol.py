"""Answers the requests of one connection, in their order.

A request that has a shortcut goes from the parser's callbacks to its handler, without an ASGI
cycle or a task. Any other becomes an ASGI cycle of uvicorn.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ClassVar, Final, NamedTuple

import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from app.errors import (
    MAX_BODY_BYTES,
    ApiError,
    BodyTooLargeError,
    MalformedRequestError,
    RequestTimeoutError,
    TooManyConnectionsError,
)
from app.exchange import Answer, Handler, Request, refusal, request_id
from app.http.cycle import Cycle
from app.http.descriptors import ConnectionLimit
from app.http.dispatch import Shortcut, handler_of, run
from app.http.reader import Reader, Stage

log = logging.getLogger(__name__)

NEVER: Final = float("inf")
# From the connection, or the first byte of a request, to the end of its head.
HEAD_TIMEOUT_S: Final = 10.0
# From the end of the head to the end of the body.
BODY_TIMEOUT_S: Final = 10.0
# Of what a refused client still sends, this is read, for this long, so that it reads its answer.
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 1024 * 1024
# At the end of the process: for a request to arrive that is on its way, and for a client to read
# its answer.
LAST_REQUESTS_S: Final = 1
LAST_ANSWERS_S: Final = 1


class Direct(NamedTuple):
    """A request that has a shortcut."""

    handler: Handler
    request: Request
    keeps: bool


Exchange = Direct | Cycle


def _ends_alone(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A callback whose exception is logged, and ends this connection but nothing else."""

    @wraps(callback)
    def guarded(self: "HttpProtocol", *arguments: Any) -> Any:
        try:
            return callback(self, *arguments)
        except Exception:
            log.exception("a connection failed")
            self.abort()

    return guarded


class HttpProtocol(asyncio.Protocol):
    """A connection. `server_config` makes a subclass with the attributes that all share."""

    send_timeout_s: ClassVar[float]
    shortcuts: ClassVar[Sequence[Shortcut]]
    draining: ClassVar[threading.Event]
    limit: ClassVar[ConnectionLimit]

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._waiting: deque[Exchange] = deque()  # behind the one that is being answered
        self._answering: Exchange | None = None
        self._receiving: Exchange | None = None  # its body is still coming, and is wanted
        self._is_deaf = False  # nothing more is read as a request
        self._is_finished = False
        self._ignored_bytes = 0
        self._is_half_closed = False
        self._is_ending = False
        self._is_advancing = False
        self._limited: object = None
        self._expires_at = NEVER
        self._answer_timeout_s = self.send_timeout_s
        self._answer_timer: asyncio.TimerHandle | None = None

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._flow = FlowControl(transport)
        self._client = get_remote_addr(transport)
        self._peer = self._client[0] if self._client else None
        self._reader = Reader(self, self._peer)
        connections: set[Any] = self._server_state.connections
        if self.limit.admits(len(connections)):
            self._limit()
        else:
            self._is_deaf = True
            self._answer_last(refusal(TooManyConnectionsError()))
            self._advance()
        connections.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._server_state.connections.discard(self)
        self._is_deaf = True
        self._waiting.clear()
        if isinstance(self._answering, Cycle):
            self._answering.leave()
        self._answering = self._receiving = None
        self._flow.resume_writing()
        self._stop_watching_answer()
        self._reader.close()

    @_ends_alone
    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > LINGER_BYTES:
                self._flow.pause_reading()
            return
        try:
            self._reader.feed(data)
        except ApiError as error:
            self._refuse(error)
        self._advance()

    @_ends_alone
    def eof_received(self) -> bool:
        """True keeps the client's other half open, until it has its answers."""
        self._is_half_closed = True
        if isinstance(self._answering, Cycle):
            self._answering.half_close()
        if self._receiving is not None:
            self._refuse(MalformedRequestError())
            self._advance()
        return self._is_busy

    def pause_writing(self) -> None:
        self._flow.pause_writing()
        self._watch_answer()

    def resume_writing(self) -> None:
        self._flow.resume_writing()
        self._stop_watching_answer()
        self._advance()

    def abort(self) -> None:
        self._transport.abort()

    def shutdown(self) -> None:
        """The server ends: close once every request is answered."""
        self._is_ending = True
        if self._expects_request:
            self._loop.call_later(LAST_REQUESTS_S, self._stop_expecting)
        elif not self._is_busy:
            self._transport.close()
        self._answer_timeout_s = LAST_ANSWERS_S
        self._watch_answer()

    # The reader's.

    def on_head(self, request: Request) -> None:
        reader = self._reader
        handler = handler_of(self.shortcuts, request)
        comes_in_chunks = b"transfer-encoding" in reader.values
        if handler is None or (comes_in_chunks and reader.expects_continue):
            self._receiving = cycle = self._cycle_of(request)
            self._waiting.append(cycle)
            return
        exchange = Direct(handler, request, reader.keeps)
        if comes_in_chunks:
            # Wait for the body: until its end the parser may still refuse the request.
            self._receiving, self._body_bytes = exchange, 0
        else:
            self._waiting.append(exchange)

    def on_body(self, body: bytes) -> None:
        receiving = self._receiving
        if isinstance(receiving, Cycle):
            receiving.body += body
            if len(receiving.body) > HIGH_WATER_LIMIT:
                self._flow.pause_reading()
            receiving.message_event.set()
        elif receiving is not None:
            self._body_bytes += len(body)
            if self._body_bytes > MAX_BODY_BYTES:
                raise BodyTooLargeError

    def on_end(self) -> None:
        receiving = self._receiving
        if receiving is None:
            return
        self._receiving = None
        if isinstance(receiving, Cycle):
            receiving.more_body = False
            receiving.message_event.set()
        else:
            self._waiting.append(receiving)

    # From a request to its answer.

    def _advance(self) -> None:
        """Answer the next request, and the following ones while answers come at once."""
        if self._is_advancing or self._transport.is_closing():
            return
        self._is_advancing = True
        while self._waiting and self._answering is None and not self._flow.write_paused:
            self._answering = exchange = self._waiting.popleft()
            if isinstance(exchange, Cycle):
                self._run(exchange)
            else:
                run(exchange.handler, exchange.request, self._reply)
        self._is_advancing = False
        if self._waiting:
            self._flow.pause_reading()
        elif self._answering is None:
            self._rest()
        self._limit()

    def _rest(self) -> None:
        """Every request so far is answered: read on, or close."""
        if self._is_half_closed or self._is_deaf or (self._is_ending and not self._expects_request):
            self._finish()
        else:
            self._flow.resume_reading()

    def _reply(self, answer: Answer) -> None:
        """Write the answer to the request that is being answered."""
        exchange = self._answering
        if self._transport.is_closing() or not isinstance(exchange, Direct):
            return
        closes = not exchange.keeps or self._is_last()
        content = [STATUS_LINE[answer.status]]
        for name, value in self._server_state.default_headers:
            content += (name, b": ", value, b"\r\n")
        content.append(answer.lines)
        content.append(b"connection: close\r\n\r\n" if closes else b"\r\n")
        if exchange.request.method != "HEAD":
            content.append(answer.body)
        self._transport.write(b"".join(content))
        self._is_answered(closes=closes)

    def _run(self, cycle: Cycle) -> None:
        if self._is_half_closed:
            cycle.half_close()
        task = self._loop.create_task(cycle.run_asgi(self._config.loaded_app))
        task.add_done_callback(self._server_state.tasks.discard)
        self._server_state.tasks.add(task)

    def _cycle_of(self, request: Request) -> Cycle:
        reader = self._reader
        return Cycle(
            is_last=self._is_last,
            scope={
                "type": "http",
                "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
                "http_version": reader.http_version,
                "server": get_local_addr(self._transport),
                "client": self._client,
                "scheme": "http",
                "method": request.method,
                "root_path": "",
                "path": request.path,
                "raw_path": request.raw_path,
                "query_string": request.query,
                "headers": request.headers,
                "state": self._app_state.copy(),
            },
            transport=self._transport,
            flow=self._flow,
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=self._server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=reader.expects_continue,
            keep_alive=reader.keeps,
            on_response=self._cycle_is_answered,
        )

    def _cycle_is_answered(self) -> None:
        cycle = self._answering
        self._is_answered(closes=isinstance(cycle, Cycle) and cycle.closes)

    def _is_answered(self, *, closes: bool) -> None:
        self._answering = None
        if closes:
            self._waiting.clear()
            self._finish()
        else:
            self._advance()

    def _is_last(self) -> bool:
        """True if the connection ends with the answer that is being written."""
        if self._waiting:
            return False
        if self._is_ending or self._is_half_closed or self._is_deaf:
            return True
        if self._reader.stage is Stage.BODY:
            # Don't wait for the rest of this request's body, only for the next request's.
            return self._receiving is None or self._receiving is self._answering
        # While draining, the client must reconnect elsewhere, unless it has begun a request.
        return self.draining.is_set() and self._reader.stage is Stage.BETWEEN

    @property
    def _is_busy(self) -> bool:
        return self._answering is not None or bool(self._waiting)

    @property
    def _expects_request(self) -> bool:
        """True if a request has begun to come, or the first one is still to come."""
        stage = self._reader.stage
        is_new = stage is Stage.BETWEEN and not self._reader.requests
        has_begun = stage is Stage.HEAD or self._receiving is not None
        return (has_begun or is_new) and not self._is_deaf and not self._is_busy

    # The end of a connection, and its time limits.

    def _refuse(self, error: ApiError) -> None:
        """Answer the requests before, then this one, then close."""
        name = request_id(self._reader.headers)
        told = {"peer": self._peer, "request_id": name.decode()}
        log.warning("request refused", extra={**error.document(), **told})
        self._is_deaf = True
        receiving, self._receiving = self._receiving, None
        if isinstance(receiving, Cycle):
            receiving.leave()
            if receiving is not self._answering:
                self._waiting.pop()
            elif receiving.response_started:
                self._transport.close()
                return
            else:
                self._answering = None
        self._answer_last(refusal(error).with_header(b"x-request-id", name))

    def _answer_last(self, answer: Answer) -> None:
        request = Request("", "", b"", b"", (), None)
        self._waiting.append(Direct(lambda _, reply: reply(answer), request, keeps=False))

    def _finish(self) -> None:
        """Close, but let a client that is still sending read its answer first."""
        if self._is_finished:
            return
        self._is_finished = self._is_deaf = True
        self._receiving = None
        if self._reader.stage is Stage.BETWEEN or self._is_half_closed:
            self._transport.close()
        else:
            self._transport.write_eof()
            self._flow.resume_reading()
            self._expire_in(LINGER_S)

    def _limit(self) -> None:
        """Move the deadline if the connection waits for something else than before."""
        stage, requests = self._reader.stage, self._reader.requests
        if stage is Stage.BETWEEN and not requests:
            stage = Stage.HEAD  # of the first one
        is_idle = self._answering is None
        awaited = (stage, requests, is_idle)
        if awaited == self._limited or self._is_deaf:
            return
        self._limited = awaited
        if stage is Stage.HEAD:
            self._expire_in(HEAD_TIMEOUT_S)
        elif stage is Stage.BODY:
            self._expire_in(BODY_TIMEOUT_S)
        else:
            self._expire_in(self._config.timeout_keep_alive if is_idle else NEVER)

    def _expire_in(self, seconds: float) -> None:
        self._expires_at = self._loop.time() + seconds

    @_ends_alone
    def expire_if_late(self, now: float) -> None:
        """The server calls this now and then, by the loop's clock: cheaper than a timer each."""
        if self._expires_at <= now:
            self._expires_at = NEVER
            self._expire()

    def _expire(self) -> None:
        if self._is_finished:
            self._transport.abort()
        elif self._flow.read_paused:
            self._limited = None  # we don't read, so the client can't be late
            self._limit()
        elif self._receiving is not None:
            self._refuse(RequestTimeoutError())
            self._advance()
        elif self._is_busy:
            self._is_deaf = True
        else:
            self._transport.close()

    def _stop_expecting(self) -> None:
        self._is_deaf = True
        if not self._is_busy and not self._transport.is_closing():
            self._transport.close()

    def _watch_answer(self) -> None:
        self._stop_watching_answer()
        self._answer_timer = self._loop.call_later(self._answer_timeout_s, self._drop)

    def _stop_watching_answer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _drop(self) -> None:
        self._answer_timer = None
        if self._transport.get_write_buffer_size():
            log.warning("dropped a client that doesn't read its answer")
            self._transport.abort()  # closing would wait until it does
