"""The number of rows in the quarantine, for a scrape that must not wait for the database."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from app.ingest.outage import Outage
from app.store import quarantine
from app.store.engine import Database

# A hanging database holds up a scrape no longer. The count itself takes about a millisecond.
WAIT_S: Final = 0.5


class QuarantineRows:
    """Counts on a thread of its own, and knows the last count: 0 until the first."""

    def __init__(self, database: Database, outage: Outage) -> None:
        self._database = database
        self._outage = outage
        self._rows = 0
        self._lock = threading.Lock()
        self._counting: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "counting")

    def latest(self) -> int:
        """The number of rows now; the last one known while the database doesn't answer."""
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
            self._rows = quarantine.count(connection)
