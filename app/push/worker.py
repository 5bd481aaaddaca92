"""Push the changes to each address: read the feed for all of them together, twice a second.

One process owns an address, by a lease. It keeps in memory how far each has come, and writes that
down with the lease: after a kill, another process pushes again what was pushed since.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from app.ingest.outage import Outage
from app.push import feed
from app.push.client import Answer, PushClient, tls_context
from app.push.feed import Unread
from app.push.pace import Pace
from app.push.push import (
    Batch,
    batches,
    id_of,
    is_due,
    note_failure,
    note_success,
    signed_push,
)
from app.query.places import Places
from app.settings import Network
from app.store import faults, webhooks
from app.store.engine import Database
from app.store.webhooks import LEASE_S, Try, Webhook
from app.telemetry import Metrics, RepeatedFault

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LOOK_EVERY_S: Final = 0.5
# While nothing is pushed, leases are renewed so often. SQLite is for one process, and needs none:
# there it is only written down, for the metrics, that an address still has everything.
RENEW_EVERY_S: Final = 1.5
WRITE_DOWN_EVERY_S: Final = 30.0
# Between two looks, however much waits.
REST_S: Final = 0.05
# Before leases that can't be renewed run out, pushing stops.
MARGIN_S: Final = 0.5
RELEASE_WITHIN_S: Final = 1.5
# The history that is kept while it can't be written down.
MAX_TRIES_WAITING: Final = 1000
# Tests that people make, at once.
MAX_TESTS: Final = 20
# To write out more items than these would hold up the event loop, and with it callbacks.
FEW_ITEMS: Final = 20


@dataclass(eq=False, slots=True)
class Address:
    """An address that this process owns, and the task that pushes to it, if there is one."""

    webhook: Webhook
    client: PushClient
    pushing: "asyncio.Task[None] | None" = None
    read_at: float = 0.0  # of the monotonic clock
    has_news: bool = False  # to be written down


class PushWorker:
    """The addresses of this process. `_hold` and `_release` run on a thread."""

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
        self._is_behind = asyncio.Event()
        self._pace = Pace()
        self._renewed_at = 0.0
        self._end_of_leases: asyncio.TimerHandle | None = None
        # One looks at the database, the other writes out bodies.
        self._threads = ThreadPoolExecutor(2, "push")
        self._closing: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        self._fault = RepeatedFault(log, "pushing fails", "pushing succeeds again")

    def start(self) -> None:
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> bool:
        """Hang up, and let another process go on at once. False if it still uses the database."""
        if self._running is None:
            return True
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        held = [replace(address.webhook) for address in self._addresses.values()]
        self._lose_all()
        if held and not self._outage.is_on:
            with suppress(Exception):  # then the leases run out
                releasing = self._in_thread(self._release, held, self._tries)
                await asyncio.wait_for(releasing, RELEASE_WITHIN_S)
        ending = asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ending), RELEASE_WITHIN_S)
        return ending.done()

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_behind.wait(), LOOK_EVERY_S)
            self._is_behind.clear()
            # With a server, an outage is on from the start until the feed is settled.
            if not self._outage.is_on:
                await self._look()
            await asyncio.sleep(REST_S)

    async def _look(self) -> None:
        try:
            await self._keep_leases()
            await self._start_pushing()
        except Exception as error:  # noqa: BLE001 - nothing else would push
            self._fault.note(faults.description(error))
        else:
            self._fault.end()

    async def _keep_leases(self) -> None:
        """Renew the leases, write down what happened, and take what nobody pushes to."""
        began = time.monotonic()
        every_s = WRITE_DOWN_EVERY_S if self._database.is_embedded else RENEW_EVERY_S
        is_time = began - self._renewed_at >= every_s
        owned = [*self._addresses.values()]
        changed = [it for it in owned if is_time or it.has_news]
        for address in changed:
            address.has_news = False
        # Copies: a push that ends meanwhile changes the originals.
        held = [replace(address.webhook) for address in changed]
        tries, self._tries = self._tries, []
        try:
            known = [it.webhook.id for it in owned]
            mine, taken = await self._in_thread(self._hold, known, held, tries)
        except Exception:
            for address in changed:
                address.has_news = True
            self._tries = (tries + self._tries)[-MAX_TRIES_WAITING:]
            raise
        self._hang_up([it for it in owned if it.webhook.id not in mine])
        for webhook in taken:
            client = PushClient(webhook.url, self._networks)
            self._addresses[webhook.id] = Address(webhook, client)
        if taken:
            self._is_behind.set()  # there may be more
        if is_time:
            self._renewed_at = began
        # Even now it may be over: the process may have stood still since it took what is new.
        self._push_until(self._renewed_at + LEASE_S - MARGIN_S)

    def _hold(
        self, known: Collection[str], changed: Sequence[Webhook], tries: Sequence[Try]
    ) -> tuple[set[str], list[Webhook]]:
        """Write down what changed, which renews the leases, and take what nobody pushes to.

        Returns the ids of those known that this process still owns, and what it owns anew.
        """
        with self._database.read.connect() as connection:
            mine, can_take = webhooks.look(connection, self._name, known)
        taken: list[Webhook] = []
        if changed or can_take:
            tls_context()  # made here the first time: it takes long
            with self._database.transaction() as connection:
                webhooks.renew(connection, self._name, changed, tries)
                if can_take:
                    taken = webhooks.take(connection, self._name, known)
            with self._database.read.connect() as connection:
                mine, _ = webhooks.look(connection, self._name, known)
        return mine - {it.id for it in taken}, taken

    def _release(self, held: Sequence[Webhook], tries: Sequence[Try]) -> None:
        with self._database.transaction() as connection:
            webhooks.renew(connection, self._name, held, tries)
            webhooks.release(connection, self._name)

    def _push_until(self, deadline: float) -> None:
        """Let go of everything at this time, unless the leases are renewed before."""
        if self._end_of_leases is not None:
            self._end_of_leases.cancel()
        if not self._database.is_embedded:
            wait_s = deadline - time.monotonic()
            loop = asyncio.get_running_loop()
            self._end_of_leases = loop.call_later(wait_s, self._lose_all)

    def _lose_all(self) -> None:
        if self._end_of_leases is not None:
            self._end_of_leases.cancel()
        self._hang_up([*self._addresses.values()])

    def _hang_up(self, lost: Collection[Address]) -> None:
        """Let go of these addresses at once: another process may push to them."""
        for address in lost:
            self._addresses.pop(address.webhook.id, None)
            if address.pushing is not None:
                address.pushing.cancel()
            closing = asyncio.create_task(address.client.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _start_pushing(self) -> None:
        """Give addresses that are ready the changes they haven't got yet."""
        now = time.time_ns() // 1000
        idle = [it for it in self._addresses.values() if it.pushing is None]
        ready = [it for it in idle if is_due(it.webhook, now)]
        if not ready:
            return
        ready.sort(key=lambda it: it.read_at)
        unread = await self._in_thread(feed.unread_of, self._database, [it.webhook for it in ready])
        for address in ready:
            webhook = address.webhook
            if self._addresses.get(webhook.id) is not address:
                continue  # lost meanwhile
            found = unread.get(webhook.id)
            if found is None:
                self._is_behind.set()
                continue
            address.read_at = time.monotonic()
            if found.changes or webhook.repeat_until is not None:
                address.pushing = asyncio.create_task(self._push_all(address, found))
            elif found.caught_up_at is not None:
                webhook.caught_up_at = found.caught_up_at

    async def _push_all(self, address: Address, unread: Unread) -> None:
        """Push batch by batch, until one fails."""
        webhook = address.webhook
        try:
            for batch in batches(webhook, unread.changes):
                if batch.changes and not await self._push(address, batch, unread.history):
                    return
                webhook.cursor, webhook.repeat_until = batch.end, None
                address.has_news = True
            if unread.caught_up_at is not None:
                webhook.caught_up_at = unread.caught_up_at
            if not unread.is_all:
                self._is_behind.set()
        except Exception as error:
            log.exception("a webhook is not pushed to, by a fault of ours")
            batch = Batch((), webhook.repeat_until or webhook.cursor)
            answer = Answer(None, f"a fault of ours: {type(error).__name__}", 0)
            note_failure(webhook, batch, answer, time.time_ns() // 1000)
        finally:
            address.has_news = True
            address.pushing = None

    async def _push(self, address: Address, batch: Batch, history: str | None) -> bool:
        """Push one batch. False if it was not taken."""
        webhook = address.webhook
        await self._pace.turn()
        now = time.time_ns() // 1000
        push = (webhook.secret, id_of(webhook, batch, history), batch.changes, now)
        if len(batch.changes) > FEW_ITEMS:
            headers, body = await self._in_thread(signed_push, *push)
        else:
            headers, body = signed_push(*push)
        answer = await address.client.post(headers, body)
        self._note(webhook, batch, answer, now)
        return answer.error is None

    def _note(self, webhook: Webhook, batch: Batch, answer: Answer, began: int) -> None:
        """Note an outcome. The log has the first failure, and the first success after it."""
        webhook.tries += 1
        outcome = (answer.duration_ms, len(batch.changes), answer.status, answer.error)
        self._tries.append(Try(webhook.id, webhook.tries, began, *outcome))
        self._metrics.webhooks.count(webhook.id, is_taken=answer.error is None)
        was_failing = webhook.failing_since is not None
        now = time.time_ns() // 1000
        if answer.error is None:
            note_success(webhook, now)
            if was_failing:
                log.warning("a webhook takes pushes again", extra={"webhook": webhook.id})
            return
        note_failure(webhook, batch, answer, now)
        about = {"webhook": webhook.id, "error": answer.error}
        if webhook.disabled:
            log.error("a webhook is disabled, as its address is gone", extra=about)
        elif not was_failing:
            log.warning("a webhook takes no pushes", extra=about)

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, *arguments)
