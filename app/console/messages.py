"""The page of one message: each recipient's state, and how it came to it."""

import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import Row

from app.api.parameters import MessageId
from app.api.parts import parts_of
from app.console import timeline
from app.console.access import PageRoute, Reader, address_of
from app.console.pages import message_path, page
from app.query.countries import country_of
from app.reports import is_digits
from app.store import console, read

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient of the message, as the page shows it."""

    row: Row[Any]
    country: str | None
    events: Sequence[timeline.Event]
    why: str
    contradiction: str | None


@router.get("/messages/{messageid}")
def show_message_page(messageid: MessageId, request: Request, _session: Reader) -> Response:
    """Each recipient in plain words, the timeline, and the link and the `curl` to it."""
    with parts_of(request).database.snapshot() as connection:
        deliveries = read.deliveries_of(connection, messageid)
        reports = read.reports_of(connection, messageid)
        marks = console.marks_of(connection, messageid)
        questions = console.questions_of(connection, messageid)
    if not deliveries:
        return page(request, "no_message.html", 404, message_id=messageid, q=messageid)
    by_recipient = defaultdict(list)
    for report in reports:
        by_recipient[report.recipient].append(report)
    recipients = [
        _recipient(row, marks[row.recipient], by_recipient[row.recipient]) for row in deliveries
    ]
    address = address_of(request)
    api = shlex.quote(f"{address}/v1{message_path(messageid)}")
    return page(
        request,
        "message.html",
        message_id=messageid,
        recipients=recipients,
        questions=questions,
        link=f"{address}{message_path(messageid)}",
        curl=f"curl -H 'Authorization: Bearer KEY' {api}",
    )


def _recipient(row: Row[Any], mark: Row[Any], reports: Sequence[Row[Any]]) -> Recipient:
    return Recipient(
        row,
        country_of_network(row.mcc_mnc),
        timeline.timeline(row, mark, reports),
        timeline.why(row, mark, reports),
        timeline.contradiction(row, reports),
    )


def country_of_network(mcc_mnc: str | None) -> str | None:
    return country_of(mcc_mnc[:3]) if mcc_mnc and is_digits(mcc_mnc) else None
