"""The HTTP server: uvicorn, with bounds on what a request head may cost, and an orderly end."""

import asyncio
import logging
import re
import signal
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.settings import Settings

log = logging.getLogger(__name__)

# A URL is kept up to here: more than a callback may have, so that it is still answered 414.
MAX_URL_BYTES: Final = 16 * 1024
MAX_HEAD_BYTES: Final = 256 * 1024

# The process ends within 10 s of SIGTERM, whatever hangs: the port stays open for up to 5 s of
# them (`DLR_DRAIN_SECONDS`), then what was admitted has this long to be committed.
LAST_COMMITS_S: Final = 3
# After that nobody waits for the database any more, and answering takes but a moment.
LAST_ANSWERS_S: Final = 1
# Longer than the idle time-outs of the usual proxies, so that they hang up first, not we.
KEEP_ALIVE_S: Final = 75


# What the parser refuses in a request line, other than the line's own space and end.
_UNESCAPED: Final = re.compile(rb"[^\t\r\n -~]")


class TolerantProtocol(HttpToolsProtocol):
    """uvicorn's protocol, bounded, and patient with a URL that was not escaped.

    uvicorn bounds neither URL nor headers, and its parser fails on a URL over 64 KiB. Nobody says
    how PaaSoo encodes values: a byte that should have been percent-encoded is, here, so that the
    report is kept rather than refused before anybody has seen it.
    """

    _head_bytes: int | None = 0  # of the head that is coming in; None while there is none
    _in_request_line = True

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("Request head too large.")
                return
            self._head_bytes += len(data)
            if self._in_request_line:
                data = self._escape_request_line(data)
        super().data_received(data)

    def _escape_request_line(self, data: bytes) -> bytes:
        end = data.find(b"\n")
        self._in_request_line = end < 0
        if _UNESCAPED.search(data, 0, end if end >= 0 else len(data)) is None:
            return data
        line, newline, rest = data.partition(b"\n")
        return _UNESCAPED.sub(lambda found: b"%%%02X" % ord(found[0]), line) + newline + rest

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        # A fragment is never sent: a `#` here is data, where the parser would end the query.
        self.url += url[: MAX_URL_BYTES - len(self.url)].replace(b"#", b"%23")

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_bytes = 0
        self._in_request_line = True


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn is run, here and in the tests."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=TolerantProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it prints whole queries, token and phone number included
        proxy_headers=False,  # who called is decided in `guards`
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_COMMITS_S + LAST_ANSWERS_S,
    )


class DrainingServer(uvicorn.Server):
    """On SIGTERM `/readyz` fails first, and the port closes a little later.

    A load balancer needs that moment to send new reports elsewhere: PaaSoo may never repeat one
    that found the port closed.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(server_config(app, settings))
        self._draining = app.state.draining
        self._writer = app.state.writer
        self._drain_seconds = settings.drain_seconds

    async def serve(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(*args, **kwargs)

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = sig == signal.SIGINT
        elif sig == signal.SIGTERM and not self._draining.is_set():
            self._draining.set()
            log.info("SIGTERM: draining")
            self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_seconds, self.close)
        else:
            self._draining.set()
            self.close()

    def close(self) -> None:
        """Stop listening, and end once everything that is under way is answered."""
        self._loop.call_soon_threadsafe(self._loop.call_later, LAST_COMMITS_S, self._writer.give_up)
        self.should_exit = True
