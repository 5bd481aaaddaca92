"""Sending through PaaSoo, and registering what was sent elsewhere."""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeVar

from fastapi import Body, Depends, Header, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.api.access import key_name_of
from app.api.database import refuse_while_away
from app.api.parameters import MessageId, Msisdn, PlainText
from app.api.parts import parts_of
from app.api.responses import json_response, problems
from app.api.routes import api_router
from app.api.times import TimeInput
from app.errors import PROBLEM_TYPE, InvalidRequestError, documented
from app.query.schemas import Message, message_of
from app.sending.once import Order, Sending, send_once
from app.sending.problems import SendingNotConfiguredError
from app.settings import SENDER_ID_PATTERN, Role, parse_sender_id
from app.store import pulls, read, submissions
from app.store.submissions import Submission

router = api_router("/v1/messages", tag="sending", role=Role.SEND)

MAX_RECIPIENTS = 50  # of one send call, by the guide


def _each_once(recipients: Sequence[str]) -> Sequence[str]:
    twice = [to for position, to in enumerate(recipients) if to in recipients[:position]]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    return recipients


Number = TypeVar("Number")
Recipients = Annotated[
    list[Number],
    Field(
        min_length=1,
        max_length=MAX_RECIPIENTS,
        description="The recipients, country code first; a leading `+` or `00` is dropped.",
        examples=[["6588888888"]],
    ),
    AfterValidator(_each_once),
]
Reference = Annotated[
    PlainText | None,
    Field(max_length=255, description="The sender's own name for it.", examples=["order 17"]),
]


def _not_before_1970(time_us: int | None) -> int | None:
    if time_us is not None and time_us < 0:
        raise ValueError("must not be before 1970")
    return time_us


class SentElsewhere(BaseModel):
    """A message that another program sent through PaaSoo."""

    model_config = ConfigDict(extra="forbid")

    to: Recipients[Msisdn]
    reference: Reference = None
    submitted_at: Annotated[
        TimeInput | None,
        Field(description="Time of sending; by default the time of this request."),
        AfterValidator(_not_before_1970),
    ] = None


def _dialable(msisdn: str) -> str:
    if msisdn.startswith("0"):
        raise ValueError("must begin with a country code, and none begins with 0")
    return msisdn


Dialable = Annotated[
    Msisdn,
    Field(json_schema_extra={"pattern": "^([+ ]|00)?[1-9][0-9]{2,19}$"}),
    AfterValidator(_dialable),
]


SenderId = Annotated[
    str,
    Field(json_schema_extra={"pattern": SENDER_ID_PATTERN}),
    AfterValidator(parse_sender_id),
]


class MessageToSend(BaseModel):
    """A message to send through PaaSoo: one call, one `messageid`."""

    model_config = ConfigDict(extra="forbid")

    to: Recipients[Dialable]
    text: PlainText = Field(
        # The guide gives no limit. So many characters fit into 64 KiB of URL, even escaped.
        max_length=4000,
        description="The content.",
        examples=["Hello world"],
    )
    sender: SenderId | None = Field(
        default=None,
        alias="from",
        description="The sender id: 1 to 15 digits, or 1 to 11 letters, digits and spaces. By "
        "default `DLR_PAASOO_FROM`, or none. Some accounts need it; countries allow it or not.",
        examples=["My Shop"],
    )
    reference: Reference = None


def _idempotency_key(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern="^[ -~]+$",
            description="A name for this send and no other, such as a random UUID: a repeat with "
            "the same key and body gets the same answer, and sends nothing twice.",
        ),
    ] = None,
) -> str | None:
    if len(request.headers.getlist("idempotency-key")) > 1:
        raise InvalidRequestError([{"field": "Idempotency-Key", "message": "given twice"}])
    return key


IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]


def _configured(request: Request) -> Sending:
    sending = parts_of(request).sending
    if sending is None:
        raise SendingNotConfiguredError
    return sending


SENDING_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    **problems(413),
    409: documented(
        "The `Idempotency-Key` was used with another body, or a request with it is under way. "
        "`code`: `idempotency_key_reused`, `send_in_progress`."
    ),
    422: documented(
        "The request is malformed, for us or for PaaSoo; nothing was sent. "
        "`code`: `invalid_request`, `provider_bad_request`."
    ),
    500: documented(
        "PaaSoo was called, but the outcome can't be recorded. `code`: `outcome_not_recorded`."
    ),
    502: documented(
        "PaaSoo refused, and nothing was sent; with `provider_bad_answer` and "
        "`provider_system_error`, it may have been sent. "
        "`code`: `provider_refused_credentials`, `provider_refused_address`, "
        "`provider_restricted`, `provider_bad_answer`, `provider_system_error`."
    ),
    503: documented(
        "Nothing was sent; try again, after `Retry-After`. "
        "`code`: `sending_not_configured`, `provider_unreachable`, `provider_throttled`, "
        "`database_unavailable`."
    ),
    504: documented(
        "PaaSoo was called and didn't answer: the message may have been sent or not. "
        "`code`: `outcome_unknown`."
    ),
}


@router.post("", status_code=201, response_model=Message, responses=SENDING_PROBLEMS)
async def send_message(
    wanted: Annotated[MessageToSend, Body()], request: Request, key: IdempotencyKey
) -> Response:
    """Send a message through PaaSoo, and register it: its deliveries are `pending`.

    A report that comes before PaaSoo's answer is kept, and wins. The service never repeats a send
    whose outcome is unknown: find the message by its `reference`, or by the `messageid` in the
    problem.
    """
    sending = _configured(request)
    refuse_while_away(request)
    order = Order(
        key_name_of(request), key, wanted.to, wanted.text, wanted.reference, wanted.sender
    )
    given = await send_once(sending, order)
    return Response(
        given.body,
        given.status,
        {"Idempotent-Replayed": "true"} if given.is_repeat else None,
        media_type="application/json" if given.status == 201 else PROBLEM_TYPE,
    )


@router.put("/{messageid}", response_model=Message, responses=problems(413))
def register_message(
    messageid: MessageId, sent: Annotated[SentElsewhere, Body()], request: Request
) -> Response:
    """Register a message that was sent elsewhere, before its reports or after.

    Its deliveries are `pending` until a report comes; a report that came first stays. Repeating the
    same call changes nothing; a different one adds its recipients and replaces the fields it gives.
    """
    refuse_while_away(request)
    parts = parts_of(request)
    database, now = parts.database, time.time_ns() // 1000
    submission = Submission(messageid, sent.to, sent.reference, sent.submitted_at)
    with database.transaction() as connection:
        submissions.register(connection, submission, now)
        if parts.asking is not None:
            at = {messageid: now if sent.submitted_at is None else sent.submitted_at}
            pulls.add(connection, at, parts.asking.schedule, now)
    with database.read.connect() as connection:
        return json_response(message_of(read.deliveries_of(connection, messageid)))
