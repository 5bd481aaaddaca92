"""Ask about messages whose reports are missing, when they are due.

One task of the event loop. While PaaSoo can't be reached, it asks ever more seldom.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.ingest.outage import Outage
from app.pulling.answer import NotUnderstoodError
from app.pulling.asking import Asking, NotAnsweredError, NotStoredError, RefusedError, ask
from app.sending.problems import ProviderUnreachableError
from app.store import faults, pulls
from app.store.pulls import Place, Question

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.5
FIRST_PAUSE_S: Final = 1.0
MAX_AT_ONCE: Final = 20
MAX_PAUSE_S: Final = 60.0
# Before an answer that could not be stored is asked for again.
NOT_STORED_PAUSE_S: Final = 10.0
# Deliveries of a page, when the messages that were sent before are added to the schedule.
SEEDS: Final = 500
SEED_PAUSE_S: Final = 0.05
SEED_EVERY_S: Final = 3600
# Between the last question, if it got no answer, and one more, until the message expires.
LAST_AGAIN_S: Final = 60.0


class Backoff:
    """The pause while PaaSoo can't be reached: twice as long each time, none after an answer."""

    def __init__(self) -> None:
        self.pause_s = 0.0
        self._until = 0.0

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._until

    def fail(self) -> None:
        if not self.is_over:  # of several questions at once, one counts
            return
        self.pause_s = min(2 * self.pause_s or FIRST_PAUSE_S, MAX_PAUSE_S)
        self._until = time.monotonic() + self.pause_s * random.uniform(0.75, 1)  # noqa: S311
        if self.pause_s == 2 * FIRST_PAUSE_S:  # one failure alone is no news
            log.warning("PaaSoo doesn't answer questions for reports; it is asked more seldom")

    def succeed(self) -> None:
        if self.pause_s > FIRST_PAUSE_S:
            log.warning("PaaSoo answers questions again")
        self.pause_s = self._until = 0.0


class PullWorker:
    """Claims the questions that are due, and asks each at its turn."""

    def __init__(self, asking: Asking, outage: Outage) -> None:
        self._asking = asking
        self._outage = outage
        self._backoff = Backoff()
        self._under_way: set[asyncio.Task[None]] = set()
        self._complaints: set[str] = set()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Put back what was claimed and not asked yet, and hang up on the rest."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        try:
            seeded_at = float(-SEED_EVERY_S)
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                if self._outage.is_on:
                    continue
                # Again and again: a replica without these settings may send messages, too.
                is_due = time.monotonic() - seeded_at >= SEED_EVERY_S
                if is_due and await self._succeeds(self._add_earlier):
                    seeded_at = time.monotonic()
                # After a failure, one question shows if PaaSoo is back.
                limit = 1 if self._backoff.pause_s else MAX_AT_ONCE
                free = limit - len(self._under_way)
                if free > 0 and self._backoff.is_over:
                    await self._succeeds(self._ask_some, free)
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _succeeds(self, work: Callable[..., Awaitable[None]], *arguments: int) -> bool:
        """False if it fails, which is logged once. The next time may succeed."""
        try:
            await work(*arguments)
        except Exception as error:  # noqa: BLE001 - nothing else would ask
            self._complain("asking PaaSoo for reports fails", faults.description(error))
            return False
        return True

    def _complain(self, message: str, error: str) -> None:
        complaint = f"{message}: {error}"
        if complaint not in self._complaints:
            self._complaints.add(complaint)
            log.error(message, extra={"error": error})

    async def _add_earlier(self) -> None:
        """Ask about messages, too, that were sent before asking was set up."""
        place: Place | None = pulls.BEFORE_ALL
        while place is not None:
            place = await run_in_threadpool(self._add_page, place)
            await asyncio.sleep(SEED_PAUSE_S)

    def _add_page(self, place: Place) -> Place | None:
        database, schedule = self._asking.database, self._asking.schedule
        now = time.time_ns() // 1000
        with database.read.connect() as connection:
            found = pulls.open_after(connection, place, schedule.sent_after(now), SEEDS)
        if not found:
            return None
        with database.transaction() as connection:
            sent_at = {message_id: at for at, message_id, _ in reversed(found)}
            pulls.add(connection, sent_at, schedule, now)
        return found[-1]

    async def _ask_some(self, limit: int) -> None:
        claiming = asyncio.ensure_future(run_in_threadpool(self._claim, limit))
        try:
            claimed = await asyncio.shield(claiming)
        except asyncio.CancelledError:  # its thread goes on, and commits
            for question, _ in await claiming:
                await self._put_back(question, 0)
            raise
        for question, wait_s in claimed:
            task = asyncio.create_task(self._ask(question, wait_s))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    def _claim(self, limit: int) -> list[tuple[Question, float]]:
        """Claim questions, each with the seconds until its turn."""
        asking = self._asking
        with asking.database.read.connect() as connection:
            if not pulls.count_due(connection, 1):
                return []
        forgotten = pulls.MAX_FORGOTTEN
        while forgotten == pulls.MAX_FORGOTTEN:
            with asking.database.transaction() as connection:
                forgotten = pulls.forget_closed(connection, asking.schedule)
        with asking.database.read.connect() as connection:
            due = pulls.count_due(connection, limit)
        with asking.database.statement() as connection:
            waits_s = pulls.take_turns(connection, asking.a_second, due) if due else []
        with asking.database.transaction() as connection:
            questions = pulls.claim(connection, asking.schedule, len(waits_s)) if waits_s else []
        return list(zip(questions, waits_s, strict=False))

    async def _ask(self, question: Question, wait_s: float) -> None:
        """Ask one question at its turn. Whatever happens, the message is asked about again."""
        try:
            await asyncio.sleep(wait_s)
        except asyncio.CancelledError:
            await asyncio.shield(self._put_back(question, 0))
            raise
        try:
            await ask(self._asking, question.message_id)
        except ProviderUnreachableError:
            self._backoff.fail()
            await self._put_back(question, self._backoff.pause_s)
        except (NotAnsweredError, RefusedError, NotUnderstoodError) as error:
            await self._go_on_after(question, error)
        except (NotStoredError, SQLAlchemyError):
            await self._put_back(question, NOT_STORED_PAUSE_S)
        except Exception as error:  # noqa: BLE001 - the next question comes by the schedule
            self._complain("asking PaaSoo about a message fails", faults.description(error))
        else:
            self._backoff.succeed()

    async def _go_on_after(self, question: Question, error: Exception) -> None:
        """Ask again by the schedule, or sooner if PaaSoo said so, or the schedule has ended."""
        if isinstance(error, NotUnderstoodError):
            self._complain("an answer to a question is not understood", "more are only counted")
        else:
            self._backoff.fail()
        if isinstance(error, RefusedError):
            self._complain("PaaSoo refuses a question for reports", str(error))
            if not error.is_taken:
                await self._put_back(question, self._backoff.pause_s)
                return
        if question.is_last:
            await self._put_back(question, LAST_AGAIN_S)

    async def _put_back(self, question: Question, wait_s: float) -> None:
        def put_back() -> None:
            with self._asking.database.transaction() as connection:
                pulls.put_back(connection, question, int(wait_s * 1_000_000))

        with suppress(SQLAlchemyError):  # then the next question comes by its schedule
            await run_in_threadpool(put_back)
