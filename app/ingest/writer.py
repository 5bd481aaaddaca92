"""The only writer: gather what waits, commit it once, then release the callers.

A batch is whatever arrived during the previous commit: an idle service answers one report in the
time of one commit, a busy one shares each commit among many. There is no timer.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from app.ingest.batch import Entry, Outcome

log = logging.getLogger(__name__)

# A commit that takes long makes everyone wait who rides in it.
MAX_BATCH: Final = 1000

Waiting = tuple[Entry, "asyncio.Future[Outcome]"]


class QueueFullError(Exception):
    """As much waits as may wait: refuse now, rather than fill the memory."""


class Writer:
    """The queue, on the event loop, and the one thread that commits batches from it.

    All of this runs on the loop but `commit`, so nothing here needs a lock.
    """

    def __init__(self, commit: Callable[[Sequence[Entry]], list[Outcome]], limit: int) -> None:
        self._commit = commit
        self._limit = limit
        self._waiting: list[Waiting] = []
        self._in_commit = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def queued(self) -> int:
        """How many wait, those in the running commit included."""
        return len(self._waiting) + self._in_commit

    @property
    def is_full(self) -> bool:
        return self.queued >= self._limit

    def admit(self, entry: Entry) -> "asyncio.Future[Outcome]":
        """Take an entry; the future tells what became of it. Raises `QueueFullError`.

        What was admitted is stored, whether or not anybody still waits for the future.
        """
        if self.is_full:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.append((entry, future))
        if self._idle.is_set():
            self._idle.clear()
            # Not at once, but after all that arrived in this same turn of the loop.
            loop.call_soon(self._start_commit)
        return future

    async def stop(self) -> None:
        """Return when all that was admitted is committed and answered."""
        await self._idle.wait()
        self._thread.shutdown()

    def _start_commit(self) -> None:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        self._in_commit = len(batch)
        entries = [entry for entry, _ in batch]
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, entries)
        running.add_done_callback(partial(self._finish_commit, batch))

    def _finish_commit(
        self, batch: list[Waiting], running: "asyncio.Future[list[Outcome]]"
    ) -> None:
        # The next commit first: the disk works while we answer.
        if self._waiting:
            self._start_commit()
        else:
            self._in_commit = 0
            self._idle.set()
        if error := running.exception():
            log.error("the writer failed", exc_info=error)
            outcomes = [Outcome.UNAVAILABLE] * len(batch)
        else:
            outcomes = running.result()
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if not future.done():  # its caller may have been cancelled
                future.set_result(outcome)
