"""While the database takes no reports, the spool does, or else they are refused at once.

`Intake`, on the writer's thread, notices the fault and goes on with the spool. `Recovery`, on a
thread of its own, tries the database again, and drains the spool into it while new ones flow.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from app.ingest.batch import Committer, DatabaseFaultError, Entry, Outcome, description
from app.reports import DeliveryReport
from app.store import schema
from app.store.engine import Database
from app.store.quarantine import Refusal
from app.store.spool import Spool, Spooled
from app.telemetry import Metrics

log = logging.getLogger(__name__)

RETRY_INTERVAL_S: Final = 0.5
MAX_RETRY_INTERVAL_S: Final = 2.0
FIRST_DRAIN_BATCH: Final = 125
MAX_DRAIN_BATCH: Final = 2000
# Rows that a drain leaves for its next pass before it takes the database for away.
MAX_PASSED_OVER: Final = 3
PROGRESS_INTERVAL_S: Final = 2.0
# How often a replica looks for the spool of another that is not coming back.
ABANDONED_INTERVAL_S: Final = 10.0


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
        self._looked_for_abandoned_at = -ABANDONED_INTERVAL_S
        self._complaint = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="recovery", daemon=True)

    def start(self) -> None:
        """Look once whether the database is there, then watch over it."""
        self._intake.is_away = True
        self._step()
        self._thread.start()

    def stop(self) -> None:
        """End after what is under way. Whoever needs to know waits with `is_running`."""
        self._stopping.set()

    def is_running(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return self._thread.is_alive()

    def _watch(self) -> None:
        pause_s = RETRY_INTERVAL_S
        while not self._stopping.wait(pause_s):
            longer_s = min(2 * pause_s, MAX_RETRY_INTERVAL_S)
            pause_s = RETRY_INTERVAL_S if self._step() else longer_s

    def _step(self) -> bool:
        """One look, and a drain where there is something to drain; False where it failed."""
        try:
            if self._intake.is_away:
                self._require_writable()
            spool = self._intake.spool
            if spool is not None:
                # Ends the outage only when its first batch is in: a write, not a look, proves it.
                Drain(spool, self._intake, self._understand, self._stopping).run()
            self._intake.note_success()
            self._drain_abandoned()
        except (DatabaseFaultError, schema.NotWritableError) as error:
            self._intake.note_fault(str(error))
            return False
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody else ends an outage
            self._complain("the recovery failed; it goes on", error)
            return False
        self._complaint = ""
        return True

    def _require_writable(self) -> None:
        try:
            with self._database.write.connect() as connection:
                schema.require_writable(connection)
        except schema.NotWritableError:
            # Another connection may lead to another server: this one's may be a standby by now.
            self._database.write.dispose()
            raise
        except SQLAlchemyError as error:
            raise DatabaseFaultError(str(description(error, rows=0)["error"])) from error

    def _drain_abandoned(self) -> None:
        if time.monotonic() - self._looked_for_abandoned_at < ABANDONED_INTERVAL_S:
            return
        self._looked_for_abandoned_at = time.monotonic()
        for file in sorted(self._spool_folder.glob("spool-*.db")):
            try:
                spool = Spool.take(file, self._spool_max_bytes)
            except SQLAlchemyError as error:
                self._complain(f"{file} can't be read; what is in it is not drained", error)
                continue
            if spool is not None:
                with closing(spool):
                    Drain(spool, self._intake, self._understand, self._stopping).run()

    def _complain(self, message: str, error: Exception) -> None:
        """Once, not every half second, for as long as it stays the same."""
        complaint = f"{message} {error!r}"
        if complaint != self._complaint:
            self._complaint = complaint
            log.error(message, exc_info=error)


class Drain:
    """One pass over a spool: into the database first, out of the spool then.

    Twice is harmless, not at all is not: so a crash in between only records some again.
    """

    def __init__(
        self,
        spool: Spool,
        intake: Intake,
        understand: Callable[[bytes, int], Entry],
        stopping: threading.Event,
    ) -> None:
        self._spool = spool
        self._intake = intake
        self._understand = understand
        self._stopping = stopping
        self._limit = FIRST_DRAIN_BATCH
        self._passed_over = 0

    def run(self) -> None:
        """Raises `DatabaseFaultError` where the database doesn't take even one more row."""
        drained, last_id = 0, 0
        started = said_at = time.monotonic()
        while not self._stopping.is_set() and (rows := self._spool.after(last_id, self._limit)):
            stored = self._record(rows)
            if stored is None:
                continue  # the same again, fewer at once
            last_id = rows[-1].id
            self._spool.remove(stored)
            drained += len(stored)
            if time.monotonic() - said_at >= PROGRESS_INTERVAL_S:
                said_at = time.monotonic()
                log.info("draining the spool", extra={"drained": drained, "left": len(self._spool)})
        if drained:
            self._spool.forget_up_to(last_id, leaving=self._passed_over)
            seconds = round(time.monotonic() - started, 1)
            log.warning(
                "the spool was drained",
                extra={"drained": drained, "left": len(self._spool), "seconds": seconds},
            )

    def _record(self, rows: Sequence[Spooled]) -> list[int] | None:
        """The ids that are in the database now; None where it could not take so many at once."""
        entries = [self._understand(row.query.encode(), row.received_at) for row in rows]
        stored = []
        try:
            for kind in (DeliveryReport, Refusal):
                places = [place for place, entry in enumerate(entries) if isinstance(entry, kind)]
                if places:
                    outcomes = self._intake.committer.commit([entries[place] for place in places])
                    stored += [
                        rows[place].id
                        for place, outcome in zip(places, outcomes, strict=True)
                        if outcome is not Outcome.UNAVAILABLE
                    ]
        except DatabaseFaultError:
            # Slow, cold, or one row locked by somebody: fewer may pass where many did not.
            if self._limit > 1:
                self._limit = max(1, self._limit // 8)
                return None
            self._passed_over += 1
            if self._passed_over > MAX_PASSED_OVER:
                raise
            return []
        self._passed_over += len(rows) - len(stored)
        self._limit = min(2 * self._limit, MAX_DRAIN_BATCH)
        self._intake.note_success()
        return stored
