"""Routes of the API: check the key before reading the body, and answer HEAD as GET."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, Final

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.api.access import bearer, require
from app.api.bodies import with_body
from app.api.parameters import refuse_unknown_parameters
from app.api.responses import problems
from app.settings import Role

# Of an operation in the OpenAPI document that needs no key.
NO_KEY: Final[dict[str, Any]] = {"security": []}

_IS_HEAD: Final = "app.is_head"


class Route(APIRoute):
    """A route that answers HEAD with GET's endpoint; the server leaves the body out."""

    role: ClassVar[Role | None] = None  # None: no key is needed

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        # Not a dependency: FastAPI reads the body before it runs any.
        handle = super().get_route_handler()

        async def handle_known_caller(request: Request) -> Response:
            if self.role is not None:
                await require(request, self.role)
            # Read it even if the endpoint wants none: what is cut off, or malformed, is not done.
            if "content-length" in request.headers or "transfer-encoding" in request.headers:
                request = await with_body(request)
            return await handle(request)

        return handle_known_caller

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(_as_get(scope))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().handle(_as_get(scope), receive, send)


class _ReaderRoute(Route):
    role = Role.READ


class _SenderRoute(Route):
    role = Role.SEND


class _AdministratorRoute(Route):
    role = Role.ADMIN


_ROUTE_CLASSES: Final[dict[Role, type[Route]]] = {
    Role.READ: _ReaderRoute,
    Role.SEND: _SenderRoute,
    Role.ADMIN: _AdministratorRoute,
}


def api_router(
    prefix: str,
    *,
    tag: str,
    role: Role,
    responses: Mapping[int | str, dict[str, Any]] | None = None,
) -> APIRouter:
    """A router for endpoints that need a key of this role and refuse unknown parameters."""
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=_ROUTE_CLASSES[role],
        # The route itself checks the key; `bearer` is here for the OpenAPI document.
        dependencies=[Security(bearer), Depends(refuse_unknown_parameters)],
        responses={**problems(401, 403, 414, 422, 503), **(responses or {})},
    )


def _as_get(scope: Scope) -> Scope:
    return {**scope, "method": "GET", _IS_HEAD: True} if scope.get("method") == "HEAD" else scope


def is_head(request: Request) -> bool:
    """True for HEAD, where a stream must send nothing."""
    return _IS_HEAD in request.scope


def methods_of(request: Request) -> list[str]:
    """All methods of the request's path. The router's own 405 names those of one route only."""
    path = request.scope["path"].removeprefix(request.scope["root_path"])
    methods: set[str] = set()
    context: Any
    for context in iter_route_contexts(request.app.routes):
        if context.methods and context.path_regex.match(path):
            methods |= context.methods
    # Without any route, the path is that of a static file.
    return sorted(methods | {"HEAD"} if "GET" in methods else methods or {"GET", "HEAD"})
