"""The only writer: gather what waits, commit it once, then release the callers.

A batch is whatever arrived during the previous commit: an idle service answers one report in the
time of one commit, a busy one shares each commit among many. There is no timer.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

from app.ingest.batch import Entry, Outcome

log = logging.getLogger(__name__)

# A commit that takes long makes everyone wait who rides in it.
MAX_BATCH: Final = 1000

Tell = Callable[[Outcome], object]
Waiting = tuple[Entry, Tell]
Handover = tuple[asyncio.AbstractEventLoop, list[Entry]] | None  # None ends the thread


class QueueFullError(Exception):
    """As much waits as may wait: refuse now, rather than fill the memory."""


class Writer:
    """The queue, on the event loop, and the one thread that commits batches from it.

    All of this runs on the loop but `_commit_batches`, so nothing here needs a lock.
    """

    def __init__(self, commit: Callable[[Sequence[Entry]], list[Outcome]], limit: int) -> None:
        self._commit = commit
        self._limit = limit
        self._waiting: list[Waiting] = []
        self._in_commit: list[Waiting] = []
        self._idle = asyncio.Event()
        self._idle.set()
        # Told of each commit, on the loop, while somebody waits for what may be in it.
        self.after_commit: Callable[[], None] | None = None
        # A daemon, so that a database that hangs doesn't keep the process from ending.
        self._handed_over: SimpleQueue[Handover] = SimpleQueue()
        threading.Thread(target=self._commit_batches, name="writer", daemon=True).start()

    @property
    def queued(self) -> int:
        """How many wait, those in the running commit included."""
        return len(self._waiting) + len(self._in_commit)

    @property
    def is_full(self) -> bool:
        return self.queued >= self._limit

    def admit(self, entry: Entry, tell: Tell) -> None:
        """Take an entry; `tell` is called once, later, with what became of it.

        Raises `QueueFullError`. What was admitted is stored, whoever still cares to be told.
        """
        if self.is_full:
            raise QueueFullError
        self._waiting.append((entry, tell))
        if self._idle.is_set():
            self._idle.clear()
            # Not at once, but after all that arrived in this same turn of the loop.
            asyncio.get_running_loop().call_soon(self._start_commit)

    async def stop(self, timeout_s: float) -> None:
        """Return when all that was admitted is answered: committed, or given up after a while."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            self.give_up()
        self._handed_over.put(None)

    def give_up(self) -> None:
        """Answer all that still wait that they are not on disk, as far as anybody can say."""
        abandoned = [*self._in_commit, *self._waiting]
        self._in_commit, self._waiting = [], []
        if abandoned:
            log.error("gave up waiting for the database", extra={"rows": len(abandoned)})
        _tell(abandoned, [Outcome.UNAVAILABLE] * len(abandoned))

    def _start_commit(self) -> None:
        if not self._waiting:  # given up since
            self._idle.set()
            return
        self._in_commit = self._waiting[:MAX_BATCH]
        self._waiting = self._waiting[MAX_BATCH:]
        entries = [entry for entry, _ in self._in_commit]
        self._handed_over.put((asyncio.get_running_loop(), entries))

    def _commit_batches(self) -> None:
        """All that the thread does."""
        while (handover := self._handed_over.get()) is not None:
            loop, entries = handover
            try:
                outcomes = self._commit(entries)
            except Exception:
                log.exception("the writer failed")
                outcomes = [Outcome.UNAVAILABLE] * len(entries)
            with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                loop.call_soon_threadsafe(self._finish_commit, outcomes)

    def _finish_commit(self, outcomes: list[Outcome]) -> None:
        committed, self._in_commit = self._in_commit, []
        # The next commit first: the disk works while we answer.
        if self._waiting:
            self._start_commit()
        else:
            self._idle.set()
        if committed:  # not given up since
            _tell(committed, outcomes)
        if self.after_commit is not None:
            self.after_commit()


def _tell(entries: list[Waiting], outcomes: list[Outcome]) -> None:
    for (_, tell), outcome in zip(entries, outcomes, strict=True):
        try:
            tell(outcome)
        except Exception:
            log.exception("an answer failed")  # the others are to have theirs
