"""Starts uvicorn with our protocol, and ends it in order."""

import asyncio
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any, Final

import uvicorn

from app.api.service import Service
from app.http.descriptors import ConnectionLimit
from app.http.protocol import LAST_ANSWERS_S, HttpProtocol
from app.settings import Settings

log = logging.getLogger(__name__)

# The process ends within 10 s of SIGTERM, whatever hangs. The port stays open for up to 5 s of
# them (`DLR_DRAIN_SECONDS`); then admitted reports have this long to be committed.
LAST_COMMITS_S: Final = 2
END_S: Final = 9.8


def server_config(app: Service, settings: Settings) -> uvicorn.Config:
    """The configuration of uvicorn, in production and in tests."""

    class Protocol(HttpProtocol):
        send_timeout_s = settings.send_timeout_seconds
        shortcuts = app.parts.shortcuts if settings.shortcuts else ()
        draining = app.parts.draining
        limit = ConnectionLimit(app.parts.metrics.connections_refused)

    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it would print whole queries, with token and phone number
        proxy_headers=False,  # `guards` finds the caller
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # any number will do
        timeout_graceful_shutdown=LAST_COMMITS_S + LAST_ANSWERS_S,
    )


class DrainingServer(uvicorn.Server):
    """On SIGTERM or SIGHUP `/readyz` fails first, and the port closes a little later.

    A load balancer needs that moment to send new reports elsewhere: PaaSoo may never repeat one
    that found the port closed.
    """

    def __init__(self, app: Service, settings: Settings) -> None:
        super().__init__(server_config(app, settings))
        self._draining = app.parts.draining
        self._writer = app.parts.writer
        self._watch = app.parts.watch
        self._sending = app.parts.sending
        self._drain_seconds = settings.drain_seconds

    async def serve(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._listen_to_hangup()
        await super().serve(*args, **kwargs)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn every tenth of a second."""
        now = self._loop.time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpProtocol):
                connection.expire_if_late(now)
        return await super().on_tick(counter)

    def _listen_to_hangup(self) -> None:
        """Handle SIGHUP too, unless our parent (nohup, say) has made us ignore it."""
        is_main_thread = threading.current_thread() is threading.main_thread()
        if is_main_thread and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.handle_exit)

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        is_drain = sig in {signal.SIGTERM, signal.SIGHUP}
        if is_drain and not self._draining.is_set():
            # Nothing that still hangs by then was acknowledged.
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
        """Stop listening, and end once all requests are answered."""
        self._draining.set()
        self._loop.call_soon_threadsafe(self._watch.stop)
        self._loop.call_soon_threadsafe(self._loop.call_later, LAST_COMMITS_S, self._give_up)
        self.should_exit = True

    def _give_up(self) -> None:
        """Stop waiting for the database and for PaaSoo: their callers are answered 503."""
        self._writer.give_up()
        if self._sending is not None:
            self._sending.client.give_up()
