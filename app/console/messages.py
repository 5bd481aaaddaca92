"""The page of one message: each recipient's state, and how it came to it."""

import json
import shlex
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from sqlalchemy import Row

from app.api.parameters import MessageId
from app.api.parts import Parts, parts_of
from app.console import timeline
from app.console.access import PageRoute, Reader, address_of
from app.console.pages import DOTS, message_path, page
from app.errors import NotFoundError
from app.query.countries import country_of
from app.reports import is_digits, is_printable_ascii
from app.store import console, history, read
from app.store.stats import HOUR
from app.store.submissions import UNKNOWN_ID

router = APIRouter(route_class=PageRoute, include_in_schema=False)

MAX_ID_LENGTH: Final = 128
# A send has at most 50, but nothing keeps PaaSoo from reporting more: 20,000 would take 12 s.
MOST_RECIPIENTS: Final = 100
MOST_EVENTS: Final = 50  # of a recipient


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient of the message, as the page shows it."""

    row: Row[Any]
    country: str | None
    events: Sequence[timeline.Event]
    events_left_out: int
    why: str
    contradiction: str | None


@router.get("/messages")
def show_message_by_parameter(request: Request, session: Reader) -> Response:
    """The same page for any id, as `?id=`: some ids can't be in a browser's path."""
    message_id = request.query_params.get("id", "")
    if not is_message_id(message_id):
        raise NotFoundError
    return show_message_page(message_id, request, session)


@router.get("/messages/{messageid}")
def show_message_page(messageid: MessageId, request: Request, _session: Reader) -> Response:
    """Each recipient in plain words, the timeline, and the link and the `curl` to it."""
    parts = parts_of(request)
    with parts.database.snapshot() as connection:
        deliveries = read.deliveries_of(connection, messageid)
        reports = history.reports_of(connection, messageid)
        marks = console.marks_of(connection, messageid)
        questions = console.questions_of(connection, messageid)
    if not deliveries:
        return page(request, "no_message.html", 404, message_id=messageid, q=messageid)
    by_recipient = defaultdict(list)
    for report in reports:
        by_recipient[report.recipient].append(report)
    plan = _plan(parts, questions)
    recipients = [
        _recipient(row, marks[row.recipient], by_recipient[row.recipient], plan)
        for row in deliveries[:MOST_RECIPIENTS]
    ]
    address = address_of(request)
    return page(
        request,
        "message.html",
        message_id=messageid,
        recipients=recipients,
        total=len(deliveries),
        is_perhaps_sent=messageid.startswith(UNKNOWN_ID),
        questions=questions,
        link=f"{address}{message_path(messageid)}",
        curl=_curl(address, messageid),
    )


def is_message_id(text: str) -> bool:
    return 1 <= len(text) <= MAX_ID_LENGTH and is_printable_ascii(text)


def _curl(address: str, message_id: str) -> str:
    """The command that gets the same from the API."""
    curl = "curl -H 'Authorization: Bearer KEY'"
    if message_id not in DOTS:
        return f"{curl} {shlex.quote(f'{address}/v1{message_path(message_id)}')}"
    body = shlex.quote(json.dumps({"messageids": [message_id]}))
    return f"{curl} --json {body} {shlex.quote(f'{address}/v1/messages/lookup')}"


def _plan(parts: Parts, questions: Row[Any, Any, Any] | None) -> timeline.Plan:
    return timeline.Plan(
        now=time.time_ns() // 1000,
        timeout=parts.settings.report_timeout_hours * HOUR,
        asks=parts.asking is not None,
        questions=questions,
    )


def _recipient(
    row: Row[Any], mark: Row[Any], reports: Sequence[Row[Any]], plan: timeline.Plan
) -> Recipient:
    events = timeline.timeline(row, mark, reports, plan)
    latest = events[-MOST_EVENTS:]
    shown = [*(it for it in events[:-MOST_EVENTS] if it.decides), *latest]
    return Recipient(
        row,
        country_of_network(row.mcc_mnc),
        shown,
        len(events) - len(shown),
        timeline.why(row, mark, reports),
        timeline.contradiction(row, reports),
    )


def country_of_network(mcc_mnc: str | None) -> str | None:
    return country_of(mcc_mnc[:3]) if mcc_mnc and is_digits(mcc_mnc) else None
