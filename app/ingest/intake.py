"""Where a batch goes: into the database, or, while that takes none, into the spool."""

import logging
import time
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from app.ingest.batch import (
    Committer,
    Entry,
    Outcome,
    commit_by_kind,
)
from app.reports import DeliveryReport, Refusal
from app.store import faults
from app.store.faults import DatabaseFaultError
from app.store.spool import Spool
from app.telemetry import Metrics

log = logging.getLogger(__name__)


class Intake:
    """What the writer does with a batch: into the database, into the spool, or refuse it.

    A server database that failed once is left to `Recovery`, so that no caller waits for it. The
    embedded one has no network to wait for: each batch tries it again.
    """

    def __init__(
        self, committer: Committer, metrics: Metrics, *, spool: Spool | None, is_embedded: bool
    ) -> None:
        self.committer = committer
        self.spool = spool
        self.spool_is_failing = False
        self.is_away = False
        self._is_embedded = is_embedded
        self._metrics = metrics
        self._failing_since: float | None = None
        self._said: set[str] = set()
        self._said_spool_is_failing = False

    def __call__(self, batch: Sequence[Entry]) -> list[Outcome]:
        return commit_by_kind(batch, self._take_reports, self._take_refusals)

    def _take_reports(self, batch: Sequence[DeliveryReport]) -> list[Outcome]:
        if not self.is_away:
            try:
                outcomes = self.committer.commit_reports(batch)
            except DatabaseFaultError as error:
                self.note_fault(str(error))
            else:
                self.note_success()
                return outcomes
        return self._shelter(batch)

    def _take_refusals(self, batch: Sequence[Refusal]) -> list[Outcome]:
        """Their fault is no outage: reports find out for themselves whether there is one."""
        if not self.is_away:
            try:
                return self.committer.commit_refusals(batch)
            except DatabaseFaultError as error:
                log.error("the quarantine takes nothing", extra={"error": str(error)})  # noqa: TRY400
        return self._shelter(batch)

    def note_fault(self, why: str) -> None:
        self.is_away = not self._is_embedded
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        # Once an outage for each reason: a server may be back, and its schema not.
        if why not in self._said:
            self._said.add(why)
            instead = "refused" if self.spool is None else "kept in the spool"
            log.error("the database takes no reports", extra={"error": why, "they_are": instead})

    def note_success(self) -> None:
        self.is_away = False
        since, self._failing_since = self._failing_since, None
        if since is not None:
            seconds = round(time.monotonic() - since, 1)
            self._said.clear()
            self._said_spool_is_failing = self.spool_is_failing = False
            log.warning("the database takes reports again", extra={"after_seconds": seconds})

    def _shelter(self, batch: Sequence[Entry]) -> list[Outcome]:
        if self.spool is None:
            return [Outcome.UNAVAILABLE] * len(batch)
        try:
            self.spool.put([(entry.received_at, entry.query) for entry in batch])
        except SQLAlchemyError as error:
            if not self._said_spool_is_failing:  # once an outage: a smaller batch may still fit
                self._said_spool_is_failing = True
                found = {"error": faults.description(error), "rows": len(batch)}
                log.error("the spool takes no more", extra=found)  # noqa: TRY400 - quotes rows
            self.spool_is_failing = True
            return [Outcome.UNAVAILABLE] * len(batch)
        self.spool_is_failing = False
        self._metrics.spooled.inc(len(batch))
        return [Outcome.STORED] * len(batch)
