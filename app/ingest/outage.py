"""While the database takes no reports, the spool does, or else they are refused at once.

`Intake`, on the writer's thread, notices the fault and goes on with the spool. `Recovery`, on a
thread of its own, tries the database again, and drains the spool into it while new ones flow.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from app.ingest.batch import Committer, DatabaseFaultError, Entry, Outcome, description
from app.reports import DeliveryReport
from app.store import schema
from app.store.engine import Database
from app.store.quarantine import Refusal
from app.store.spool import Spool
from app.telemetry import Metrics

log = logging.getLogger(__name__)

RETRY_INTERVAL_S: Final = 0.5
DRAIN_BATCH: Final = 500
PROGRESS_INTERVAL_S: Final = 2.0
# How often a replica looks for the spool of another that is not coming back.
ABANDONED_INTERVAL_S: Final = 60.0


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
        self._said_spool_is_failing = False

    def __call__(self, batch: Sequence[Entry]) -> list[Outcome]:
        # Reports don't ride with refusals: a quarantine that fails is not to turn them away.
        outcomes = dict.fromkeys(range(len(batch)), Outcome.UNAVAILABLE)
        for kind in (DeliveryReport, Refusal):
            places = [place for place, entry in enumerate(batch) if isinstance(entry, kind)]
            if places:
                entries = [batch[place] for place in places]
                outcomes.update(zip(places, self._take(entries), strict=True))
        return list(outcomes.values())

    def _take(self, batch: Sequence[Entry]) -> list[Outcome]:
        if not self.is_away:
            try:
                outcomes = self.committer.commit(batch)
            except DatabaseFaultError as error:
                self.note_fault(str(error))
            else:
                self.note_success()
                return outcomes
        return self._shelter(batch)

    def note_fault(self, why: str) -> None:
        self.is_away = not self._is_embedded
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            instead = "refused" if self.spool is None else "kept in the spool"
            log.error("the database takes no reports", extra={"error": why, "they_are": instead})

    def note_success(self) -> None:
        self.is_away = False
        if self._failing_since is not None:
            seconds = round(time.monotonic() - self._failing_since, 1)
            self._failing_since = None
            self._said_spool_is_failing = False
            log.warning("the database takes reports again", extra={"after_seconds": seconds})

    def _shelter(self, batch: Sequence[Entry]) -> list[Outcome]:
        if self.spool is None:
            return [Outcome.UNAVAILABLE] * len(batch)
        try:
            self.spool.put([(entry.received_at, entry.query) for entry in batch])
        except SQLAlchemyError as error:
            if not self._said_spool_is_failing:  # once an outage: a smaller batch may still fit
                self._said_spool_is_failing = True
                found = description(error, len(batch))
                log.error("the spool takes no more", extra=found)  # noqa: TRY400 - quotes rows
            self.spool_is_failing = True
            return [Outcome.UNAVAILABLE] * len(batch)
        self.spool_is_failing = False
        self._metrics.spooled.inc(len(batch))
        return [Outcome.STORED] * len(batch)


class Recovery:
    """Tries a server database while it is away, and drains what was kept meanwhile.

    `understand` goes from a raw query and its time of receipt to an entry, as the door's does.
    """

    def __init__(
        self,
        database: Database,
        intake: Intake,
        understand: Callable[[bytes, int], Entry],
        spool_folder: Path,
        spool_max_bytes: int,
    ) -> None:
        self._database = database
        self._intake = intake
        self._understand = understand
        self._spool_folder = spool_folder
        self._spool_max_bytes = spool_max_bytes
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="recovery", daemon=True)

    def start(self) -> None:
        """Look once whether the database is there, then watch over it."""
        self._try_database()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=0.5)

    def _watch(self) -> None:
        abandoned_seen_at = -ABANDONED_INTERVAL_S
        while not self._stopping.wait(RETRY_INTERVAL_S):
            try:
                if self._intake.is_away and not self._try_database():
                    continue
                if self._intake.spool is None:
                    continue
                self._drain(self._intake.spool)
                if time.monotonic() - abandoned_seen_at >= ABANDONED_INTERVAL_S:
                    abandoned_seen_at = time.monotonic()
                    for spool in Spool.abandoned(self._spool_folder, self._spool_max_bytes):
                        self._drain(spool)
            except DatabaseFaultError as error:
                self._intake.note_fault(str(error))
            except Exception:
                # Whatever it was, this thread is the only one that can end an outage.
                log.exception("the recovery failed; it goes on")

    def _try_database(self) -> bool:
        try:
            with self._database.write.connect() as connection:
                schema.require_writable(connection)
        except schema.NotWritableError as error:
            self._intake.note_fault(str(error))
            return False
        except SQLAlchemyError as error:
            self._intake.note_fault(str(description(error, rows=0)["error"]))
            return False
        self._intake.note_success()
        return True

    def _drain(self, spool: Spool) -> None:
        """Into the database first, out of the spool then: twice is harmless, not at all is not."""
        drained, started, said_at = 0, time.monotonic(), time.monotonic()
        while len(spool) and not self._stopping.is_set():
            waiting = spool.oldest(DRAIN_BATCH)
            entries = [self._understand(row.query.encode(), row.received_at) for row in waiting]
            for kind in (DeliveryReport, Refusal):
                if alike := [entry for entry in entries if isinstance(entry, kind)]:
                    self._intake.committer.commit(alike)
            spool.remove(waiting)
            drained += len(waiting)
            if time.monotonic() - said_at >= PROGRESS_INTERVAL_S:
                said_at = time.monotonic()
                log.info("draining the spool", extra={"drained": drained, "left": len(spool)})
        if drained:
            seconds = round(time.monotonic() - started, 1)
            log.warning(
                "the spool was drained",
                extra={"drained": drained, "left": len(spool), "seconds": seconds},
            )
