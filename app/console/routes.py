"""Every page, added to the application."""

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from app.api.error_handlers import ERROR_HANDLERS, ErrorHandler
from app.api.routes import Route
from app.console import (
    assets,
    deliveries,
    live,
    messages,
    overview,
    problems,
    quarantine,
    search,
    setup,
    signing_in,
    webhooks,
)

_assets = APIRouter(route_class=Route, include_in_schema=False)
_assets.get("/static/{name}")(assets.show_asset)

ROUTERS: Final = (
    signing_in.router,
    overview.router,
    search.router,
    messages.router,
    deliveries.router,
    live.router,
    quarantine.router,
    webhooks.router,
    setup.router,
    _assets,
)


def all_routes() -> list[BaseRoute]:
    console = APIRouter()
    for router in ROUTERS:
        console.include_router(router)
    return console.routes


# The same for every application of a process, as are the API's routes, and for the same reason.
ROUTES: Final = all_routes()
PATHS: Final = frozenset(route.path for route in iter_route_contexts(ROUTES))


def add_console(app: FastAPI) -> None:
    app.router.routes.extend(ROUTES)


def error_handlers(*, has_console: bool) -> Mapping[int | type[Exception], ErrorHandler]:
    """The API's handlers, and in front of them the pages'."""
    return {**ERROR_HANDLERS, **(problems.HANDLERS if has_console else {})}
