"""Every page, added to the application."""

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, FastAPI

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


def add_console(app: FastAPI) -> None:
    for router in ROUTERS:
        app.include_router(router)


def error_handlers(*, has_console: bool) -> Mapping[int | type[Exception], ErrorHandler]:
    """The API's handlers, and in front of them the pages'."""
    return {**ERROR_HANDLERS, **(problems.HANDLERS if has_console else {})}
