"""The HTTP server: uvicorn, with bounds on what a request head may cost, and an orderly end."""

import asyncio
import logging
import os
import re
import resource
import signal
import threading
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.callback.door import Answer, Door
from app.callback.usual import usual_callback
from app.http.upgrades import UpgradeFilter
from app.settings import Settings

log = logging.getLogger(__name__)

# A request line is kept up to here: more than a callback may have, so that it is answered 414.
MAX_LINE_BYTES: Final = 16 * 1024
MAX_HEADERS_BYTES: Final = 64 * 1024
# From the connection, or the first byte of a request, to the end of its head.
HEAD_TIMEOUT_S: Final = 10.0

# The process ends within 10 s of SIGTERM, whatever hangs: the port stays open for up to 5 s of
# them (`DLR_DRAIN_SECONDS`), then what was admitted has this long to be committed.
LAST_COMMITS_S: Final = 2
# After that nobody waits for the database any more, and answering takes but a moment.
LAST_ANSWERS_S: Final = 1
END_S: Final = 9.8
MANY_FILES: Final = 65536

# The usual request line, which may go to the parser as it is.
_USUAL_LINE: Final = re.compile(rb"[A-Z]+ [!\"$-~]+ HTTP/1\.1\r\n")
# What must be escaped in a request target, and may not have been. A `#` would end the query.
_UNESCAPED: Final = re.compile(rb"[^!-~]|#")


class TolerantProtocol(HttpToolsProtocol):
    """uvicorn's protocol, bounded, patient with a URL that was not escaped, and soon done.

    A callback that has nothing special about it goes to the door as it is, and its answer to the
    client: parser, ASGI scope and a task for each request cost as much as recording a report. All
    else goes uvicorn's way, to the same door.

    uvicorn bounds neither URL, headers nor the time they take, nor how long a client may leave an
    answer unread, and its parser fails on a URL over 64 KiB. And nobody says how PaaSoo encodes
    values: a byte or a space that should have been percent-encoded is, here, so that the report is
    kept rather than refused unseen. (Not so in a request that was sent in one packet with the one
    before it.)
    """

    send_timeout_s: float
    door: Door
    draining: threading.Event

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._line: bytearray | None = bytearray()  # a request line that is coming in
        self._upgrades = UpgradeFilter(lambda: self._in_head and self._line is None)
        self._is_deaf = False  # what follows a CONNECT is not HTTP
        self._headers_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        # What comes in while a callback waits for its commit; None while none does.
        self._behind_callback: bytearray | None = None
        self._is_ending = False
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        self._stop_watching_answer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._behind_callback is not None:
            self._behind_callback += data
            self.flow.pause_reading()
            return
        if self._is_idle():
            scope = usual_callback(data, self.client)
            if scope is not None:
                self._take_callback(scope)
                return
        if self._line is not None:
            if not self._line and _USUAL_LINE.match(data, 0, MAX_LINE_BYTES):
                self._line = None
            else:
                data = self._take_line(data)
        elif self._in_head:
            self._headers_bytes += len(data)
        if self._headers_bytes > MAX_HEADERS_BYTES:
            self.send_400_response("Request head too large.")
            return
        if data:
            self._feed(data)
        if self._in_head and self._head_timer is None and not self._is_between_requests():
            self._watch_head()

    def _feed(self, data: bytes) -> None:
        for piece in self._upgrades.pieces(data):
            if self._is_deaf or self.transport.is_closing():
                return
            super().data_received(piece)

    def _take_line(self, data: bytes) -> bytes:
        """What may go to the parser by now: nothing, or the whole line and all that follows."""
        assert self._line is not None
        if not self._line and not data[:1].isalpha() and data[:1] not in b"\r\n":
            self._line = None  # not HTTP at all, TLS say: the parser need not wait to refuse it
            return data
        if not self._line:
            data = data.lstrip(b"\r\n")  # RFC 9112, 2.2: empty lines before one are ignored
        line, newline, rest = data.partition(b"\n")
        self._line += line[: MAX_LINE_BYTES - len(self._line)]
        if not newline:
            return b""
        whole, self._line = bytes(self._line), None
        return _escaped(whole) + b"\n" + rest

    def _take_callback(self, scope: dict[str, Any]) -> None:
        self._head_is_there()
        self._in_head = True  # of the next one
        self._unset_keepalive_if_required()
        self._behind_callback = bytearray()
        self.door.receive(scope, self._answer_callback)

    def _answer_callback(self, answer: Answer) -> None:
        """No task and no ASGI messages: the answer is written when the commit is through."""
        assert self._behind_callback is not None
        data, self._behind_callback = bytes(self._behind_callback), None
        if self.transport.is_closing():
            return
        content = [answer.status_line]
        for name, value in self.server_state.default_headers:
            content += (name, b": ", value, b"\r\n")
        content.append(answer.header_lines)
        # While it drains too: rather now than later, with a request under way.
        is_last = self.draining.is_set() and not data
        if is_last:
            content.append(b"connection: close\r\n")
        content += (b"\r\n", answer.body)
        self.transport.write(b"".join(content))
        if is_last:
            self.transport.close()
        self.on_response_complete()
        if data:
            self._take_what_is_behind(data)

    def _take_what_is_behind(self, data: bytes) -> None:
        try:
            self.data_received(data)
        except Exception:
            # As it ends where the event loop calls us.
            log.exception("a request failed")
            self.transport.abort()
        if self._is_ending and self._behind_callback is None:
            super().shutdown()

    def _unsupported_upgrade_warning(self) -> None:
        """CONNECT alone comes here: it is answered, and nothing behind it is a request."""
        self._is_deaf = True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._line = None
        self._in_head = True
        self._headers_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers, after a body in chunks, are not kept
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_is_there()
        before = self.cycle
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False
        if self.draining.is_set():
            # The last answer ends the connection, not one that another request is behind.
            if before is not None and not before.response_started:
                before.keep_alive = True
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._line = bytearray()
        self._in_head = True
        self._headers_bytes = 0

    def _is_between_requests(self) -> bool:
        return self._line is not None and not self._line

    def _is_idle(self) -> bool:
        """All requests are answered, and the client reads its answers."""
        return (
            self._is_between_requests()
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
        )

    def _watch_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._hang_up)

    def _head_is_there(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _hang_up(self) -> None:
        self._head_timer = None
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_answer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_watching_answer()

    def shutdown(self) -> None:
        self._is_ending = True
        if self._behind_callback is None:
            super().shutdown()
        self.send_timeout_s = LAST_ANSWERS_S
        self._watch_answer()

    def _watch_answer(self) -> None:
        self._stop_watching_answer()
        self._answer_timer = self.loop.call_later(self.send_timeout_s, self._drop)

    def _stop_watching_answer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _drop(self) -> None:
        self._answer_timer = None
        if self.transport.get_write_buffer_size():
            log.warning("dropped a client that doesn't read its answer")
            self.transport.abort()  # closing would wait until it does


def _escaped(line: bytes) -> bytes:
    """A request line whose target has nothing in it that the parser refuses."""
    method, _, remainder = line.partition(b" ")
    target, found, http_version = remainder.rpartition(b" HTTP/")
    if not found:
        if len(line) < MAX_LINE_BYTES:
            return line  # not HTTP/1.x; the parser says so
        target, found, http_version = remainder, b" HTTP/", b"1.1\r"  # its end was not kept
    if _UNESCAPED.search(target) is None:
        return b"".join((method, b" ", target, found, http_version))
    escaped = _UNESCAPED.sub(lambda match: b"%%%02X" % ord(match[0]), target)
    return b"".join((method, b" ", escaped, found, http_version))


def allow_many_connections() -> None:
    """Whoever waits or reads a stream keeps a connection open; a shell often allows only 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn is run, here and in the tests."""

    class Protocol(TolerantProtocol):
        send_timeout_s = settings.send_timeout_seconds
        door = app.state.door
        draining = app.state.draining

    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it prints whole queries, token and phone number included
        proxy_headers=False,  # who called is decided in `guards`
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # any number will do
        timeout_graceful_shutdown=LAST_COMMITS_S + LAST_ANSWERS_S,
    )


class DrainingServer(uvicorn.Server):
    """On SIGTERM or SIGHUP `/readyz` fails first, and the port closes a little later.

    A load balancer needs that moment to send new reports elsewhere: PaaSoo may never repeat one
    that found the port closed.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(server_config(app, settings))
        self._draining = app.state.draining
        self._writer = app.state.writer
        self._watch = app.state.watch
        self._sending = app.state.sending
        self._drain_seconds = settings.drain_seconds

    async def serve(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._listen_to_hangup()
        await super().serve(*args, **kwargs)

    def _listen_to_hangup(self) -> None:
        """Take SIGHUP too, unless whoever started us (nohup, say) has it ignored."""
        is_main_thread = threading.current_thread() is threading.main_thread()
        if is_main_thread and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.handle_exit)

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        is_drain = sig in {signal.SIGTERM, signal.SIGHUP}
        if is_drain and not self._draining.is_set():
            # Whatever still hangs by then, nobody was promised anything by it.
            last_resort = threading.Timer(END_S, os._exit, (1,))
            last_resort.daemon = True
            last_resort.start()
        if self.should_exit:
            self.force_exit = sig == signal.SIGINT
        elif is_drain and not self._draining.is_set():
            self._draining.set()
            log.info("draining", extra={"signal": signal.Signals(sig).name})
            self._loop.call_soon_threadsafe(self._watch.stop)
            self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_seconds, self.close)
        else:
            self.close()

    def close(self) -> None:
        """Stop listening, and end once everything that is under way is answered."""
        self._draining.set()
        self._loop.call_soon_threadsafe(self._watch.stop)
        self._loop.call_soon_threadsafe(self._loop.call_later, LAST_COMMITS_S, self._give_up)
        self.should_exit = True

    def _give_up(self) -> None:
        """Wait for nobody any more: what remains is to say so to those who wait for us."""
        self._writer.give_up()
        if self._sending is not None:
            self._sending.client.give_up()
