"""Registering what was sent elsewhere, before its reports come or after."""

import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.guards import sender
from app.query.requests import (
    MessageId,
    Moment,
    Msisdn,
    PlainText,
    answer,
    problems,
    refuse_unknown_parameters,
    refuse_while_away,
)
from app.query.schemas import Message
from app.store import read, submissions
from app.store.submissions import Submission

router = APIRouter(
    prefix="/v1/messages",
    tags=["sending"],
    dependencies=[Depends(sender), Depends(refuse_unknown_parameters)],
    responses=problems(401, 403, 414, 422, 503),
)

MAX_RECIPIENTS = 50  # of one send call, by the guide


def _each_once(recipients: Sequence[str]) -> Sequence[str]:
    twice = [to for position, to in enumerate(recipients) if to in recipients[:position]]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    return recipients


Recipients = Annotated[
    list[Msisdn],
    Field(
        min_length=1,
        max_length=MAX_RECIPIENTS,
        description="The recipients: country code first; a leading `+` or `00` is dropped.",
    ),
    AfterValidator(_each_once),
]
Reference = Annotated[
    PlainText | None,
    Field(max_length=255, description="The sender's own name for it.", examples=["order 17"]),
]


class SentElsewhere(BaseModel):
    """A message that was sent by somebody else's call of PaaSoo."""

    model_config = ConfigDict(extra="forbid")

    to: Recipients
    reference: Reference = None
    submitted_at: Annotated[
        Moment | None, Field(description="When it was sent; the time of registering by default.")
    ] = None


@router.put("/{messageid}", response_model=Message)
def register_message(
    messageid: MessageId, sent: Annotated[SentElsewhere, Body()], request: Request
) -> Response:
    """Register a message that was sent elsewhere, before its reports or after.

    Its deliveries are `pending` until a report comes; a report that came first stays. The same
    call again changes nothing; another one adds recipients, and replaces what it gives.
    """
    refuse_while_away(request)
    database = request.app.state.database
    submission = Submission(messageid, sent.to, sent.reference, sent.submitted_at)
    with database.write.begin() as connection:
        submissions.register(connection, submission, time.time_ns() // 1000)
    with database.read.connect() as connection:
        return answer(Message.of(read.deliveries_of(connection, messageid)))
