"""Numbers of rows, for a scrape that must not wait for the database."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from app.ingest.outage import Outage
from app.store import changes, pulls, quarantine, webhooks
from app.store.engine import Database
from app.store.webhooks import Webhook
from app.telemetry import WebhookState

# A hanging database holds up a scrape no longer. The count itself takes about a millisecond.
WAIT_S: Final = 0.5


# Changes that an address hasn't got yet are counted no further, and no more often.
MAX_LAG: Final = 1000
LAG_EVERY_S: Final = 5.0


class Rows(NamedTuple):
    """Rows in the quarantine, questions for missing reports that are due, and the webhooks."""

    quarantine: int = 0
    pulls_due: int = 0
    webhooks: Sequence[WebhookState] = ()


class RowCounts:
    """Counts on a thread of its own, and knows the last numbers: 0 until the first."""

    def __init__(self, database: Database, outage: Outage) -> None:
        self._database = database
        self._outage = outage
        self._rows = Rows()
        self._webhooks: Sequence[WebhookState] = ()
        self._lags_at = -LAG_EVERY_S
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
            if time.monotonic() - self._lags_at >= LAG_EVERY_S:
                self._webhooks = _states(connection)
                self._lags_at = time.monotonic()
            counted = (quarantine.count(connection), pulls.count_due(connection))
            self._rows = Rows(*counted, self._webhooks)


def _states(connection: Connection) -> list[WebhookState]:
    known = webhooks.all_of_them(connection)
    # Most are equally far.
    waiting = {
        cursor: changes.count_after(connection, cursor, MAX_LAG)
        for cursor in {it.cursor for it in known}
    }
    return [_state(webhook, waiting[webhook.cursor]) for webhook in known]


def _state(webhook: Webhook, waiting: int) -> WebhookState:
    lag_s = max(0.0, time.time() - webhook.caught_up_at / 1_000_000) if waiting else 0.0
    return WebhookState(
        id=webhook.id,
        lag_seconds=lag_s,
        lag_changes=waiting,
        last_success_timestamp_seconds=(webhook.last_success_at or 0) / 1_000_000,
        failing=webhook.failing_since is not None,
        disabled=webhook.disabled,
    )
