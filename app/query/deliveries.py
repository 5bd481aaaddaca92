"""The list of deliveries, filtered by recipient, state, network or time."""

from typing import Annotated, Any

from fastapi import Query, Response
from sqlalchemy import Row

from app.api import cursors
from app.api.database import ReadEngine
from app.api.parameters import Limit, Msisdn, PageCursor, PlainText
from app.api.responses import json_response
from app.api.routes import api_router
from app.api.times import TimeInput
from app.query.schemas import DeliveriesPage, delivery_of
from app.reports import Reason, State
from app.settings import Role
from app.store import read

router = api_router("/v1/deliveries", tag="status", role=Role.READ)

Recipient = Annotated[
    Msisdn | None,
    Query(
        description="Recipient, country code first; a leading `+` or `00` is dropped.",
        examples=["+6588888888"],
    ),
]


def place_of(row: Row[Any]) -> str:
    """A cursor. The feed's have the number in front, so neither list takes the other's."""
    return cursors.encode((row.message_id, row.recipient, row.last_received_at))


def read_place(cursor: str) -> tuple[int, str, str]:
    """`after` of `read.page` that a cursor names. Raises `InvalidRequestError`."""
    message_id, recipient, last_received_at = cursors.decode(cursor, str, str, int)
    return int(last_received_at), str(message_id), str(recipient)


@router.get("", response_model=DeliveriesPage)
def list_deliveries(  # noqa: PLR0913 - a parameter for each filter
    *,
    engine: ReadEngine,
    to: Recipient = None,
    state: Annotated[State | None, Query(description="State.")] = None,
    reason: Annotated[Reason | None, Query(description="Reason.")] = None,
    network: Annotated[
        PlainText | None,
        Query(description="PaaSoo's `network`.", max_length=64, examples=["52099"]),
    ] = None,
    errcode: Annotated[
        PlainText | None, Query(description="PaaSoo's `errcode`.", max_length=255, examples=["1"])
    ] = None,
    reference: Annotated[
        PlainText | None, Query(description="The sender's own name for it.", max_length=255)
    ] = None,
    since: Annotated[
        TimeInput | None, Query(description="`last_received_at` from here on.")
    ] = None,
    until: Annotated[TimeInput | None, Query(description="`last_received_at` before this.")] = None,
    limit: Limit = 100,
    cursor: PageCursor = None,
) -> Response:
    """Deliveries, the latest reported first. Those without a report come last."""
    filters = read.Filters(to, state, reason, network, errcode, reference, since, until)
    after = None if cursor is None else read_place(cursor)
    with engine.connect() as connection:
        rows = read.page(connection, filters, limit + 1, after)
    more = len(rows) > limit
    rows = rows[:limit]
    last = rows[-1] if more else None
    return json_response(
        {
            "items": [delivery_of(row) for row in rows],
            "next_cursor": last and place_of(last),
        }
    )
