"""The error handlers: a problem document for every error, whoever raised it."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError

from app import errors
from app.api.asgi import response
from app.api.failures import answer_to
from app.api.routes import methods_of
from app.errors import ApiError, InvalidRequestError, NotFoundError
from app.exchange import problem

ErrorHandler = Callable[[Request, Any], Coroutine[Any, Any, Response]]

# Messages of Pydantic's that only its users would understand.
PLAIN_MESSAGES: Final = {
    "json_invalid": "must be valid JSON",
    "model_attributes_type": "must be a JSON object, with `Content-Type: application/json`",
    "missing": "is missing",
    "extra_forbidden": "no such field",
}


async def _on_error(_request: Request, error: Exception) -> Response:
    return response(answer_to(error))


async def _on_our_fault(_request: Request, _error: Exception) -> Response:
    return response(problem(errors.INTERNAL_ERROR))  # the error goes on to `Service`, which logs it


async def _on_unreadable_body(_request: Request, _error: HTTPException) -> Response:
    found = [{"field": "body", "message": "must be JSON in UTF-8"}]
    return response(answer_to(InvalidRequestError(found)))


async def _on_unknown_path(_request: Request, _error: HTTPException) -> Response:
    return response(answer_to(NotFoundError()))


async def _on_wrong_method(request: Request, _error: HTTPException) -> Response:
    detail = "this path doesn't take this method"
    document = errors.problem(405, "method_not_allowed", detail)
    return response(problem(document, allow=", ".join(methods_of(request))))


async def _on_invalid_request(_request: Request, error: RequestValidationError) -> Response:
    found = [{"field": _field_of(fault), "message": _message_of(fault)} for fault in error.errors()]
    return response(answer_to(InvalidRequestError(found)))


def _field_of(fault: Mapping[str, Any]) -> str:
    """The field as a dotted path: `to.0`. For malformed JSON, Pydantic gives an offset instead."""
    path = () if fault["type"] == "json_invalid" else fault["loc"][1:]
    return ".".join(map(str, path)) or "body"


def _message_of(fault: Mapping[str, Any]) -> str:
    plain = PLAIN_MESSAGES.get(fault["type"])
    return plain or str(fault["msg"]).removeprefix("Value error, ")


ERROR_HANDLERS: Final[Mapping[int | type[Exception], ErrorHandler]] = {
    ApiError: _on_error,
    SQLAlchemyError: _on_error,
    RequestValidationError: _on_invalid_request,
    400: _on_unreadable_body,
    404: _on_unknown_path,
    405: _on_wrong_method,
    Exception: _on_our_fault,
}
