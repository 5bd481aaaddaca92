"""Errors as pages, for browsers. Whatever else asks gets the problem document as before."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.api.error_handlers import ERROR_HANDLERS, ErrorHandler
from app.api.failures import answer_to
from app.api.parts import parts_of
from app.api.routes import methods_of
from app.console.access import IS_PAGE, SignInNeededError, find_session
from app.console.pages import SECURITY_HEADERS, page, redirect
from app.errors import ApiError, DatabaseUnavailableError

TITLES: Final = {
    403: "This page is not for your key",
    404: "There is nothing here",
    405: "This page does not take that",
    413: "That was too much",
    422: "That can't be read",
    500: "That was our fault",
    503: "Not available just now",
}
TEXTS: Final = {
    404: "The address may be misspelt, or the page may have moved.",
    500: "The error is in the log. Please try again.",
}


async def _on_sign_in_needed(request: Request, _error: SignInNeededError) -> Response:
    if request.method not in {"GET", "HEAD"}:
        return redirect(request, "/sign-in")
    if request.headers.get("sec-fetch-site") == "cross-site":
        # A link from elsewhere, a ticket for example: the browser leaves out our strict cookie.
        # When the page asks for itself again, the request comes from us, and has it.
        headers = {**SECURITY_HEADERS, "Refresh": "0"}
        return Response("", 200, headers, "text/html; charset=utf-8")
    path = request.scope["raw_path"].decode("ascii", "replace")
    query = request.scope["query_string"].decode("latin-1")
    asked = f"{path}?{query}" if query else path
    return redirect(request, "/sign-in", next=None if asked == "/" else asked)


async def _on_error(request: Request, error: Any) -> Response:
    if request.scope.get(IS_PAGE):
        if isinstance(error, RequestValidationError):
            return await _page_of(request, 404, TEXTS[404])
        answer = answer_to(error)
        if isinstance(error, SQLAlchemyError):
            error = DatabaseUnavailableError()
            if not hasattr(request.state, "session"):
                request.state.session = None  # to look for it would only fail again
        detail = error.detail[0].upper() + error.detail[1:] + "."
        shown = await _page_of(request, answer.status, detail)
        shown.headers.update(error.headers)
        return shown
    kind = next(kind for kind in _ALSO_ELSEWHERE if isinstance(error, kind))
    return await ERROR_HANDLERS[kind](request, error)


async def _on_unknown_path(request: Request, error: HTTPException) -> Response:
    if _is_browser(request):
        return await _page_of(request, 404, TEXTS[404])
    return await ERROR_HANDLERS[404](request, error)


async def _on_wrong_method(request: Request, error: HTTPException) -> Response:
    if not _is_browser(request):
        return await ERROR_HANDLERS[405](request, error)
    answer = await _page_of(request, 405, "Go back, and open the page again.")
    answer.headers["Allow"] = ", ".join(methods_of(request))
    return answer


async def _on_our_fault(request: Request, error: Exception) -> Response:
    if _is_browser(request):
        return page(request, "problem.html", 500, title=TITLES[500], text=TEXTS[500])
    return await ERROR_HANDLERS[Exception](request, error)


async def _page_of(request: Request, status: int, text: str) -> Response:
    """The error's page: with the search box for those who are signed in."""
    if not hasattr(request.state, "session") and not parts_of(request).outage.is_on:
        try:
            request.state.session = await run_in_threadpool(find_session, request)
        except SQLAlchemyError:
            request.state.session = None
    title = TITLES.get(status, "That did not work")
    return page(request, "problem.html", status, title=title, text=text)


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "") and not request.scope[
        "path"
    ].removeprefix(request.scope["root_path"]).startswith("/v1/")


_ALSO_ELSEWHERE: Final = (RequestValidationError, SQLAlchemyError, ApiError)

HANDLERS: Final[Mapping[int | type[Exception], ErrorHandler]] = {
    SignInNeededError: _on_sign_in_needed,
    **dict.fromkeys(_ALSO_ELSEWHERE, _on_error),
    404: _on_unknown_path,
    405: _on_wrong_method,
    Exception: _on_our_fault,
}
