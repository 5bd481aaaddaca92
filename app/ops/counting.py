"""Numbers of rows, for a scrape that must not wait for the database."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from app.ingest.outage import Outage
from app.store import pulls, quarantine
from app.store.engine import Database

# A hanging database holds up a scrape no longer. The count itself takes about a millisecond.
WAIT_S: Final = 0.5


class Rows(NamedTuple):
    """Rows in the quarantine, and questions for missing reports that are due."""

    quarantine: int = 0
    pulls_due: int = 0


class RowCounts:
    """Counts on a thread of its own, and knows the last numbers: 0 until the first."""

    def __init__(self, database: Database, outage: Outage) -> None:
        self._database = database
        self._outage = outage
        self._rows = Rows()
        self._lock = threading.Lock()
        self._counting: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "counting")

    def latest(self) -> Rows:
        """The numbers now; the last ones known while the database doesn't answer."""
        if self._outage.database_answers:
            with suppress(TimeoutError, SQLAlchemyError):
                self._start().result(WAIT_S)
        return self._rows

    def _start(self) -> "Future[None]":
        """Begin to count, unless a count is under way."""
        with self._lock:
            if self._counting is None or self._counting.done():
                self._counting = self._thread.submit(self._count)
            return self._counting

    def _count(self) -> None:
        with self._database.read.connect() as connection:
            self._rows = Rows(quarantine.count(connection), pulls.count_due(connection))
