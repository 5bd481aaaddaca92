"""The ASGI application around the router: the path as sent, a request id, a log line."""

import logging
import time
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import Message, Receive, Scope, Send

from app import errors
from app.api.parts import Parts
from app.api.request_log import log_request
from app.exchange import Request, request_id

log = logging.getLogger(__name__)


class Service(FastAPI):
    """FastAPI behind a prefix that a proxy strips, with a request id and a log line.

    Paths that begin with `silent_prefix`, those of the callback, get neither: there are thousands
    of requests a second, and the door itself logs the odd ones.
    """

    def __init__(self, parts: Parts, *, prefix: str, silent_prefix: str, **options: Any) -> None:
        super().__init__(**options)
        self.parts = parts
        self._prefix = prefix
        self._silent_prefix = silent_prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(self._silent_prefix):
            await super().__call__(scope, receive, send)
            return
        if scope["path"].startswith(("/v1/", "/messages/")):
            # Undecoded, so that an id may contain a `/`, sent as `%2F`.
            scope["path"] = scope["raw_path"].decode("ascii")
        # The proxy has stripped the prefix, and routing strips it again.
        scope["root_path"] = self._prefix
        scope["path"] = self._prefix + scope["path"]
        await self._answer_and_log(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Add the schema of errors, which all error responses refer to."""
        document = super().openapi()
        document["components"]["schemas"].update(errors.schemas())
        return document

    def routes_with_methods(self) -> Iterator[tuple[str, set[str]]]:
        """Every path's template with the methods that it takes."""
        route: Any
        for route in iter_route_contexts(self.routes):
            if route.methods:
                yield route.path, route.methods

    async def _answer_and_log(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        request = Request.of(scope)
        name = request_id(request.headers)
        status, is_complete = 500, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_complete
            # Not only at the end: a stream may be open for days.
            if (key := scope.get("state", {}).get("key")) is not None:
                self.parts.uses.note(key)
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name)]
            is_complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await super().__call__(scope, receive, send_with_id)
        except Exception:
            if not is_complete:
                raise  # the server logs it, and closes the connection
            log.exception("a request failed")
        finally:
            path = request.path.removeprefix(self._prefix)
            route = getattr(scope.get("route"), "path", None)
            self.parts.metrics.requests.add(
                route, path, request.method, status, time.perf_counter() - began
            )
            log_request(
                method=request.method,
                route=route,
                status=status,
                began=began,
                key=scope.get("state", {}).get("key"),
                peer=request.peer,
                request_id=name,
            )
