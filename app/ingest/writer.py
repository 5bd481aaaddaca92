"""The only writer: gather what waits, commit it once, then release the callers.

A batch is whatever arrived during the previous commit and its answers: an idle service answers one
report in the time of one commit, a busy one shares each commit among many. There is no timer. With
PostgreSQL a second batch leaves once as many reports wait as are under way: one is read and parsed
while the other is committed.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.ingest.commit import Committer, Outcome
from app.ingest.outage import Outage
from app.reports import DeliveryReport, Refusal
from app.store import faults
from app.store.direct import OPEN_EVERY_S, Direct
from app.store.faults import DatabaseFaultError
from app.store.spool import Spool
from app.telemetry import Metrics

log = logging.getLogger(__name__)

# Of reports, and of refusals. All callers in a batch wait for its commit, so it must not take long.
MAX_BATCH: Final = 1000
# Connections of the loop's own. A third brings nothing more.
LANES: Final = 2

Tell = Callable[[Outcome], object]


@dataclass(eq=False, slots=True)
class Batch:
    """Reports and refusals that go to disk together, and beside each list its callers to tell."""

    reports: list[DeliveryReport] = field(default_factory=list)
    tell_of_reports: list[Tell] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    tell_of_refusals: list[Tell] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.reports) + len(self.refusals)

    def cut(self, limit: int) -> "Batch":
        """Keep the first of each kind, `limit` at most, and return the rest."""
        rest = Batch(
            self.reports[limit:],
            self.tell_of_reports[limit:],
            self.refusals[limit:],
            self.tell_of_refusals[limit:],
        )
        for entries in (self.reports, self.tell_of_reports, self.refusals, self.tell_of_refusals):
            del entries[limit:]
        return rest

    def put_back_refusals(self, waiting: "Batch") -> None:
        """Move them to the front of those that wait."""
        waiting.refusals[:0], waiting.tell_of_refusals[:0] = self.refusals, self.tell_of_refusals
        self.refusals, self.tell_of_refusals = [], []


Outcomes = tuple[list[Outcome], list[Outcome]]  # of a batch's reports, and of its refusals
Handover = tuple[asyncio.AbstractEventLoop, Batch] | None  # None ends the thread


class QueueFullError(Exception):
    """The queue is full: refuse now, rather than fill the memory."""


class Writer:
    """The queue, on the event loop, and the ways of its batches to the disk.

    The usual batch goes to PostgreSQL from the loop, each other one by a thread. All but the last
    methods run on the loop, so nothing here needs a lock.
    """

    def __init__(
        self,
        committer: Committer,
        outage: Outage,
        spool: Spool | None,
        metrics: Metrics,
        limit: int,
    ) -> None:
        self._committer = committer
        lanes = 0 if committer.database.is_embedded else LANES
        self._lanes = [Direct(committer.database) for _ in range(lanes)]
        self._outage = outage
        self._spool = spool
        self._metrics = metrics
        self._limit = limit
        # Reports and refusals that wait, including those under way.
        self.queued = 0
        self._waiting = Batch()
        self._under_way: set[Batch] = set()
        self._with_thread = 0
        self._is_starting = False
        self._idle = asyncio.Event()
        self._idle.set()
        # Called on the loop after each commit, while a reader waits for changes.
        self.after_commit: Callable[[], None] | None = None
        # A daemon thread, so that a hanging database doesn't keep the process from ending.
        self._handed_over: SimpleQueue[Handover] = SimpleQueue()
        self._thread = threading.Thread(target=self._store_batches, name="writer", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        return self.queued >= self._limit

    def admit_report(self, report: DeliveryReport, tell: Tell) -> None:
        """Take a report; `tell` is called once, later, with its fate.

        Raises `QueueFullError`. An admitted report is stored even if its caller has gone.
        """
        self._require_room()
        self._waiting.reports.append(report)
        self._waiting.tell_of_reports.append(tell)
        self._count_in()

    def admit_refusal(self, refusal: Refusal, tell: Tell) -> None:
        """As `admit_report`, for the quarantine."""
        self._require_room()
        self._waiting.refusals.append(refusal)
        self._waiting.tell_of_refusals.append(tell)
        self._count_in()

    def _require_room(self) -> None:
        if self.is_full:
            raise QueueFullError

    def _count_in(self) -> None:
        self.queued += 1
        self._idle.clear()
        self._start_if_due()

    def _start_if_due(self) -> None:
        """Start a batch after this turn of the loop, so that all its arrivals share the commit."""
        if not self._is_starting and (not self._under_way or self._may_go_beside()):
            self._is_starting = True
            asyncio.get_running_loop().call_soon(self._start_commit)

    def _may_go_beside(self) -> bool:
        """True if a way is free beside a batch that is under way, and worth its fixed cost."""
        if not self._with_thread and (self._outage.is_on or self._waiting.refusals):
            return True
        under_way = self.queued - len(self._waiting)
        is_worth_it = len(self._waiting.reports) >= max(under_way, 1)
        may_send = is_worth_it and not self._outage.is_on
        return may_send and any(lane.is_free for lane in self._lanes)

    async def stop(self, timeout_s: float) -> None:
        """Wait until every admitted report is answered. Give up on the rest after `timeout_s`."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            self.give_up()
        self._handed_over.put(None)
        if self._lanes:
            # The thread may be opening one.
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, timeout_s)
        for lane in self._lanes:
            lane.close()

    def give_up(self) -> None:
        """Tell all callers that still wait that their reports are unavailable."""
        abandoned = (*self._under_way, self._waiting)
        self._under_way, self._waiting = set(), Batch()
        if self.queued:
            log.error("gave up waiting for the database", extra={"rows": self.queued})
        self.queued = 0
        self._idle.set()
        for batch in abandoned:
            _tell(batch, _all_unavailable(batch))

    def _start_commit(self) -> None:
        self._is_starting = False
        batch = self._waiting
        self._waiting = batch.cut(MAX_BATCH)
        if self._with_thread:  # they wait for the thread; the reports need not
            batch.put_back_refusals(self._waiting)
        if not batch:  # given up since
            return
        self._under_way.add(batch)
        try:
            is_sent = self._is_sent_directly(batch)
        except Exception:
            log.exception("the writer failed")
            is_sent = False
        if not is_sent:
            self._hand_over(batch)

    def _is_sent_directly(self, batch: Batch) -> bool:
        """Commit a batch without the thread, if the usual will do. False if it won't."""
        for each in self._lanes:
            each.let_go_if_old()
        lane = next((each for each in self._lanes if each.is_free), None)
        if lane is None or self._outage.is_on or batch.refusals:
            return False
        started, number = time.perf_counter(), self._outage.number

        def committed() -> None:
            try:
                self._outage.end(number)  # none that began since, with the batch beside it
                self._committer.count_committed(batch.reports, started)
            finally:
                self._finish_commit(batch, ([Outcome.STORED] * len(batch.reports), []))

        def failed(error: OperationalError | None) -> None:
            if error is not None:
                fault = self._committer.fault_of(error)
                if self._outage.number == number:  # else the batch beside it has told of this one
                    self._outage.begin(str(fault), fault.kind)
            self._hand_over(batch)

        return lane.take(batch.reports, committed, failed)

    def _hand_over(self, batch: Batch) -> None:
        self._with_thread += 1
        self._handed_over.put((asyncio.get_running_loop(), batch))

    def _take_back(self, batch: Batch, outcomes: Outcomes) -> None:
        self._with_thread -= 1
        self._finish_commit(batch, outcomes)

    def _finish_commit(self, batch: Batch, outcomes: Outcomes) -> None:
        if batch in self._under_way:  # it was not given up
            self._under_way.remove(batch)
            self.queued -= len(batch)
            _tell(batch, outcomes)
        if self._waiting:
            self._start_if_due()
        elif not self.queued:
            self._idle.set()
        if self.after_commit is not None:
            self.after_commit()

    # From here on, everything runs on the writer's thread.

    def _store_batches(self) -> None:
        while True:
            # Wake for a lane that was cut, too: the other one may leave nothing to this thread.
            with suppress(Empty):
                handover = self._handed_over.get(timeout=OPEN_EVERY_S if self._lanes else None)
                if handover is None:
                    return
                self._store_batch(*handover)
            self._open_lanes()

    def _store_batch(self, loop: asyncio.AbstractEventLoop, batch: Batch) -> None:
        try:
            outcomes = self._store_reports(batch.reports), self._store_refusals(batch.refusals)
        except Exception:
            log.exception("the writer failed")
            outcomes = _all_unavailable(batch)
        with suppress(RuntimeError):  # the loop has ended, and no caller waits any more
            loop.call_soon_threadsafe(self._take_back, batch, outcomes)

    def _open_lanes(self) -> None:
        if self._outage.is_on:
            return
        try:
            for lane in self._lanes:
                if not lane.open():
                    break  # a second one would only keep the thread for longer
        except Exception:
            log.exception("the writer failed")

    def _store_reports(self, reports: list[DeliveryReport]) -> list[Outcome]:
        """Put reports into the database or, while it takes none, into the spool."""
        if reports and not self._outage.is_on:
            number = self._outage.number
            try:
                outcomes = self._committer.commit_reports(reports)
            except DatabaseFaultError as error:
                self._outage.begin(str(error), error.kind)
            else:
                self._outage.end(number)
                return outcomes
        return self._shelter(reports)

    def _store_refusals(self, refusals: list[Refusal]) -> list[Outcome]:
        """As `_store_reports`, but a fault doesn't begin an outage: only reports decide that."""
        if refusals and not self._outage.is_on:
            try:
                return self._committer.commit_refusals(refusals)
            except DatabaseFaultError as error:
                log.error("the quarantine takes nothing", extra={"error": str(error)})  # noqa: TRY400
        return self._shelter(refusals)

    def _shelter(self, entries: Sequence[DeliveryReport] | Sequence[Refusal]) -> list[Outcome]:
        """Put entries into the spool, if there is one."""
        if not entries:
            return []
        if self._spool is None:
            return [Outcome.UNAVAILABLE] * len(entries)
        try:
            self._spool.put([(entry.received_at, entry.spooled) for entry in entries])
        except SQLAlchemyError as error:
            self._outage.spool_fails(faults.description(error), len(entries))
            return [Outcome.UNAVAILABLE] * len(entries)
        self._outage.spool_works()
        self._metrics.spooled.inc(len(entries))
        return [Outcome.STORED] * len(entries)


def _all_unavailable(batch: Batch) -> Outcomes:
    unavailable = [Outcome.UNAVAILABLE]
    return unavailable * len(batch.reports), unavailable * len(batch.refusals)


def _tell(batch: Batch, outcomes: Outcomes) -> None:
    of_reports, of_refusals = outcomes
    _tell_each(batch.tell_of_reports, of_reports)
    _tell_each(batch.tell_of_refusals, of_refusals)


def _tell_each(callers: list[Tell], outcomes: list[Outcome]) -> None:
    for tell, outcome in zip(callers, outcomes, strict=True):
        try:
            tell(outcome)
        except Exception:
            log.exception("an answer failed")  # go on: the others must get theirs
