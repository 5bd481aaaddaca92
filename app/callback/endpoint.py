"""The door as a FastAPI endpoint, with the guide's parameters in the OpenAPI document."""

from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.routing import Route

from app import errors
from app.api.asgi import HandlerApp, answered, response
from app.api.routes import NO_KEY
from app.callback import parse
from app.callback.door import PATH, Door
from app.reports import MSISDN_PATTERN


def _parameter(name: str, required: bool, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": description,
        "schema": {"type": "string", **schema},
    }


def _explanation(name: str, description: str, max_length: int, example: str) -> dict[str, Any]:
    """An optional parameter. It has no `maxLength`: a text that is too long is not refused."""
    read = f"{description} Text of any kind; cut after {max_length} characters."
    return _parameter(name, False, read, example=example)


# Declared by hand, not by type hints: the door decodes itself, and answers 400, never 422.
PARAMETERS: Final = [
    _parameter("type", True, "Kind of information: a delivery report.", enum=["dlr"]),
    _parameter(
        "messageid",
        True,
        "The id that the send call returned; kept to the letter.",
        pattern="^[!-~]{1,128}$",
        example="052804b7368321",
    ),
    _parameter(
        "to",
        True,
        "The recipient's number, country code first; a leading `+` or `00` is dropped.",
        pattern=MSISDN_PATTERN,
        example="6588888888",
    ),
    _parameter(
        "status",
        True,
        "0 is success, from 0 to 99999.",
        pattern="^0*[0-9]{1,5}$",
        example="0",
    ),
    _explanation("statuscode", "The status as text.", parse.MAX_TEXT_LENGTH, "delivered"),
    _explanation("errcode", "Error code.", parse.MAX_TEXT_LENGTH, "1"),
    _explanation("network", "Operator: MCC and MNC.", parse.MAX_NETWORK_LENGTH, "52099"),
]

TOKEN_PARAMETER: Final = {
    "name": "token",
    "in": "path",
    "required": True,
    "description": "A secret of `DLR_CALLBACK_TOKENS`.",
    "schema": {"type": "string"},
}

RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: errors.documented(description)
    for status, description in {
        400: "Not a valid report: one of the four required parameters is missing, wrong or "
        "can't be read. It is in the quarantine. `code` is `missing_parameter`, "
        "`unsupported_type`, `invalid_parameter`, `duplicate_parameter` or `invalid_encoding`.",
        403: "The caller's address is not in an allowed network.",
        404: "Wrong or missing token.",
        405: "Any method but GET.",
        414: f"The query is longer than {errors.MAX_QUERY_BYTES // 1024} KiB.",
        503: "Nothing could be put on disk, or the queue is full; see `Retry-After`.",
    }.items()
}


def add_callback(app: FastAPI, door: Door, *, with_token: bool) -> None:
    """The callback's route: with the token in its path, or bare where networks alone guard it."""

    async def receive_delivery_report(request: Request) -> Response:
        """Take one delivery report. 200 and `OK` mean that it is on disk.

        White space around values is dropped. An optional parameter never refuses a report: text
        that is not UTF-8 is read as GB18030, and one that can't be read, or has a control
        character, is kept percent-encoded.
        """
        return response(await answered(door.receive, request.scope, request.receive))

    app.add_api_route(
        door.route,
        receive_delivery_report,
        methods=["GET"],
        tags=["callback"],
        response_class=PlainTextResponse,
        responses=RESPONSES,
        openapi_extra={
            **NO_KEY,
            "parameters": [*([TOKEN_PARAMETER] if with_token else []), *PARAMETERS],
        },
    )
    # The door knows what to say to any other method, and to a path that isn't quite the one.
    any_other = Route(PATH + "{rest:path}", HandlerApp(door.receive), include_in_schema=False)
    app.router.routes.append(any_other)
