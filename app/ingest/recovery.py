"""The end of an outage: a thread tries the database again, and drains the spool into it.

New reports flow meanwhile: the fold doesn't depend on their order.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from app.ingest.commit import Committer, Outcome
from app.ingest.outage import Outage
from app.reports import DeliveryReport, Refusal
from app.settings import Settings
from app.store import changes, faults, postgresql, schema
from app.store.faults import DatabaseFaultError, NotWritableError
from app.store.replication import standbys_of
from app.store.spool import Spool, Spooled, is_closed_to_us

log = logging.getLogger(__name__)

RETRY_INTERVAL_S: Final = 0.5
MAX_RETRY_INTERVAL_S: Final = 2.0
FIRST_DRAIN_BATCH: Final = 125
MAX_DRAIN_BATCH: Final = 2000
# Rows that a drain may leave for its next pass; with one more, the database counts as away.
MAX_PASSED_OVER: Final = 3
PROGRESS_INTERVAL_S: Final = 2.0
# The interval at which a replica looks for spools whose process has gone.
ABANDONED_INTERVAL_S: Final = 10.0
# The interval at which the server's address is tried anew, for another server behind it.
SERVER_INTERVAL_S: Final = 4.0
# The interval at which the server's standbys are looked at.
STANDBYS_INTERVAL_S: Final = 10.0
MAX_CLOCK_DIFFERENCE_S: Final = 60


# Parses a raw query with its time of receipt, as the door does.
Understand = Callable[[bytes, int], DeliveryReport | Refusal]


class Recovery:
    """Tries a server database while it is away, and drains the spool afterwards."""

    def __init__(
        self,
        committer: Committer,
        outage: Outage,
        spool: Spool | None,
        understand: Understand,
        settings: Settings,
    ) -> None:
        self._database = committer.database
        self._outage = outage
        self._spool = spool
        self._drain = Drain(committer, outage, understand)
        self._spool_folder = settings.data_dir
        self._spool_max_bytes = settings.spool_max_bytes
        self._looked_for_abandoned_at = -ABANDONED_INTERVAL_S
        self._looked_at_server_at = time.monotonic()
        # Spools with callbacks that can't be read.
        self.damaged: set[Path] = set()
        self._looked_at_standbys_at = -STANDBYS_INTERVAL_S
        self._may_lose_reports = False
        self._clocks_differ = False
        self._look_fails = False
        self._meets_an_old_primary = False
        self._complaints: dict[Path | None, str] = {}
        self._schema_was_current = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="recovery", daemon=True)

    def start(self) -> None:
        """Look for the database once, then go on watching it in the thread."""
        # Cache the revisions now, before an upgrade replaces the files.
        schema.newest_revision()
        schema.known_revisions()
        self._find_damaged()
        self._step()
        self._thread.start()

    def stop(self) -> None:
        """End after the current step. `is_running` waits for it."""
        self._stopping.set()

    def is_running(self, timeout_s: float) -> bool:
        if self._thread.is_alive():  # the embedded database needs no recovery
            self._thread.join(timeout_s)
        return self._thread.is_alive()

    def _watch(self) -> None:
        pause_s = RETRY_INTERVAL_S
        while not self._stopping.wait(pause_s):
            longer_s = min(2 * pause_s, MAX_RETRY_INTERVAL_S)
            pause_s = RETRY_INTERVAL_S if self._step() else longer_s

    def _step(self) -> bool:
        """Look at the database, and drain the spool if there is one. False if either failed."""
        was_away, number = self._outage.is_on, self._outage.number
        try:
            if was_away:
                self._require_writable()
            else:
                self._require_same_server()
            if self._spool is not None:
                # Its first batch ends the outage: only a write proves that the database is back.
                self._run_drain(self._spool)
            elif was_away:
                self._require_commit()
            if was_away:  # don't end an outage that another thread has just begun
                self._outage.end(number)
            self._look_at_standbys()
            self._drain_abandoned()
        except DatabaseFaultError as error:
            self._outage.begin(str(error), error.kind)
            return False
        except Exception as error:  # noqa: BLE001 - only this thread can end an outage, so go on
            self._complain(None, "the recovery failed; it goes on", error)
            return False
        self._complaints.pop(None, None)
        return True

    def _require_writable(self) -> None:
        try:
            with self._database.write.connect() as connection:
                schema.require_writable(connection, may_be_newer=self._schema_was_current)
                self._schema_was_current = True
            changes.settle(self._database)
        except NotWritableError:
            # This connection's server may have become a standby; a new one may find the primary.
            self._database.close()
            raise
        except SQLAlchemyError as error:
            raise DatabaseFaultError(faults.description(error)) from error

    def _require_commit(self) -> None:
        """Raise a fault unless a commit returns: one may hang for want of a synchronous standby."""
        try:
            with self._database.transaction() as connection:
                changes.write_nothing_new(connection)
        except SQLAlchemyError as error:
            raise DatabaseFaultError(faults.description(error), faults.kind(error)) from error

    def _require_same_server(self) -> None:
        """Raise `NotWritableError` if a new connection finds another server than those in use.

        An address may move while the old primary still answers. Failing to connect proves nothing.
        """
        if time.monotonic() - self._looked_at_server_at < SERVER_INTERVAL_S:
            return
        self._looked_at_server_at = time.monotonic()
        try:
            with self._database.look.connect() as connection:
                found = postgresql.server_of(connection)
                is_another = self._database.is_another(found)
                is_read_only = schema.is_read_only(connection)
                self._note_old_primary(postgresql.passed_over_an_old_primary(connection))
                self._compare_clocks(postgresql.clock_difference_s(connection))
        except SQLAlchemyError as error:
            if faults.is_of_an_old_primary(error):
                self._note_old_primary(True)
            self._note_look(faults.description(error))
            return
        self._note_look(None)
        if is_another or is_read_only:
            if not is_read_only:
                self._database.note_successor(found)
            self._database.close()
            why = "another server has taken its address" if is_another else "it is read-only"
            raise NotWritableError(why)

    def _look_at_standbys(self) -> None:
        """Say so once if a failover may lose reports. That looking fails is no outage."""
        if time.monotonic() - self._looked_at_standbys_at < STANDBYS_INTERVAL_S:
            return
        self._looked_at_standbys_at = time.monotonic()
        try:
            with self._database.read.connect() as connection:
                standbys = standbys_of(connection)
        except SQLAlchemyError:
            return
        if standbys is None:
            return
        if standbys.may_lose_reports and not self._may_lose_reports:
            log.warning(
                "every standby is asynchronous: a failover may lose the latest reports;"
                " synchronous_standby_names prevents it",
                extra={"asynchronous_standbys": standbys.asynchronous},
            )
        self._may_lose_reports = standbys.may_lose_reports

    def _note_look(self, why_failed: str | None) -> None:
        fails = why_failed is not None
        self._outage.note_look(failed=fails)
        if fails and not self._look_fails:
            log.warning("no new connection", extra={"error": why_failed})
        if self._look_fails and not fails:
            log.warning("new connections again")
        self._look_fails = fails

    def _note_old_primary(self, is_met: bool) -> None:
        if is_met and not self._meets_an_old_primary:
            log.error("an old primary answers: fence it; nothing is read from it or written to it")
        self._meets_an_old_primary = is_met

    def _compare_clocks(self, difference_s: float) -> None:
        is_wrong = abs(difference_s) > MAX_CLOCK_DIFFERENCE_S
        if is_wrong and not self._clocks_differ:
            seconds = round(difference_s)
            log.error(
                "the database's clock differs from ours: times of receipt may be wrong",
                extra={"seconds_ahead": seconds},
            )
        self._clocks_differ = is_wrong

    def _drain_abandoned(self) -> None:
        if time.monotonic() - self._looked_for_abandoned_at < ABANDONED_INTERVAL_S:
            return
        self._looked_for_abandoned_at = time.monotonic()
        self.damaged = {file for file in self.damaged if file.exists()}
        for spool in self._free_spools():
            self._run_drain(spool)

    def _run_drain(self, spool: Spool) -> None:
        """Drain a spool. No fault of its own keeps the outage on, or the other spools waiting."""
        try:
            self._drain.run(spool, self._stopping)
        except DatabaseFaultError:
            raise
        except SQLAlchemyError as error:
            # Of the spool: the database's errors are faults by then.
            self._note_damage(spool.file, error)
        except Exception as error:  # noqa: BLE001 - see above
            self._complain(spool.file, f"{spool.file} can't be drained", error)
        else:
            self._complaints.pop(spool.file, None)
            self.damaged.discard(spool.file)

    def _note_damage(self, file: Path, error: SQLAlchemyError | OSError) -> None:
        if not (faults.is_damage(error) or is_closed_to_us(file)):  # no space, say
            self._complain(file, f"{file} can't be used", error)
            return
        if file not in self.damaged:
            log.error(
                "a spool is damaged; `paasoo-dlr spool recover` gets out what can be read",
                extra={"file": str(file), "error": faults.description(error)},
            )
        self.damaged.add(file)

    def _find_damaged(self) -> None:
        """Look before the database answers: the callbacks in it are acknowledged."""
        for _ in self._free_spools():
            pass

    def _free_spools(self) -> Iterator[Spool]:
        """Hold each spool that no process has, in turn. Notes those that are damaged."""
        for file in sorted(self._spool_folder.glob("spool-*.db")):
            try:
                spool = Spool.take(file, self._spool_max_bytes)
            except (SQLAlchemyError, PermissionError) as error:
                self._note_damage(file, error)
                continue
            if spool is not None:
                with closing(spool):
                    yield spool

    def _complain(self, about: Path | None, message: str, error: Exception) -> None:
        """Log an error unless it is the last one again, which would come every half second."""
        complaint = f"{message} {error!r}"
        if complaint == self._complaints.get(about):
            return
        self._complaints[about] = complaint
        if isinstance(error, SQLAlchemyError):  # its text, and its trace, may quote a row
            log.error(message, extra={"error": faults.description(error)})
        else:
            log.error(message, exc_info=error)


class Drain:
    """Drains spools: a row goes into the database first, and leaves the spool only then.

    After a crash in between, some rows are recorded twice, which is harmless.
    """

    def __init__(self, committer: Committer, outage: Outage, understand: Understand) -> None:
        self._committer = committer
        self._outage = outage
        self._understand = understand
        self._limit = FIRST_DRAIN_BATCH
        self._passed_over = 0

    def run(self, spool: Spool, stopping: threading.Event) -> None:
        """Drain one spool. Raises `DatabaseFaultError` once the database takes no single row."""
        self._limit, self._passed_over = FIRST_DRAIN_BATCH, 0
        drained, last_id = 0, 0
        started = said_at = time.monotonic()
        while not stopping.is_set() and (rows := spool.after(last_id, self._limit)):
            stored = self._record(rows)
            if stored is None:
                continue  # try again with fewer rows
            last_id = rows[-1].id
            spool.remove(stored)
            drained += len(stored)
            if time.monotonic() - said_at >= PROGRESS_INTERVAL_S:
                said_at = time.monotonic()
                log.info("draining the spool", extra={"drained": drained, "left": len(spool)})
        if drained:
            spool.forget_up_to(last_id, leaving=self._passed_over)
            seconds = round(time.monotonic() - started, 1)
            log.warning(
                "the spool was drained",
                extra={"drained": drained, "left": len(spool), "seconds": seconds},
            )

    def _record(self, rows: Sequence[Spooled]) -> list[int] | None:
        """Commit rows, and return the ids of those stored. None if there were too many at once."""
        try:
            stored = self._commit(rows)
        except DatabaseFaultError:
            # The database may be slow or cold, or a row locked: fewer rows may pass.
            if self._limit > 1:
                self._limit = max(1, self._limit // 8)
                return None
            self._passed_over += 1
            if self._passed_over > MAX_PASSED_OVER:
                raise
            return []
        self._passed_over += len(rows) - len(stored)
        self._limit = min(2 * self._limit, MAX_DRAIN_BATCH)
        self._outage.end()
        return stored

    def _commit(self, rows: Sequence[Spooled]) -> list[int]:
        """Tell reports from refusals, commit both, and return the ids of the rows stored."""
        reports: dict[int, DeliveryReport] = {}
        refusals: dict[int, Refusal] = {}
        for row in rows:
            entry = self._understand(row.query, row.received_at)
            if isinstance(entry, Refusal):
                refusals[row.id] = entry
            else:
                reports[row.id] = entry
        outcomes: list[tuple[int, Outcome]] = []
        if reports:
            committed = self._committer.commit_reports([*reports.values()])
            outcomes += zip(reports, committed, strict=True)
        if refusals:
            committed = self._committer.commit_refusals([*refusals.values()])
            outcomes += zip(refusals, committed, strict=True)
        return [row_id for row_id, outcome in outcomes if outcome is not Outcome.UNAVAILABLE]
