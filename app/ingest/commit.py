"""Commit a batch: all of it, or all but the rows that are themselves at fault."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from app.reports import DeliveryReport, Reason, Refusal
from app.store import faults, quarantine, schema, write
from app.store.engine import Database
from app.store.faults import DatabaseFaultError
from app.telemetry import Metrics, masked

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 4
RETRY_PAUSE_S: Final = 0.01


class Outcome(Enum):
    """The fate of a report or a refusal."""

    STORED = auto()
    REFUSED = auto()  # the database refused this row alone, which is in the quarantine
    UNAVAILABLE = auto()  # not on disk


class Committer:
    """Commits reports and refusals, on the caller's thread.

    They don't share a transaction: a failing quarantine must not turn reports away.
    """

    def __init__(self, database: Database, metrics: Metrics, quarantine_max_rows: int) -> None:
        self.database = database
        self._metrics = metrics
        self._quarantine_max_rows = quarantine_max_rows

    def commit_reports(self, reports: Sequence[DeliveryReport]) -> list[Outcome]:
        """Commit at least one report, and return the fate of each.

        Raises `DatabaseFaultError` if no report may be taken for stored. Committing them again is
        harmless: the history only counts each once more.
        """
        started = time.perf_counter()
        outcomes = self._commit_reports(reports)
        self._observe(reports, started)
        return outcomes

    def count_committed(self, reports: Sequence[DeliveryReport], started: float) -> None:
        """Count a batch that was committed elsewhere. `started` is a `time.perf_counter`."""
        self._observe(reports, started)
        self._count(reports)

    def commit_refusals(self, refusals: Sequence[Refusal], attempt: int = 1) -> list[Outcome]:
        """Put at least one refusal into the quarantine. Returns and raises as `commit_reports`."""
        try:
            self._keep(refusals)
        except Exception as error:  # noqa: BLE001 - `_may_try_again` says whose fault it is
            if self._may_try_again(error, attempt, len(refusals)):
                return self.commit_refusals(refusals, attempt + 1)
            if len(refusals) == 1:
                found = faults.description(error)
                log.error("the quarantine refused a row", extra={"error": found})  # noqa: TRY400 - drivers quote rows
                return [Outcome.UNAVAILABLE]
            middle = len(refusals) // 2
            return [
                *self.commit_refusals(refusals[:middle]),
                *self.commit_refusals(refusals[middle:]),
            ]
        return [Outcome.STORED] * len(refusals)

    def _commit_reports(self, reports: Sequence[DeliveryReport], attempt: int = 1) -> list[Outcome]:
        try:
            self._record(reports)
        except Exception as error:  # noqa: BLE001 - `_may_try_again` says whose fault it is
            if self._may_try_again(error, attempt, len(reports)):
                return self._commit_reports(reports, attempt + 1)
            if len(reports) == 1:
                return [self._put_aside(reports[0], faults.description(error))]
            # One bad row never holds up the others: halve until it stands alone.
            middle = len(reports) // 2
            return [
                *self._commit_reports(reports[:middle]),
                *self._commit_reports(reports[middle:]),
            ]
        return [Outcome.STORED] * len(reports)

    def _may_try_again(self, error: Exception, attempt: int, rows: int) -> bool:
        """True, after a pause, if the same rows may pass; False if one of them is to blame.

        Raises `DatabaseFaultError` if the database is.
        """
        found = faults.description(error)
        # The connection may have been cut while it was idle, so try a second one. If that is cut
        # too, the database is away.
        may_pass = faults.is_collision(error) or (attempt == 1 and faults.was_cut(error))
        if may_pass and attempt < MAX_ATTEMPTS:
            log.warning("trying a batch again", extra={"error": found, "rows": rows})
            time.sleep(RETRY_PAUSE_S * attempt)
            return True
        if not faults.is_fault_of_data(error) or self._lacks_a_trigger(error):
            raise self.fault_of(error) from error
        self._metrics.failed_batches.labels("data").inc()
        return False

    def _lacks_a_trigger(self, error: Exception) -> bool:
        """True if the rows would pass with the triggers that somebody has taken away."""
        if not faults.would_lose_a_report(error):
            return False
        try:
            # The session that failed: another may have its triggers still.
            with self.database.batches.connect() as connection:
                return schema.mismatch(connection) not in {None, schema.OLDER}
        except SQLAlchemyError:
            return True

    def fault_of(self, error: Exception) -> DatabaseFaultError:
        """The fault of the database that this error tells of, counted."""
        self._metrics.failed_batches.labels("database").inc()
        return DatabaseFaultError(faults.description(error), faults.kind(error))

    # Count after the commit, so that the metrics never promise more than the disk holds.

    def _record(self, reports: Sequence[DeliveryReport]) -> None:
        write.commit(self.database, reports)
        self._count(reports)

    def _observe(self, reports: Sequence[DeliveryReport], started: float) -> None:
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        self._metrics.batch_reports.observe(len(reports))

    def _count(self, reports: Sequence[DeliveryReport]) -> None:
        for state, times in Counter(report.state for report in reports).items():
            self._metrics.reports.labels(state).inc(times)
        self._metrics.unrecognised_statuses.inc(
            sum(report.reason == Reason.UNRECOGNISED_STATUS for report in reports)
        )

    def _keep(self, refusals: Sequence[Refusal]) -> None:
        with self.database.batch() as connection:
            dropped = quarantine.keep(connection, refusals, self._quarantine_max_rows)
        for code, times in Counter(refusal.code for refusal in refusals).items():
            self._metrics.quarantined.labels(code).inc(times)
        self._metrics.quarantine_dropped.inc(dropped)

    def _put_aside(self, report: DeliveryReport, why: str) -> Outcome:
        """Put a report into the quarantine that we accept and the database refuses."""
        key = {"messageid": report.message_id, "to": masked(report.recipient)}
        log.error("the database refused a report", extra={"error": why, **key})
        detail = f"the database refused it ({why})"
        refusal = Refusal(report.query, "invalid_parameter", detail, report.received_at)
        (outcome,) = self.commit_refusals([refusal])
        return Outcome.REFUSED if outcome is Outcome.STORED else outcome
