"""Signing in with an API key, and signing out."""

import math
import re
from secrets import token_urlsafe
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from app.api.database import refuse_while_away
from app.api.parts import parts_of
from app.console.access import (
    SESSION_COOKIE,
    CheckedForm,
    Form,
    PageRoute,
    Reader,
    caller_of,
    find_session,
    first,
    read_fields,
    scheme_of,
)
from app.console.pages import page, redirect, sessions_of
from app.console.sessions import LIFE_S
from app.guards import known_key

router = APIRouter(route_class=PageRoute, include_in_schema=False)

# Names a browser before anybody signs in, so that the first form has a token too.
VISIT_COOKIE: Final = "dlr_visit"
VISIT: Final = re.compile(r"[A-Za-z0-9_-]{22}")
MAX_PATH_LENGTH: Final = 4000


@router.get("/sign-in")
def show_sign_in(request: Request) -> Response:
    """The form with its one field."""
    refuse_while_away(request)
    if find_session(request) is not None:
        return redirect(request, "/")
    return _form(request, own_path(request.query_params.get("next", "")))


@router.post("/sign-in")
def sign_in(request: Request, fields: Annotated[Form, Depends(read_fields)]) -> Response:
    """Begin a session with a key of the settings, of any role."""
    refuse_while_away(request)
    sessions, caller = sessions_of(request), caller_of(request)
    path = own_path(first(fields, "next"))
    visit = request.cookies.get(VISIT_COOKIE, "")
    if not VISIT.fullmatch(visit) or not sessions.is_form_token(visit, first(fields, "token")):
        return _form(request, path, 403, "This form was out of date. Please try again.")
    if wait_s := math.ceil(sessions.attempts.wait_s(caller)):
        problem = f"Too many wrong keys. Wait {wait_s} seconds, then try again."
        answer = _form(request, path, 429, problem)
        answer.headers["Retry-After"] = str(wait_s)
        return answer
    key = known_key(parts_of(request).settings.api_keys, first(fields, "key").strip())
    if key is None:
        sessions.attempts.note_wrong(caller)
        return _form(request, path, 401, "No such key. Check that you copied all of it.")
    answer = redirect(request, path)
    request.state.key = key
    _set_cookie(request, answer, SESSION_COOKIE, sessions.begin(key))
    return answer


@router.post("/sign-out")
def sign_out(request: Request, session: Reader, form: CheckedForm) -> Response:  # noqa: ARG001
    """End the session on all replicas, so that its cookie is void wherever it was copied."""
    sessions_of(request).end(session)
    answer = redirect(request, "/sign-in")
    answer.delete_cookie(SESSION_COOKIE, path=request.scope["root_path"] or "/")
    return answer


def own_path(text: str) -> str:
    """The path if it is one of ours, else the overview's. A browser reads `//` as another host."""
    is_plain = text.isascii() and text.isprintable() and len(text) <= MAX_PATH_LENGTH
    is_ours = re.match(r"/(?![/\\])", text) is not None and "\\" not in text
    return text if is_plain and is_ours else "/"


def _form(request: Request, path: str, status: int = 200, problem: str | None = None) -> Response:
    visit = request.cookies.get(VISIT_COOKIE, "")
    is_new = not VISIT.fullmatch(visit)
    if is_new:
        visit = token_urlsafe(16)
    token = sessions_of(request).form_token(visit)
    answer = page(request, "sign_in.html", status, token=token, next=path, problem=problem)
    if is_new:
        _set_cookie(request, answer, VISIT_COOKIE, visit)
    return answer


def _set_cookie(request: Request, answer: Response, name: str, value: str) -> None:
    answer.set_cookie(
        name,
        value,
        max_age=LIFE_S,
        path=request.scope["root_path"] or "/",
        secure=scheme_of(request) == "https",
        httponly=True,
        samesite="strict",
    )
