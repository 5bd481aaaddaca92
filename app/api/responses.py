"""JSON responses, and the error responses of an endpoint for the OpenAPI document."""

from typing import Any, Final

from fastapi import Response
from pydantic_core import to_json

from app.errors import (
    BodyTooLargeError,
    DatabaseUnavailableError,
    ForbiddenError,
    InvalidRequestError,
    MessageNotFoundError,
    QueryTooLongError,
    UnauthorizedError,
    documented,
)

_DESCRIPTION_OF_STATUS: Final = {
    401: (UnauthorizedError.code, "No API key, or a wrong one."),
    403: (ForbiddenError.code, "The key's role is too low."),
    404: (MessageNotFoundError.code, "The message is unknown."),
    413: (BodyTooLargeError.code, "The body is longer than 1 MiB."),
    414: (QueryTooLongError.code, "The query is longer than 8 KiB."),
    422: (InvalidRequestError.code, "The request is malformed; `detail` names the field."),
    503: (DatabaseUnavailableError.code, "The database can't be reached; see `Retry-After`."),
}


def json_response(document: object) -> Response:
    """Write the document out as it is. FastAPI would validate and copy it first."""
    return Response(to_json(document), media_type="application/json")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of these error statuses."""
    return {
        status: documented(f"{description} `code`: `{code}`.")
        for status, (code, description) in _DESCRIPTION_OF_STATUS.items()
        if status in statuses
    }
