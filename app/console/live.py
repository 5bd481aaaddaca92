"""The live view: rows as they change, by the change feed, few enough to follow with the eye."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import tzinfo
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import SQLAlchemyError

from app.api import cursors
from app.api.parts import Parts, parts_of
from app.api.routes import is_head
from app.console.access import PageRoute, Reader, find_session
from app.console.pages import TEMPLATES, page
from app.console.zones import zone_of
from app.errors import ApiError, InvalidRequestError
from app.query.changes import NOTHING_NEW, ChangeStream
from app.query.schemas import Change, Delivery, read_position
from app.query.waiting import Watch
from app.store import read
from app.store.changes import Position
from app.store.engine import Database

router = APIRouter(route_class=PageRoute, include_in_schema=False)

ROWS_SHOWN: Final = 50
# Rows of one event. When more have changed, the latest are shown.
ROWS_AN_EVENT: Final = 20
# Between two events: a person can't read faster, and writing rows costs the callbacks time.
PAUSE_S: Final = 1.0
WAIT_S: Final = 3.0
# Between two looks if the session goes on: a stream ends a few seconds after signing out.
LOOK_S: Final = 2.0
# Then the browser connects again, and its session is looked at again.
LIFE_S: Final = 300.0
# The script opens the page again then, which asks for a key.
SIGNED_OUT: Final = b"event: signed-out\ndata:\n\n"


@router.get("/live")
def show_live(request: Request, _session: Reader) -> Response:
    """The latest deliveries. The script adds the next ones."""
    rows = _latest(parts_of(request).database, ROWS_SHOWN)
    return page(request, "live.html", rows=rows, most=ROWS_SHOWN)


@router.get("/live/events")
async def stream_rows(request: Request, session: Reader) -> Response:
    """Table rows as server-sent events, from now on, or after the last event that was received."""
    parts = parts_of(request)
    position = await _begin(parts.watch, request.headers.get("last-event-id"))
    events: AsyncIterator[bytes] | Sequence[bytes] = (
        () if is_head(request) else _while_signed_in(request, _events(request, parts, position))
    )
    return ChangeStream(parts.watch, session.key.name, events)


async def _while_signed_in(request: Request, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events until their reader signs out, the session is over, or they end."""
    loop = asyncio.get_running_loop()
    looked_at = loop.time()
    async for event in events:
        if loop.time() >= looked_at + LOOK_S:
            try:
                session = await loop.run_in_executor(None, find_session, request)
            except SQLAlchemyError:
                return  # the browser connects again
            if session is None:
                yield SIGNED_OUT
                return
            looked_at = loop.time()
        yield event


async def _begin(watch: Watch, last_event_id: str | None) -> Position:
    if last_event_id:
        try:
            return read_position(last_event_id)
        except InvalidRequestError:
            pass
    return await watch.end()


async def _events(request: Request, parts: Parts, position: Position) -> AsyncIterator[bytes]:
    root, zone = request.scope["root_path"], zone_of(request)
    watch, loop = parts.watch, asyncio.get_running_loop()
    ends_at = loop.time() + LIFE_S
    yield NOTHING_NEW
    while loop.time() < ends_at and not watch.is_stopping:
        try:
            changes = await watch.next_changes(position, ROWS_AN_EVENT, WAIT_S)
            if is_behind := len(changes) == ROWS_AN_EVENT:
                # Skip to the latest: this is a view, and `GET /v1/changes` skips nothing.
                position = await watch.end()
                rows = await loop.run_in_executor(None, _latest, parts.database, ROWS_AN_EVENT)
            else:
                position = _last(changes, position)
                rows = [_row(change.delivery) for change in reversed(changes)]
        except (ApiError, SQLAlchemyError):
            return  # the browser connects again
        if not rows:
            yield NOTHING_NEW
            continue
        yield await loop.run_in_executor(None, _event, rows, position, root, zone, is_behind)
        await asyncio.sleep(PAUSE_S)


def _latest(database: Database, number: int) -> Sequence[Any]:
    with database.read.connect() as connection:
        return read.page(connection, read.Filters(), number, None)


def _last(changes: Sequence[Change], position: Position) -> Position:
    return changes[-1].position if changes else position


def _row(delivery: Delivery) -> dict[str, object]:
    """A delivery of the API under the names that the table's rows have in the database."""
    names = {"messageid": "message_id", "to": "recipient", "network": "mcc_mnc"}
    return {names.get(name, name): value for name, value in delivery.items()}


def _event(
    rows: Sequence[Any], position: Position, root: str, zone: tzinfo, is_behind: bool
) -> bytes:
    """The rows as HTML on one line, latest first."""
    template = TEMPLATES.get_template("live_rows.html")
    html = " ".join(template.render(rows=rows, root=root, zone=zone).split())
    name = "behind" if is_behind else "rows"
    return f"event: {name}\nid: {cursors.encode(position)}\ndata: {html}\n\n".encode()
