"""One batch into the database: all of it, or all but the rows that are at fault themselves."""

import logging
from collections import Counter
from collections.abc import Sequence
from enum import Enum, auto

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from app.reports import DeliveryReport, Reason
from app.store import quarantine, write
from app.store.engine import Database
from app.store.quarantine import Refusal
from app.telemetry import Metrics

log = logging.getLogger(__name__)

Entry = DeliveryReport | Refusal


class Outcome(Enum):
    """What became of an entry."""

    STORED = auto()
    REFUSED = auto()  # the database took everything but this row, which is in the quarantine
    UNAVAILABLE = auto()  # not on disk


class Committer:
    """Commits a batch, on the writer's thread, and tells what became of each entry."""

    def __init__(self, database: Database, metrics: Metrics, quarantine_max_rows: int) -> None:
        self._database = database
        self._metrics = metrics
        self._quarantine_max_rows = quarantine_max_rows

    def __call__(self, batch: Sequence[Entry]) -> list[Outcome]:
        with self._metrics.commit_seconds.time():
            outcomes = self._store(batch)
        self._metrics.batch_reports.observe(len(batch))
        return outcomes

    def _store(self, batch: Sequence[Entry]) -> list[Outcome]:
        try:
            self._write_down(batch)
        except Exception as error:  # noqa: BLE001 - whatever it was, each caller gets an answer
            if not is_fault_of_data(error):
                log.error(  # noqa: TRY400 - a driver's trace would quote the rows
                    "the database didn't take a batch", extra=description(error, len(batch))
                )
                self._metrics.failed_batches.labels("database").inc()
                return [Outcome.UNAVAILABLE] * len(batch)
            self._metrics.failed_batches.labels("data").inc()
            if len(batch) == 1:
                return [self._put_aside(batch[0], error)]
            # One bad row never holds up the others: halve until it stands alone.
            middle = len(batch) // 2
            return self._store(batch[:middle]) + self._store(batch[middle:])
        return [Outcome.STORED] * len(batch)

    def _write_down(self, batch: Sequence[Entry]) -> None:
        reports = [entry for entry in batch if isinstance(entry, DeliveryReport)]
        refusals = [entry for entry in batch if isinstance(entry, Refusal)]
        dropped = 0
        with self._database.write.begin() as connection:
            if reports:
                write.record(connection, reports)
            if refusals:
                dropped = quarantine.keep(connection, refusals, self._quarantine_max_rows)
        # Counted after the commit: the numbers never promise more than the disk.
        for state, times in Counter(report.state for report in reports).items():
            self._metrics.reports.labels(state).inc(times)
        for code, times in Counter(refusal.code for refusal in refusals).items():
            self._metrics.quarantined.labels(code).inc(times)
        self._metrics.unrecognised_statuses.inc(
            sum(report.reason is Reason.UNRECOGNISED_STATUS for report in reports)
        )
        self._metrics.quarantine_dropped.inc(dropped)

    def _put_aside(self, entry: Entry, error: Exception) -> Outcome:
        """Into the quarantine with a report that the database alone refuses."""
        found = description(error, rows=1)
        log.error("the database refused a row", extra=found)
        if isinstance(entry, Refusal):
            return Outcome.UNAVAILABLE
        detail = f"the database refused it ({found['error']})"
        refusal = Refusal(entry.query, "invalid_parameter", detail, entry.received_at)
        (outcome,) = self._store([refusal])
        return Outcome.REFUSED if outcome is Outcome.STORED else outcome


def is_fault_of_data(error: Exception) -> bool:
    """Whether a row is to blame, so that the batch without it would pass.

    What the driver can't even encode counts too. Anything else is the database's own fault:
    no connection, no room, no lock, no such table.
    """
    return isinstance(error, DataError | IntegrityError) or not isinstance(error, SQLAlchemyError)


def description(error: Exception, rows: int) -> dict[str, object]:
    """What may be logged of an error: never its text, in which drivers quote the row."""
    cause = getattr(error, "orig", None) or error
    name = type(cause).__name__
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    return {"error": f"{name} {sqlstate}" if sqlstate else name, "rows": rows}
