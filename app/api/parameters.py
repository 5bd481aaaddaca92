"""Parameters and fields that several endpoints share, and the refusal of unknown ones."""

from typing import Annotated, get_origin
from urllib.parse import unquote

from fastapi import Path, Query, Request
from pydantic import AfterValidator, BeforeValidator, Field

from app.errors import MAX_QUERY_BYTES, InvalidRequestError, QueryTooLongError
from app.reports import MSISDN_PATTERN, is_printable_ascii, normal_msisdn


async def refuse_unknown_parameters(request: Request) -> None:
    """Refuse parameters that the endpoint doesn't have: a misspelt filter must not be ignored."""
    query = request.scope["query_string"]
    if len(query) > MAX_QUERY_BYTES:
        raise QueryTooLongError
    if not query:
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


Limit = Annotated[int, Query(ge=1, le=1000, description="Rows a page.")]
PageCursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]


def _printable_ascii(text: str) -> str:
    if not is_printable_ascii(text):
        raise ValueError("must be printable ASCII characters without space")
    return text


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

# In a body.
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

# In a path, which the router sees undecoded, so that an id may contain a `/`: decode it here.
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
