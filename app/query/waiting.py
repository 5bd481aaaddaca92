"""Requests that wait: one task looks at the database for all of them, a few times a second.

A waiting request costs a future, not a thread, a connection, or a query of its own. The task looks
right after each commit of this process, and sees those of other replicas within a quarter second.
While no request waits, there is no task.
"""

import asyncio
import logging
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Query, Request
from sqlalchemy.exc import SQLAlchemyError

from app.api.access import key_name_of
from app.errors import DatabaseUnavailableError, ShuttingDownError
from app.ingest.outage import Outage
from app.ingest.writer import Writer
from app.query.places import Places
from app.query.schemas import Change, number_until
from app.store import changes, read
from app.store.changes import Position
from app.store.engine import Database

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.25
# Pause between two looks for at least this long, and for as long as the look took: many commits
# must not become as many queries.
REST_S: Final = 0.05
MAX_WAITING: Final = 10_000
MAX_STREAMS: Final = 200
# In one look, for all waiters together.
MAX_CHANGES: Final = 1000

Wait = Annotated[
    float,
    Query(
        ge=0,
        le=60,
        allow_inf_nan=False,
        description="Seconds to wait for an answer worth having, at most.",
    ),
]


@dataclass(eq=False, slots=True)
class Waiter:
    """Waits for a message to become final, or for changes after a position."""

    found: "asyncio.Future[Sequence[Change] | None]"  # None: the database can't answer
    message_id: str | None = None
    position: Position | None = None
    limit: int = MAX_CHANGES


class Watch:
    """All waiters. Everything runs on the event loop, except `_read`, `_ask` and `_find_end`."""

    def __init__(self, database: Database, outage: Outage, writer: Writer) -> None:
        self._database = database
        self._outage = outage
        self._writer = writer
        self._waiters: set[Waiter] = set()
        self._has_newcomers = False
        self._woken = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._look_thread = ThreadPoolExecutor(1, "watch")
        # Two, so that readers of the whole feed leave connections to other requests.
        self._page_threads = ThreadPoolExecutor(2, "changes")
        self.is_stopping = False
        self._places = Places(MAX_WAITING)
        self._stream_places = Places(MAX_STREAMS)

    @property
    def waiting(self) -> int:
        """The number of waiters: requests, and streams without news."""
        return len(self._waiters)

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return self._stream_places.taken

    async def until_final(self, message_id: str, timeout_s: float, request: Request) -> None:
        """Return once the message is known and final, or the wait is over.

        Raises `TooManyWaitingError`, and `DatabaseUnavailableError` if the database goes away.
        """
        found = asyncio.get_running_loop().create_future()
        await self._wait(Waiter(found, message_id=message_id), timeout_s, request)

    async def next_changes(
        self, position: Position, limit: int, timeout_s: float, request: Request | None = None
    ) -> Sequence[Change]:
        """The next changes after the position; none if none comes before the wait is over.

        Raises as `until_final`.
        """
        found = asyncio.get_running_loop().create_future()
        waiter = Waiter(found, position=position, limit=limit)
        return await self._wait(waiter, timeout_s, request)

    async def changes_after(self, position: Position, limit: int) -> Sequence[Change]:
        """The changes after the position that are there now. Raises SQLAlchemy's errors."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._page_threads, self._read, position, limit)

    async def end(self) -> Position:
        """The position before all changes to come. Raises SQLAlchemy's errors."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._page_threads, self._find_end)

    @contextmanager
    def one_more_stream(self, key_name: str) -> Iterator[None]:
        """Hold a place for a stream. Raises `ShuttingDownError`, `TooManyWaitingError`."""
        if self.is_stopping:
            raise ShuttingDownError
        with self._stream_places.one_more(key_name):
            yield

    def stop(self) -> None:
        """Answer every waiter, and let nobody wait from now on: the process is about to end."""
        self.is_stopping = True
        for waiter in self._waiters:
            _answer(waiter, ())

    async def _wait(
        self, waiter: Waiter, timeout_s: float, request: Request | None
    ) -> Sequence[Change]:
        if self.is_stopping:
            return ()
        # A stream holds a place of its own.
        place = self._places.one_more(key_name_of(request)) if request else nullcontext()
        with place:
            return await self._answer_of(waiter, timeout_s, request)

    async def _answer_of(
        self, waiter: Waiter, timeout_s: float, request: Request | None
    ) -> Sequence[Change]:
        self._waiters.add(waiter)
        self._has_newcomers = True
        self._woken.set()
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on())
        ends: list[asyncio.Future[object]] = [waiter.found]  # type: ignore[list-item]
        if request is not None:
            ends.append(asyncio.ensure_future(_leaving(request)))
        try:
            await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiters.discard(waiter)
            for leaving in ends[1:]:
                leaving.cancel()
        if not waiter.found.done():
            return ()
        found = waiter.found.result()
        if found is None:
            raise DatabaseUnavailableError
        return found

    async def _look_on(self) -> None:
        """Look again and again, until nobody waits."""
        loop = asyncio.get_running_loop()
        self._writer.after_commit = self._woken.set
        seen = ""
        try:
            while self._waiters:
                self._woken.clear()
                began = loop.time()
                seen = await self._look(seen)
                await asyncio.sleep(max(REST_S, loop.time() - began))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), LOOK_EVERY_S)
        finally:
            self._writer.after_commit = None
            self._looking = None

    async def _look(self, seen: str) -> str:
        """Answer the waiters whose wait is over. Return the commit token of the data seen."""
        waiters = list(self._waiters)
        ids = {waiter.message_id for waiter in waiters if waiter.message_id is not None}
        positions = [waiter.position for waiter in waiters if waiter.position is not None]
        if self._has_newcomers:
            self._has_newcomers, seen = False, ""
        try:
            if self._outage.is_on:
                raise DatabaseUnavailableError  # noqa: TRY301 - one way out for both
            loop = asyncio.get_running_loop()
            token, final, latest = await loop.run_in_executor(
                self._look_thread, self._ask, seen, ids, min(positions, default=None)
            )
        except Exception as error:
            if not isinstance(error, SQLAlchemyError | DatabaseUnavailableError):
                log.exception("nobody who waits could be answered")
            for waiter in waiters:
                _answer(waiter, None)
            return ""
        for waiter in waiters:
            _answer_if_found(waiter, final, latest)
        if len(latest) == MAX_CHANGES:
            # More changes wait for those who are further on: look again at once.
            self._has_newcomers = True
            self._woken.set()
        return token

    def _ask(
        self, seen: str, message_ids: Collection[str], position: Position | None
    ) -> tuple[str, Collection[str], list[Change]]:
        """The commit token, the messages that are final, and the changes after the position."""
        with self._database.read.connect() as connection:
            token = changes.commit_token(connection)
            if token == seen:
                return token, (), []
            final = read.final_of(connection, message_ids) if message_ids else ()
            rows = () if position is None else changes.after(connection, position, MAX_CHANGES)
        return token, final, [Change.of(row) for row in rows]

    def _read(self, position: Position, limit: int) -> list[Change]:
        with self._database.read.connect() as connection:
            rows = changes.after(connection, position, limit)
        return [Change.of(row) for row in rows]

    def _find_end(self) -> Position:
        with self._database.read.connect() as connection:
            return changes.end(connection)


def _answer(waiter: Waiter, found: Sequence[Change] | None) -> None:
    if not waiter.found.done():
        waiter.found.set_result(found)


def _answer_if_found(waiter: Waiter, final: Collection[str], latest: Sequence[Change]) -> None:
    if waiter.message_id in final:
        _answer(waiter, ())
    elif waiter.position is not None:
        first = number_until(latest, waiter.position)
        if page := latest[first : first + waiter.limit]:
            _answer(waiter, page)


async def _leaving(request: Request) -> None:
    """Return once the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
