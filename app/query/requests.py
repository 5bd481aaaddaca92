"""What every request to the status API has in common: a connection, its ids, its strictness."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, get_origin
from urllib.parse import unquote

from fastapi import Depends, Path, Request, Response
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import to_json
from sqlalchemy import Engine

from app.errors import (
    MAX_QUERY_BYTES,
    DatabaseUnavailableError,
    ForbiddenError,
    InvalidRequestError,
    MessageNotFoundError,
    QueryTooLongError,
    UnauthorizedError,
    documented,
)
from app.query.schemas import EPOCH
from app.reports import MSISDN_PATTERN, is_printable_ascii, normal_msisdn


def refuse_while_away(request: Request) -> None:
    """The database is away, which is known: so nobody need wait to find out."""
    if request.app.state.outage.is_on:
        raise DatabaseUnavailableError


async def reading_engine(request: Request) -> Engine:
    """Where to read. An endpoint connects by itself, on the thread that it runs on.

    A dependency that held a connection would wait, with it, for a thread to run its endpoint on;
    and the threads would all wait for a connection.
    """
    refuse_while_away(request)
    engine: Engine = request.app.state.database.read
    return engine


def answer(document: object) -> Response:
    """As it is: FastAPI would check and copy what is known to be right."""
    return Response(to_json(document), media_type="application/json")


ReadEngine = Annotated[Engine, Depends(reading_engine)]


async def refuse_unknown_parameters(request: Request) -> None:
    """A parameter that is misspelt must not be silently without effect."""
    if len(request.scope["query_string"]) > MAX_QUERY_BYTES:
        # The server keeps no more than the beginning, which is not to be taken for all of it.
        raise QueryTooLongError
    if not request.scope["query_string"]:
        return
    known = {field.alias: field for field in request.scope["route"].dependant.query_params}
    lists = {
        name for name, field in known.items() if get_origin(field.field_info.annotation) is list
    }
    given = [name for name, _ in request.query_params.multi_items()]
    problems = [
        {"field": name, "message": "no such parameter" if name not in known else "given twice"}
        for position, name in enumerate(given)
        if name not in known or (name in given[:position] and name not in lists)
    ]
    if problems:
        raise InvalidRequestError(problems)


def _printable_ascii(text: str) -> str:
    if not is_printable_ascii(text):
        raise ValueError("must be printable ASCII characters without space")
    return text


def _microseconds(text: object) -> int:
    """A time of RFC 3339, with its offset, as microseconds since 1970 UTC."""
    # A `+` that was not percent-encoded arrives as a space.
    found = _RFC3339.fullmatch(str(text).replace(" ", "+"))
    if found is None:
        raise ValueError("must be a time of RFC 3339 with its offset: 2026-11-22T08:00:00Z")
    try:
        # Of the years 1 to 9999 in UTC too: others can't be shown.
        moment = datetime.fromisoformat(found[0].upper()).astimezone(UTC)
        return (moment - EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise ValueError("must be a time that exists") from None


_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
Moment = Annotated[
    int,
    BeforeValidator(_microseconds),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


def _msisdn(to: str) -> str:
    recipient = normal_msisdn(to)
    if recipient is None:
        raise ValueError("must be 3 to 20 digits, after a `+` or `00` if there is one")
    return recipient


Msisdn = Annotated[
    str, Field(json_schema_extra={"pattern": MSISDN_PATTERN}), AfterValidator(_msisdn)
]


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not have a NUL character")
    return text


PlainText = Annotated[
    str,
    Field(min_length=1, json_schema_extra={"pattern": "^[^\\u0000]*$"}),
    AfterValidator(_without_nul),
]

PlainMessageId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        json_schema_extra={"pattern": "^[!-~]+$"},
        examples=["052804b7368321"],
    ),
    AfterValidator(_printable_ascii),
]

# Routing sees paths as they were sent, so that an id may have a `/`; ids are decoded here.
MessageId = Annotated[
    str,
    BeforeValidator(lambda raw: unquote(raw) if isinstance(raw, str) else raw),
    Field(min_length=1, max_length=128),
    AfterValidator(_printable_ascii),
    Path(
        description="PaaSoo's id of the send call; reserved characters percent-encoded, "
        "`/` as `%2F` included.",
        json_schema_extra={"pattern": "^[!-~]+$"},
        examples=["052804b7368321"],
    ),
]

_DESCRIPTION_OF_STATUS: Final = {
    401: (UnauthorizedError.code, "No API key, or a wrong one."),
    403: (ForbiddenError.code, "The key's role is too low."),
    404: (MessageNotFoundError.code, "Nothing is known of it."),
    414: (QueryTooLongError.code, "The query is longer than 8 KiB."),
    422: (InvalidRequestError.code, "The request is malformed; `detail` names the field."),
    503: (DatabaseUnavailableError.code, "The database can't be reached; see `Retry-After`."),
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an endpoint, for the OpenAPI document."""
    return {
        status: documented(f"{description} `code`: `{code}`.")
        for status, (code, description) in _DESCRIPTION_OF_STATUS.items()
        if status in statuses
    }
