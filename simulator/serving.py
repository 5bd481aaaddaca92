"""A server beside the run: it leaves signals to the run, and can hang up on a caller."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HANG_UP: Final = "simulator.hang_up"


def server_of(app: Starlette) -> uvicorn.Server:
    """A server of an app, to be run on a listener."""
    config = uvicorn.Config(
        app,
        http=ProtocolThatCanHangUp,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    return SubordinateServer(config)


async def hang_up(request: Request) -> None:
    """Close the connection without an answer."""
    request.scope[HANG_UP]()
    await caller_leaves(request)


async def caller_leaves(request: Request) -> None:
    """Wait until the connection is closed, from either side. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class ProtocolThatCanHangUp(HttpToolsProtocol):
    """uvicorn's protocol, with a way for the app to close a connection unanswered."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        scope: Any = self.scope
        scope[HANG_UP] = self.transport.abort


class SubordinateServer(uvicorn.Server):
    """A server that leaves signals to the run around it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
