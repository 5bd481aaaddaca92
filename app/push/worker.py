"""Push the changes to each address: read the feed for all of them together, twice a second.

One process owns an address, by a lease. It keeps in memory how far each has come, and writes that
down with the lease: a process that is killed pushes the last half second's changes again.
"""

import asyncio
import logging
import secrets
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.ingest.outage import Outage
from app.push.client import PushClient, tls_context
from app.push.pace import Pace
from app.push.push import Batch, batches, body_of, id_of, note_failure, note_success, position_of
from app.push.signing import signed_headers
from app.query.places import Places
from app.query.schemas import Change
from app.settings import Network
from app.store import changes, faults, webhooks
from app.store.changes import Position
from app.store.engine import Database
from app.store.webhooks import LEASE_S, Try, Webhook
from app.telemetry import Metrics

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LOOK_EVERY_S: Final = 0.5
# While nothing is pushed, leases are renewed so often.
RENEW_EVERY_S: Final = 1.5
# Between two looks, however much waits.
REST_S: Final = 0.05
# Stop pushing so long before leases that can't be renewed run out.
MARGIN_S: Final = 0.5
RELEASE_WITHIN_S: Final = 1.0
# Changes of one look, for all addresses that are equally far.
MAX_CHANGES: Final = 1000
# The history that is kept while it can't be written down.
MAX_TRIES_WAITING: Final = 1000
# Tests that people make, at once.
MAX_TESTS: Final = 20
# To write out more items than these would hold up the event loop, and with it callbacks.
FEW_ITEMS: Final = 20
OUTCOMES: Final = ("taken", "failed")
AFTER_OUR_FAULT_US: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class Unread:
    """The changes after a position, at most `MAX_CHANGES`, as they were at one moment."""

    changes: Sequence[Change]
    is_all: bool  # there were no more
    read_at: int  # microseconds since 1970 UTC

    @property
    def end(self) -> Position:
        return self.changes[-1].position if self.changes else changes.BEGINNING


@dataclass(eq=False, slots=True)
class Address:
    """An address that this process owns, and the task that pushes to it, if there is one."""

    webhook: Webhook
    client: PushClient
    pushing: "asyncio.Task[None] | None" = None

    def is_ready(self, now: int) -> bool:
        return (
            self.pushing is None and not self.webhook.disabled and now >= self.webhook.next_try_at
        )


class PushWorker:
    """The addresses of this process. `_hold`, `_read` and `_release` run on their own thread."""

    def __init__(
        self, database: Database, outage: Outage, networks: Sequence[Network], metrics: Metrics
    ) -> None:
        self._database = database
        self._outage = outage
        self._networks = networks
        self._metrics = metrics
        self._name = secrets.token_hex(16)
        self.tests = Places(MAX_TESTS)
        self._addresses: dict[str, Address] = {}
        self._tries: list[Try] = []  # to be written down
        self._has_news = False
        self._is_behind = asyncio.Event()
        self._pace = Pace()
        self._renewed_at = 0.0
        self._end_of_leases: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, "push")
        self._losing: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._complaint: str | None = None

    def start(self) -> None:
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Hang up, and let another process go on at once."""
        if self._running is None:
            return
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        if self._end_of_leases is not None:
            self._end_of_leases.cancel()
        held = self._held()
        await self._hang_up(list(self._addresses))
        if held and not self._outage.is_on:
            with suppress(SQLAlchemyError, TimeoutError):  # then the leases run out
                releasing = self._in_thread(self._release, held, self._tries)
                await asyncio.wait_for(releasing, RELEASE_WITHIN_S)
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_behind.wait(), LOOK_EVERY_S)
            self._is_behind.clear()
            if not self._outage.is_on:
                await self._look()
            await asyncio.sleep(REST_S)

    async def _look(self) -> None:
        try:
            await self._keep_leases()
            await self._start_pushing()
        except Exception as error:  # noqa: BLE001 - nothing else would push
            complaint = faults.description(error)
            if complaint != self._complaint:  # log it once, not twice a second
                log.error("pushing fails", extra={"error": complaint})  # noqa: TRY400 - drivers quote rows
            self._complaint = complaint
        else:
            self._complaint = None

    async def _keep_leases(self) -> None:
        began = time.monotonic()
        held, tries = self._held(), self._tries
        is_due = bool(held) and (self._has_news or began - self._renewed_at >= RENEW_EVERY_S)
        self._tries, self._has_news = [], False
        try:
            kept = await self._in_thread(self._hold, held, tries, is_due)
        except Exception:
            self._tries = (tries + self._tries)[-MAX_TRIES_WAITING:]
            self._has_news = True
            raise
        if kept is None:
            self._tries = tries + self._tries
            return
        renewed, taken = kept
        await self._hang_up({it.id for it in held} - renewed | {it.id for it in taken})
        for webhook in taken:
            self._addresses[webhook.id] = Address(webhook, PushClient(webhook.url, self._networks))
            for outcome in OUTCOMES:
                self._metrics.pushes.labels(webhook.id, outcome)
        self._renewed_at = began
        self._push_until(began + LEASE_S - MARGIN_S)

    def _held(self) -> list[Webhook]:
        """A copy for another thread: a push that ends meanwhile changes the original."""
        return [replace(address.webhook) for address in self._addresses.values()]

    def _hold(
        self, held: Sequence[Webhook], tries: Sequence[Try], is_due: bool
    ) -> tuple[set[str], list[Webhook]] | None:
        """Renew the leases, write down what happened, and take what nobody pushes to.

        Returns the ids whose leases were renewed, and what was taken; None if nothing was due.
        """
        with self._database.read.connect() as connection:
            mine, can_take = webhooks.look(connection, self._name)
        if not is_due and not can_take and mine.issuperset(it.id for it in held):
            return None
        tls_context()  # made here the first time: it takes long
        with self._database.transaction() as connection:
            renewed = webhooks.renew(connection, self._name, held, tries)
            return renewed, webhooks.take(connection, self._name) if can_take else []

    def _release(self, held: Sequence[Webhook], tries: Sequence[Try]) -> None:
        with self._database.transaction() as connection:
            webhooks.renew(connection, self._name, held, tries)
            webhooks.release(connection, self._name)

    def _push_until(self, deadline: float) -> None:
        """Let go of everything at this time, unless the leases are renewed before."""
        if self._end_of_leases is not None:
            self._end_of_leases.cancel()
        loop = asyncio.get_running_loop()
        wait_s = deadline - time.monotonic()
        self._end_of_leases = loop.call_later(wait_s, self._lose_all)

    def _lose_all(self) -> None:
        self._losing = asyncio.create_task(self._hang_up(list(self._addresses)))

    async def _hang_up(self, ids: Collection[str]) -> None:
        """Let go of these addresses: another process may push to them."""
        lost = [self._addresses.pop(it) for it in ids if it in self._addresses]
        for address in lost:
            if address.pushing is not None:
                address.pushing.cancel()
        for address in lost:
            await address.client.close()

    async def _start_pushing(self) -> None:
        """Give each address that is ready the changes it hasn't got yet."""
        now = time.time_ns() // 1000
        ready = [it for it in self._addresses.values() if it.is_ready(now)]
        if not ready:
            return
        unread = await self._in_thread(self._read, {it.webhook.cursor for it in ready})
        for address in ready:
            found = unread[address.webhook.cursor]
            if found.changes or address.webhook.repeat_until is not None:
                address.pushing = asyncio.create_task(self._push_all(address, found))
            else:
                address.webhook.caught_up_at = found.read_at

    def _read(self, positions: Iterable[Position]) -> dict[Position, Unread]:
        """What comes after each position. Those that are equally far share what is read."""
        found: dict[Position, Unread] = {}
        page = Unread((), is_all=False, read_at=0)
        with self._database.read.connect() as connection:
            for position in sorted(positions):
                if not page.is_all and position >= page.end:
                    page = _page_after(connection, position)
                first = bisect_right(page.changes, position, key=position_of)
                found[position] = replace(page, changes=page.changes[first:])
        return found

    async def _push_all(self, address: Address, unread: Unread) -> None:
        """Push batch by batch, until one fails."""
        webhook = address.webhook
        try:
            for batch in batches(webhook, unread.changes):
                if batch.changes and not await self._push(address, batch):
                    return
                webhook.cursor, webhook.repeat_until = batch.end, None
            if unread.is_all:
                webhook.caught_up_at = unread.read_at
            else:
                self._is_behind.set()
        except Exception:
            log.exception("a webhook is not pushed to, by a fault of ours")
            webhook.next_try_at = time.time_ns() // 1000 + AFTER_OUR_FAULT_US
        finally:
            self._has_news = True
            address.pushing = None

    async def _push(self, address: Address, batch: Batch) -> bool:
        """Push one batch. False if it was not taken."""
        webhook = address.webhook
        await self._pace.turn()
        now = time.time_ns() // 1000
        if len(batch.changes) > FEW_ITEMS:
            body = await run_in_threadpool(body_of, batch.changes, now)
        else:
            body = body_of(batch.changes, now)
        headers = signed_headers(webhook.secret, id_of(webhook, batch), now // 1_000_000, body)
        answer = await address.client.post(headers, body)
        webhook.tries += 1
        outcome = (answer.duration_ms, len(batch.changes), answer.status, answer.error)
        self._tries.append(Try(webhook.id, webhook.tries, now, *outcome))
        self._metrics.pushes.labels(webhook.id, OUTCOMES[answer.error is not None]).inc()
        was_failing_since = webhook.failing_since
        if answer.error is None:
            note_success(webhook, time.time_ns() // 1000)
            if was_failing_since is not None:
                log.warning("a webhook takes pushes again", extra={"webhook": webhook.id})
            return True
        note_failure(webhook, batch, answer, time.time_ns() // 1000)
        about = {"webhook": webhook.id, "error": answer.error}
        if webhook.disabled:
            log.error("a webhook is disabled, as its address is gone", extra=about)
        elif was_failing_since is None:
            log.warning("a webhook takes no pushes", extra=about)
        return False

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, *arguments)


def _page_after(connection: Connection, position: Position) -> Unread:
    read_at = time.time_ns() // 1000
    page = [Change.of(row) for row in changes.after(connection, position, MAX_CHANGES)]
    return Unread(page, len(page) < MAX_CHANGES, read_at)
