"""Numbers that the database knows, for a scrape that must not wait for it."""

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
from app.store.replication import Standbys, standbys_of
from app.store.webhooks import Webhook
from app.telemetry import WebhookState

# A hanging database holds up a scrape no longer. The count itself takes about a millisecond.
WAIT_S: Final = 0.5
# Changes that an address hasn't got yet are counted no more often.
LAG_EVERY_S: Final = 5.0


class Rows(NamedTuple):
    """Rows in the quarantine, questions for missing reports that are due, the webhooks, standbys.

    `feed_held_s`: one and the same transaction has held the feed back for so long. `standbys`: None
    if the server doesn't tell.
    """

    quarantine: int = 0
    pulls_due: int = 0
    webhooks: Sequence[WebhookState] = ()
    feed_held_s: float = 0
    standbys: Standbys | None = None


class RowCounts:
    """Counts on a thread of its own, and knows the last numbers: 0 until the first."""

    def __init__(self, database: Database, outage: Outage) -> None:
        self._database = database
        self._outage = outage
        self._rows = Rows()
        self._holder: str | None = None
        self._held_since = 0.0
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
            held_s = self._held_for_s(changes.holder(connection))
            self._rows = Rows(*counted, self._webhooks, held_s, standbys_of(connection))

    def _held_for_s(self, holder: str | None) -> float:
        """The time since a scrape first saw this transaction hold the feed back.

        PostgreSQL shows the age of a transaction only to its own role, and numbers to everyone.
        """
        now = time.monotonic()
        if holder != self._holder:
            self._holder, self._held_since = holder, now
        return 0.0 if holder is None else now - self._held_since


def _states(connection: Connection) -> list[WebhookState]:
    known = webhooks.all_of_them(connection)
    waiting = webhooks.waiting_for(connection, known)
    return [_state(webhook, waiting[webhook.id]) for webhook in known]


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
