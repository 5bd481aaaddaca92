"""Expected errors, each with its status and code, in the shape of RFC 9457.

"Problem Details for HTTP APIs" leaves room for our own member, the stable `code`.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    NotRequired,  # Pydantic needs these before Python 3.12
)

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

MAX_QUERY_BYTES: Final = 8 * 1024
MAX_BODY_BYTES: Final = 1024 * 1024
PROBLEM_TYPE: Final = "application/problem+json"


class FieldFault(TypedDict):
    """One field of a request, and what is wrong with it."""

    field: Annotated[str, Field(description="Its name; inside a body, the path: `to.0`.")]
    message: str


class Problem(TypedDict):
    """An error in the shape of RFC 9457, with the members of ours that some errors have."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # Pydantic's own way

    type: Annotated[
        str, Field(description="Always `about:blank`: the title is the HTTP status phrase.")
    ]
    title: str
    status: int
    detail: Annotated[str, Field(description="The fault, for people.")]
    code: Annotated[str, Field(description="The fault, for programs: stable.")]
    errors: NotRequired[
        Annotated[list[FieldFault], Field(description="`invalid_request`: each field at fault.")]
    ]
    messageid: NotRequired[
        Annotated[str | None, Field(description="The message that the error is about.")]
    ]
    reference: NotRequired[
        Annotated[str | None, Field(description="The `reference` of a message perhaps sent.")]
    ]
    outcome: NotRequired[
        Annotated[
            str,
            Field(description="`outcome_not_recorded`: `sent`, or the code of what PaaSoo did."),
        ]
    ]
    provider: NotRequired[
        Annotated[dict[str, Any], Field(description="PaaSoo's `status` and `status_code`.")]
    ]
    id: NotRequired[Annotated[str, Field(description="The row of the quarantine asked for.")]]
    checks: NotRequired[
        Annotated[dict[str, str], Field(description="`not_ready`: each check with its finding.")]
    ]


def schemas() -> dict[str, Any]:
    """`Problem` and the schemas inside it, by name, as components of the OpenAPI document."""
    schema = TypeAdapter(Problem).json_schema(ref_template="#/components/schemas/{model}")
    inner = schema.pop("$defs")
    return {"Problem": schema, **inner}


def documented(description: str) -> dict[str, Any]:
    """An error's entry in the OpenAPI document."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {PROBLEM_TYPE: {"schema": schema}}}


def problem(status: int, code: str, detail: str, **more: object) -> dict[str, object]:
    """A problem document. Its type `about:blank` says that `title` is the HTTP status phrase."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        **more,
    }


def encode(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


INTERNAL_ERROR: Final = problem(500, "internal_error", "this is our fault; it is logged")


class ApiError(Exception):
    """An error answer, raised where the fault is noticed."""

    status: ClassVar[int]
    code: ClassVar[str]
    detail: str  # of the class, unless it is given
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, detail: str | None = None, **more: Any) -> None:
        if detail is not None:
            self.detail = detail
        super().__init__(self.detail)
        self.more = more

    def document(self) -> dict[str, object]:
        return problem(self.status, self.code, self.detail, **self.more)


class UnauthorizedError(ApiError):
    """No API key, or an unknown one."""

    status = 401
    code = "unauthorized"
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}
    detail = "a known API key is needed: `Authorization: Bearer KEY`"


class ForbiddenError(ApiError):
    """The key's role is too low."""

    status = 403
    code = "forbidden"


class NotFoundError(ApiError):
    """No such path. A callback with a wrong token gets the same answer, to reveal nothing."""

    status = 404
    code = "not_found"
    detail = "there is nothing at this path"


class MessageNotFoundError(ApiError):
    """No report and no submission is known for this message id."""

    status = 404
    code = "message_not_found"

    def __init__(self, message_id: str) -> None:
        super().__init__(f"nothing is known of message {message_id}", messageid=message_id)


class RefusedCallbackNotFoundError(ApiError):
    """Nothing with this id is in the quarantine."""

    status = 404
    code = "refused_callback_not_found"

    def __init__(self, row_id: str) -> None:
        super().__init__(f"nothing with the id {row_id} is in the quarantine", id=row_id)


class BodyTooLargeError(ApiError):
    """The body is longer than the service reads."""

    status = 413
    code = "body_too_large"
    detail = f"the body is longer than {MAX_BODY_BYTES} bytes"


class MalformedRequestError(ApiError):
    """The bytes are not a whole HTTP request. The connection ends with the answer."""

    status = 400
    code = "malformed_request"
    detail = "this is not an HTTP request"


class RequestTimeoutError(ApiError):
    """The body took longer than a body may."""

    status = 408
    code = "request_timeout"
    detail = "the body took too long to come"


class QueryTooLongError(ApiError):
    """The query is longer than the service keeps."""

    status = 414
    code = "query_too_long"
    detail = f"the query is longer than {MAX_QUERY_BYTES} bytes"


class InvalidRequestError(ApiError):
    """The request is malformed. `errors` names each field and its fault."""

    status = 422
    code = "invalid_request"

    def __init__(self, errors: list[dict[str, str]]) -> None:
        detail = "; ".join(f"{error['field']}: {error['message']}" for error in errors)
        super().__init__(detail, errors=errors)


class DatabaseUnavailableError(ApiError):
    """The database can't be reached now."""

    status = 503
    code = "database_unavailable"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}
    detail = "the database can't be reached; try again"


class TooManyWaitingError(ApiError):
    """All places for waiting requests or for streams are taken, or this key's share of them."""

    status = 503
    code = "too_many_waiting"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}

    def __init__(self, why: str) -> None:
        super().__init__(f"too many requests wait, or read streams: {why}; try again later")


class ShuttingDownError(ApiError):
    """The process is about to end."""

    status = 503
    code = "shutting_down"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}
    detail = "this process is about to end; try again"


class TooManyConnectionsError(ApiError):
    """The process may open no more files for connections."""

    status = 503
    code = "too_many_connections"
    detail = "no connection is left; try again"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}
