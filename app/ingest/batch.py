"""One batch into the database: all of it, or all but the rows that are at fault themselves."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final, TypeVar

from sqlalchemy.exc import DBAPIError

from app.reports import DeliveryReport, Reason, Refusal
from app.store import faults, quarantine, write
from app.store.engine import Database
from app.store.faults import DatabaseFaultError
from app.telemetry import Metrics, masked

log = logging.getLogger(__name__)

Entry = DeliveryReport | Refusal
EntryT = TypeVar("EntryT", bound=Entry)

MAX_ATTEMPTS: Final = 4
RETRY_PAUSE_S: Final = 0.01


class Outcome(Enum):
    """What became of an entry."""

    STORED = auto()
    REFUSED = auto()  # the database took everything but this row, which is in the quarantine
    UNAVAILABLE = auto()  # not on disk


def commit_by_kind(
    batch: Sequence[Entry],
    commit_reports: Callable[[Sequence[DeliveryReport]], list[Outcome]],
    commit_refusals: Callable[[Sequence[Refusal]], list[Outcome]],
) -> list[Outcome]:
    """Reports don't ride with refusals: a quarantine that fails is not to turn them away."""
    reports = [entry for entry in batch if isinstance(entry, DeliveryReport)]
    if len(reports) == len(batch):
        return commit_reports(reports)
    refusals = [entry for entry in batch if isinstance(entry, Refusal)]
    of_reports = iter(commit_reports(reports) if reports else ())
    of_refusals = iter(commit_refusals(refusals))
    return [next(of_refusals if isinstance(entry, Refusal) else of_reports) for entry in batch]


class Committer:
    """Commits batches, on whichever thread it is called."""

    def __init__(self, database: Database, metrics: Metrics, quarantine_max_rows: int) -> None:
        self._database = database
        self._metrics = metrics
        self._quarantine_max_rows = quarantine_max_rows

    def commit_reports(self, batch: Sequence[DeliveryReport]) -> list[Outcome]:
        """Commit a batch and tell what became of each report.

        Raises `DatabaseFaultError` when nothing of it may be taken for stored. Committing the same
        again is harmless: the history only counts it once more.
        """
        started = time.perf_counter()
        outcomes = self._commit(batch, self._record, self._put_aside)
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        self._metrics.batch_reports.observe(len(batch))
        return outcomes

    def commit_refusals(self, batch: Sequence[Refusal]) -> list[Outcome]:
        """Put refusals into the quarantine; as `commit_reports`."""
        return self._commit(batch, self._keep, _give_up)

    def _commit(
        self,
        batch: Sequence[EntryT],
        write_down: Callable[[Sequence[EntryT]], None],
        put_aside: Callable[[EntryT, str], Outcome],
    ) -> list[Outcome]:
        try:
            _patiently(write_down, batch)
        except Exception as error:
            found = faults.description(error)
            if not faults.is_fault_of_data(error):
                self._metrics.failed_batches.labels("database").inc()
                raise DatabaseFaultError(found) from error
            self._metrics.failed_batches.labels("data").inc()
            if len(batch) == 1:
                return [put_aside(batch[0], found)]
            # One bad row never holds up the others: halve until it stands alone.
            middle = len(batch) // 2
            return [
                *self._commit(batch[:middle], write_down, put_aside),
                *self._commit(batch[middle:], write_down, put_aside),
            ]
        return [Outcome.STORED] * len(batch)

    # Counted after the commit: the numbers never promise more than the disk.

    def _record(self, reports: Sequence[DeliveryReport]) -> None:
        with self._database.write.begin() as connection:
            write.record(connection, reports)
        for state, times in Counter(report.state for report in reports).items():
            self._metrics.reports.labels(state).inc(times)
        self._metrics.unrecognised_statuses.inc(
            sum(report.reason == Reason.UNRECOGNISED_STATUS for report in reports)
        )

    def _keep(self, refusals: Sequence[Refusal]) -> None:
        with self._database.write.begin() as connection:
            dropped = quarantine.keep(connection, refusals, self._quarantine_max_rows)
        for code, times in Counter(refusal.code for refusal in refusals).items():
            self._metrics.quarantined.labels(code).inc(times)
        self._metrics.quarantine_dropped.inc(dropped)

    def _put_aside(self, report: DeliveryReport, why: str) -> Outcome:
        """Into the quarantine with a report that the database alone refuses."""
        whose = {"messageid": report.message_id, "to": masked(report.recipient)}
        log.error("the database refused a report", extra={"error": why, **whose})
        detail = f"the database refused it ({why})"
        refusal = Refusal(report.query, "invalid_parameter", detail, report.received_at)
        (outcome,) = self.commit_refusals([refusal])
        return Outcome.REFUSED if outcome is Outcome.STORED else outcome


def _give_up(_refusal: Refusal, why: str) -> Outcome:
    log.error("the quarantine refused a row", extra={"error": why})
    return Outcome.UNAVAILABLE


def _patiently(write_down: Callable[[Sequence[EntryT]], None], batch: Sequence[EntryT]) -> None:
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return write_down(batch)
        except DBAPIError as error:
            # A connection that was cut, while nobody used it say, deserves a second one; but if
            # that is cut too, the database is away.
            is_cut = attempt == 1 and faults.was_cut(error)
            in_the_way = faults.is_collision(error)
            if attempt == MAX_ATTEMPTS or not (is_cut or in_the_way):
                raise
            log.warning(
                "trying a batch again",
                extra={"error": faults.description(error), "rows": len(batch)},
            )
            time.sleep(RETRY_PAUSE_S * attempt)
    return None
