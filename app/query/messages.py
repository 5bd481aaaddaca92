"""Messages: their status, and the history of their reports."""

from typing import Annotated

from fastapi import Body, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.database import ReadEngine, refuse_while_away
from app.api.parameters import MessageId, PlainMessageId
from app.api.parts import parts_of
from app.api.responses import json_response, problems
from app.api.routes import api_router
from app.errors import MessageNotFoundError
from app.query.schemas import Message, MessagesFound, Report, Reports, message_of
from app.query.waiting import Wait
from app.settings import Role
from app.store import history, read

router = api_router("/v1/messages", tag="status", role=Role.READ)


@router.get("/{messageid}", response_model=Message, responses=problems(404))
async def show_message(messageid: MessageId, request: Request, wait: Wait = 0) -> Response:
    """One message with the status of each recipient.

    With `wait`, the answer comes as soon as the message is known and final, else with its
    status at the end of the wait.
    """
    refuse_while_away(request)
    message = await _find(request, messageid)
    if wait and (message is None or not message["final"]):
        await parts_of(request).watch.until_final(messageid, wait, request)
        message = await _find(request, messageid)
    if message is None:
        raise MessageNotFoundError(messageid)
    return json_response(message)


async def _find(request: Request, message_id: str) -> Message | None:
    deliveries = await parts_of(request).lookups.deliveries_of(message_id)
    return message_of(deliveries) if deliveries else None


@router.get("/{messageid}/reports", responses=problems(404))
def list_reports(messageid: MessageId, engine: ReadEngine) -> Reports:
    """Every distinct report received about a message, oldest first."""
    with engine.connect() as connection:
        reports = history.reports_of(connection, messageid)
        if not reports and not read.deliveries_of(connection, messageid):
            raise MessageNotFoundError(messageid)
    return Reports(reports=[Report.of(report) for report in reports])


class MessagesWanted(BaseModel):
    """The messages to look up."""

    model_config = ConfigDict(extra="forbid")

    messageids: list[PlainMessageId] = Field(
        min_length=1, max_length=1000, description="PaaSoo's ids of the send calls."
    )


@router.post("/lookup", response_model=MessagesFound, responses=problems(413))
def look_up_messages(wanted: Annotated[MessagesWanted, Body()], engine: ReadEngine) -> Response:
    """Up to 1,000 messages at once, in the order asked. An id that is given twice counts once."""
    message_ids = list(dict.fromkeys(wanted.messageids))
    with engine.connect() as connection:
        found = read.deliveries_of_each(connection, message_ids)
    return json_response(
        {
            "messages": [message_of(found[known]) for known in message_ids if known in found],
            "not_found": [unknown for unknown in message_ids if unknown not in found],
        }
    )
