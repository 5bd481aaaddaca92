"""The jobs of periodic work: expire, compact, note uses, forget, purge, remove checks."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from sqlalchemy import Connection

from app.api.uses import Uses
from app.ingest.outage import Outage
from app.ops.periodic import Job
from app.settings import Settings
from app.store import changes, checks, postgresql, retention, sends, stats, submissions
from app.store import uses as store_uses
from app.store.engine import Database
from app.telemetry import Metrics

log = logging.getLogger(__name__)

EXPIRY_INTERVAL_S: Final = 30
# Rows in one transaction.
MAX_EXPIRED: Final = 500
MAX_FORGOTTEN: Final = 1000
COMPACTION_INTERVAL_S: Final = 5
CHECKS_INTERVAL_S: Final = 3
TRIAL_INTERVAL_S: Final = 2
USES_INTERVAL_S: Final = 60
PURGE_INTERVAL_S: Final = 3600
# After the start: time for an operator to see that the clock is wrong.
PURGE_AFTER_S: Final = 180.0
# Between two transactions, so that the writer gets its turn.
PAUSE_S: Final = 0.02

US_A_DAY: Final = stats.HOURS_A_DAY * stats.HOUR
# The life of an `Idempotency-Key` (docs/api.md).
DAYS_OF_KEYS: Final = 30


class ClockIsAheadError(Exception):
    """Our clock is far ahead of the database's."""


def jobs(
    settings: Settings, database: Database, metrics: Metrics, outage: Outage, uses: Uses
) -> list[Job]:
    """The jobs that these settings ask for."""
    found = [
        Job(
            "forgetting sends",
            PURGE_INTERVAL_S,
            lambda it: forget_sends(database, it),
            PURGE_AFTER_S,
        ),
        Job("compaction", COMPACTION_INTERVAL_S, lambda it: compact(database, it)),
        Job("removing checks", CHECKS_INTERVAL_S, lambda it: remove_checks(database, it)),
        Job(
            "last uses",
            USES_INTERVAL_S,
            lambda _: write_uses(database, uses),
            USES_INTERVAL_S,
        ),
    ]
    if database.is_embedded:
        found.append(Job("trial", TRIAL_INTERVAL_S, lambda _: try_to_write(database, outage)))
    if settings.report_timeout_hours:
        hours = settings.report_timeout_hours
        found.append(
            Job("expiry", EXPIRY_INTERVAL_S, lambda it: expire(database, metrics, hours, it))
        )
    if settings.retention_days:
        days = settings.retention_days
        found.append(
            Job("purge", PURGE_INTERVAL_S, lambda it: purge(database, days, it), PURGE_AFTER_S)
        )
    return found


def expire(database: Database, metrics: Metrics, hours: int, stopping: threading.Event) -> None:
    """Mark messages without a final report as expired, `hours` after they were sent.

    Raises `ClockIsAheadError`: for whoever reads it, `expired` is final.
    """
    with database.read.connect() as connection:
        if -postgresql.clock_difference_s(connection) > retention.WRONG_CLOCK_S:
            raise ClockIsAheadError

    def expire_some(connection: Connection) -> int:
        now = _now()
        return submissions.expire(connection, now - hours * stats.HOUR, now, MAX_EXPIRED)

    for expired in _batches(database, stopping, MAX_EXPIRED, expire_some):
        metrics.expired.inc(expired)


def forget_sends(database: Database, stopping: threading.Event) -> None:
    """Forget sends whose idempotency keys have expired, unless the clock seems wrong.

    Without its key a repeated request would be sent, and paid, twice.
    """
    with database.read.connect() as connection:
        if sends.are_mostly_before(connection, days_ago(DAYS_OF_KEYS)):
            log.error("no idempotency key was forgotten: most of them are old; look at the clock")
            return

    def forget_some(connection: Connection) -> int:
        return sends.forget_before(connection, days_ago(DAYS_OF_KEYS), MAX_FORGOTTEN)

    for _ in _batches(database, stopping, MAX_FORGOTTEN, forget_some):
        pass


def write_uses(database: Database, uses: Uses) -> None:
    """Write down which tokens and keys were used since the last time."""
    counts = uses.unwritten()
    if counts:
        with database.transaction() as connection:
            store_uses.keep(connection, counts, time.time_ns() // 1000)
        uses.note_written(counts)


def try_to_write(database: Database, outage: Outage) -> None:
    """End an outage of the embedded database without waiting for a report to be risked."""
    if outage.has_begun:
        with database.transaction() as connection:
            changes.begin_change(connection)
        outage.end()


def compact(database: Database, stopping: threading.Event) -> None:
    """Add up the deltas of counts that transactions left, until there are none."""
    for _ in _batches(database, stopping, stats.MAX_DELTAS, stats.compact):
        pass


def remove_checks(database: Database, stopping: threading.Event) -> None:
    """Remove the test reports of `paasoo-dlr check`. A transaction begins only if there are any."""
    with database.read.connect() as connection:
        if not checks.are_due(connection, _now()):
            return
    for _ in _batches(database, stopping, checks.BATCH, lambda it: checks.remove(it, _now())):
        pass


def _batches(
    database: Database,
    stopping: threading.Event,
    most: int,
    take: Callable[[Connection], int],
) -> Iterator[int]:
    """Run transactions until one takes fewer rows than it may; yields the rows that each took."""
    taken = most
    while taken >= most and not stopping.wait(PAUSE_S):
        with database.transaction() as connection:
            taken = take(connection)
        yield taken


def purge(database: Database, days: int, stopping: threading.Event) -> None:
    """Remove final messages and refused callbacks that are older than `days`, if that is usual."""
    before = days_ago(days)
    with database.read.connect() as connection:
        objection = retention.objection(connection, before)
    if objection is not None:
        log.error(
            "nothing was purged; look at the clock, then run `paasoo-dlr purge --yes`",
            extra={"why": objection, "retention_days": days},
        )
        return
    purged = retention.Purged()
    for batch in retention.purge(database, before):
        purged = purged.and_also(batch)
        if stopping.wait(PAUSE_S):
            break
    if any(purged):
        log.info("purged", extra={"retention_days": days, **purged._asdict()})


def days_ago(days: int) -> int:
    """The time `days` ago, in microseconds since 1970 UTC."""
    return _now() - days * US_A_DAY


def _now() -> int:
    return time.time_ns() // 1000
