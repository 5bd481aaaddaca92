"""The change feed, page by page or as a stream of events. It never skips a change."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final

from fastapi import Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app.api.access import key_name_of
from app.api.database import refuse_while_away
from app.api.parameters import Limit
from app.api.parts import parts_of
from app.api.responses import json_response
from app.api.routes import api_router, is_head
from app.errors import ApiError, documented
from app.query.schemas import NOW, Change, ChangesPage, changes_page, read_position
from app.query.waiting import Wait, Watch
from app.settings import Role
from app.store.changes import BEGINNING, Position

EVENTS_A_WRITE: Final = 100
KEEP_ALIVE_S: Final = 10.0
# A comment, without an empty line after it, which some clients would take for an empty event.
NOTHING_NEW: Final = b": nothing new\n"

router = api_router(
    "/v1/changes",
    tag="changes",
    role=Role.READ,
    responses={
        503: documented(
            "See `Retry-After`. `code`: `database_unavailable`, `too_many_waiting` or "
            "`shutting_down`."
        ),
    },
)

Cursor = Annotated[
    str | None,
    Query(
        description="`next_cursor` of the page before, or the `id` of an event; `now` begins at "
        "the end. Default: the beginning."
    ),
]


@router.get("", response_model=ChangesPage)
async def list_changes(
    request: Request,
    cursor: Cursor = None,
    limit: Limit = 100,
    wait: Wait = 0,
) -> Response:
    """Each delivery whose visible status changed after `cursor`, in its current form.

    The oldest change comes first; none is ever skipped. With `wait`, the answer comes as soon as
    there is a change.
    """
    refuse_while_away(request)
    watch = parts_of(request).watch
    position = await _begin(watch, cursor)
    changes = await watch.changes_after(position, limit)
    if wait and not changes:
        changes = await watch.next_changes(position, limit, wait, request)
    # On a thread: writing out a thousand rows would hold up the event loop, and with it callbacks.
    return await run_in_threadpool(lambda: json_response(changes_page(changes, position)))


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events, for as long as both sides want.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def stream_changes(
    request: Request,
    cursor: Cursor = None,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="The `id` of the last event that was received; instead of `cursor`.",
        ),
    ] = None,
) -> Response:
    """The feed as server-sent events: `event: delivery`, `id:` the cursor, `data:` the delivery."""
    refuse_while_away(request)
    watch = parts_of(request).watch
    if last_event_id:
        position = await _begin(watch, last_event_id, "Last-Event-ID")
    else:
        position = await _begin(watch, cursor)
    first_page = await watch.changes_after(position, EVENTS_A_WRITE)
    events = () if is_head(request) else _events(watch, position, first_page)
    return ChangeStream(watch, key_name_of(request), events)


async def _begin(watch: Watch, cursor: str | None, field: str = "cursor") -> Position:
    if cursor is None:
        return BEGINNING
    if cursor == NOW:
        return await watch.end()
    return read_position(cursor, field)


class ChangeStream(StreamingResponse):
    """Events from a position on, until the client leaves or the process begins to end.

    It holds one page at a time, and reads the next once the client has taken it. The server drops
    a client that stops reading.
    """

    media_type = "text/event-stream"

    def __init__(
        self, watch: Watch, key_name: str, events: AsyncIterator[bytes] | Sequence[bytes]
    ) -> None:
        # Proxies must neither cache the events nor buffer them.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers)
        self._watch = watch
        self._key_name = key_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._watch.one_more_stream(self._key_name):
            await super().__call__(scope, receive, send)


async def _events(watch: Watch, position: Position, page: Sequence[Change]) -> AsyncIterator[bytes]:
    """The events of the page after the position, then those of every later change."""
    while True:
        is_behind = len(page) == EVENTS_A_WRITE
        position = page[-1].position if page else position
        body = b"".join(change.event for change in page) or NOTHING_NEW
        page = ()  # free it while the client reads
        yield body
        if watch.is_stopping:
            return
        try:
            if is_behind:
                page = await watch.changes_after(position, EVENTS_A_WRITE)
            page = page or await watch.next_changes(position, EVENTS_A_WRITE, KEEP_ALIVE_S)
        except (ApiError, SQLAlchemyError):
            return  # the client connects again, and resumes from its last event
