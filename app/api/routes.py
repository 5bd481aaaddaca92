"""Routes of the API: HEAD is answered as GET is, and a path knows all of its methods."""

from typing import Any, Final

from fastapi import Request
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

_IS_HEAD: Final = "app.is_head"


class Route(APIRoute):
    """An endpoint of the API. For HEAD the server leaves the body out of what GET answers."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(_as_get(scope))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().handle(_as_get(scope), receive, send)


def _as_get(scope: Scope) -> Scope:
    return {**scope, "method": "GET", _IS_HEAD: True} if scope.get("method") == "HEAD" else scope


def is_head(request: Request) -> bool:
    """True where nobody reads the body: a stream must not begin."""
    return _IS_HEAD in request.scope


def methods_of(request: Request) -> list[str]:
    """The methods that the request's path takes. A 405 of the router names one route's alone."""
    path = request.scope["path"].removeprefix(request.scope["root_path"])
    methods: set[str] = set()
    context: Any
    for context in iter_route_contexts(request.app.routes):
        if context.methods and context.path_regex.match(path):
            methods |= context.methods
    # Static files are a mounted application, not a route.
    return sorted(methods | {"HEAD"} if "GET" in methods else methods or {"GET", "HEAD"})
