"""Access to the pages: by a session of the role that a page needs, and forms by their token."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import parse_qs

from fastapi import Depends, Request

from app import exchange
from app.api.database import refuse_while_away
from app.api.parts import parts_of
from app.api.routes import Route
from app.console.pages import sessions_of
from app.console.sessions import Session
from app.errors import ApiError, ForbiddenError
from app.guards import Address, caller_address, is_in
from app.settings import Role

SESSION_COOKIE: Final = "dlr_session"
MAX_FIELDS: Final = 1200
# Set in a request's scope once a page's route has taken it.
IS_PAGE: Final = "app.is_page"

USUAL_INTERVAL_S: Final = sys.getswitchinterval()
SHORT_INTERVAL_S: Final = 0.0005

Form = Mapping[str, Sequence[str]]


class SignInNeededError(Exception):
    """Nobody is signed in, or no longer."""


class StaleFormError(ApiError):
    """The form's token is not one of this session."""

    status = 403
    code = "stale_form"
    detail = "this form is out of date, or was not ours; open the page again"


_pages_under_way = 0


@contextmanager
def giving_way() -> Iterator[None]:
    """Let other threads have Python's lock sooner while pages are made: those of the callbacks.

    Otherwise a thread that makes a page keeps it for five milliseconds, and a callback needs it
    several times: to be read, to be written, and to be answered. For the event loop alone.
    """
    global _pages_under_way  # noqa: PLW0603 - as the interval itself, it is the process's
    _pages_under_way += 1
    sys.setswitchinterval(SHORT_INTERVAL_S)
    try:
        yield
    finally:
        _pages_under_way -= 1
        if not _pages_under_way:
            sys.setswitchinterval(USUAL_INTERVAL_S)


class PageRoute(Route):
    """A page's route: its errors are pages too."""

    role: ClassVar[Role | None] = None  # the session is checked by a dependency

    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Any:
            request.scope[IS_PAGE] = True
            with giving_way():
                return await handle(request)

        return handle_page


def find_session(request: Request) -> Session | None:
    """The session of the request's cookie. Waits for the database."""
    cookie = request.cookies.get(SESSION_COOKIE)
    return sessions_of(request).find(cookie) if cookie else None


def _require_session(request: Request) -> Session:
    if SESSION_COOKIE not in request.cookies:
        raise SignInNeededError
    refuse_while_away(request)
    session = find_session(request)
    if session is None:
        raise SignInNeededError
    request.state.session = session
    request.state.key = session.key  # for the log
    return session


def _require_administrator(session: Annotated[Session, Depends(_require_session)]) -> Session:
    if session.key.role < Role.ADMIN:
        raise ForbiddenError("this page needs a key of role admin")
    return session


async def read_fields(request: Request) -> Form:
    """The fields of a form, unchecked. An unreadable one has none."""
    try:
        text = (await request.body()).decode("ascii", "replace")
        return parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        return {}


async def _checked_form(
    request: Request,
    session: Annotated[Session, Depends(_require_session)],
    fields: Annotated[Form, Depends(read_fields)],
) -> Form:
    if not sessions_of(request).is_form_token(session.id, first(fields, "token")):
        raise StaleFormError
    return fields


def first(fields: Form, name: str) -> str:
    """The first value of a field; empty if there is none."""
    return fields.get(name, [""])[0]


Reader = Annotated[Session, Depends(_require_session)]
Administrator = Annotated[Session, Depends(_require_administrator)]
CheckedForm = Annotated[Form, Depends(_checked_form)]


def caller_of(request: Request) -> Address | None:
    """The address of the person's browser, past trusted proxies."""
    peer = request.client.host if request.client else None
    forwarded_for = exchange.values_of(request.scope["headers"], b"x-forwarded-for")
    return caller_address(peer, forwarded_for, parts_of(request).settings.trusted_proxies)


def scheme_of(request: Request) -> str:
    """`https` if a trusted proxy says that the request came to it so."""
    peer = caller_address(request.client.host if request.client else None, (), ())
    if peer is None or not is_in(peer, parts_of(request).settings.trusted_proxies):
        return "http"
    claims = exchange.values_of(request.scope["headers"], b"x-forwarded-proto")
    latest = b",".join(claims).rpartition(b",")[2].strip().lower()
    return "https" if latest == b"https" else "http"


def address_of(request: Request) -> str:
    """The service's own address as this browser knows it, without a `/` at its end."""
    host = request.headers.get("host", "localhost")
    return f"{scheme_of(request)}://{host}{request.scope['root_path']}"
