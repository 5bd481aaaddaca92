"""What the service does by itself every so often: adding up statistics, and purging."""

import logging
import threading
import time
from typing import Final

from app.ops.periodic import Job
from app.settings import Settings
from app.store import retention, stats
from app.store.engine import Database

log = logging.getLogger(__name__)

COMPACTION_INTERVAL_S: Final = 5
PURGE_INTERVAL_S: Final = 3600
# Between two transactions, so that the writer has its turn.
PAUSE_S: Final = 0.02

US_A_DAY: Final = 24 * 3600 * 1_000_000


def jobs(settings: Settings, database: Database) -> list[Job]:
    """What there is to do with these settings on this database."""
    found = []
    if not database.is_embedded:
        found.append(Job("compaction", COMPACTION_INTERVAL_S, lambda it: compact(database, it)))
    if settings.retention_days:
        days = settings.retention_days
        found.append(Job("purge", PURGE_INTERVAL_S, lambda it: purge(database, days, it)))
    return found


def compact(database: Database, stopping: threading.Event) -> None:
    """Add up what transactions left, until no more is there."""
    added_up = stats.MAX_PARTS
    while added_up >= stats.MAX_PARTS and not stopping.wait(PAUSE_S):
        with database.transaction() as connection:
            added_up = stats.compact(connection)


def purge(database: Database, days: int, stopping: threading.Event) -> None:
    """Remove what is final and older than so many days."""
    purged = retention.Purged()
    for batch in retention.purge(database, days_ago(days)):
        purged = purged.and_also(batch)
        if stopping.wait(PAUSE_S):
            break
    if any(purged):
        log.info("purged", extra={"retention_days": days, **purged._asdict()})


def days_ago(days: int) -> int:
    """In microseconds since 1970 UTC."""
    return time.time_ns() // 1000 - days * US_A_DAY
