"""A client that writes down each report and its answer, and the check of that ledger."""

import asyncio
import math
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import uvloop
from sqlalchemy import URL, select

from app.commands.rebuild import RULES
from app.store.engine import open_database
from app.store.history import REPORT
from app.store.rebuild import rebuild
from app.store.tables import deliveries
from tests.fold import expected_status, shown_status
from tests.recount import KEYS, counted, recount
from tests.service import TOKEN

# Every rank, equal ranks that disagree, and reports that differ only in details.
VARIANTS: tuple[dict[str, str], ...] = (
    {"status": "0", "statuscode": "delivered", "network": "52099"},
    {"status": "0", "statuscode": "accepted"},
    {"status": "0", "statuscode": "failed"},
    {"status": "401"},
    {"status": "404", "statuscode": "Unroutable"},
    {"status": "404", "statuscode": "failed", "errcode": "2"},
    {"status": "777"},
)
_VARIANTS_AS_QUERIES = tuple(map(urlencode, VARIANTS))
FRESH_SHARE = 0.7  # the others are about a recent message


class Ledger:
    """The reports as numbers: message number times the number of variants, plus the variant.

    They are random, or those that are given. `padding` makes each longer by so many bytes.
    """

    def __init__(
        self, seed: int, reports: Iterator[int] | None = None, *, padding: int = 0
    ) -> None:
        self.seed = seed
        self._padding = f"&padding={'x' * padding}" if padding else ""
        self.reports = reports or self._random_reports()
        self.acknowledged: set[int] = set()
        self.answers: Counter[int] = Counter()
        self.unanswered = 0

    def _random_reports(self) -> Iterator[int]:
        generator, messages = random.Random(self.seed), 0
        while True:
            if messages == 0 or generator.random() < FRESH_SHARE:
                messages += 1
                message = messages - 1
            else:
                message = generator.randrange(max(0, messages - 500), messages)
            yield message * len(VARIANTS) + generator.randrange(len(VARIANTS))

    def note(self, report: int, status: int) -> None:
        self.answers[status] += 1
        if status == 200:
            self.acknowledged.add(report)

    def has_answers(self, count: int) -> Callable[[], bool]:
        """A predicate that holds once so many reports are answered."""
        return lambda: self.answers.total() >= count

    def fields(self, report: int) -> dict[str, str]:
        """The parameters that tell a report from every other."""
        message, variant = divmod(report, len(VARIANTS))
        message_id, recipient = self._delivery(message)
        return {"messageid": message_id, "to": recipient, **VARIANTS[variant]}

    def query(self, report: int) -> str:
        """The same as PaaSoo sends it."""
        message, variant = divmod(report, len(VARIANTS))
        message_id, recipient = self._delivery(message)
        rest = _VARIANTS_AS_QUERIES[variant] + self._padding
        return f"type=dlr&messageid={message_id}&to={recipient}&{rest}"

    def _delivery(self, message: int) -> tuple[str, str]:
        return f"{self.seed:x}-{message}", f"65888{message % 100_000:05}"

    def lost(self, database_url: URL) -> set[int]:
        """The acknowledged reports that are not in the history exactly once."""
        stored: Counter[tuple[str | None, ...]] = Counter()
        database = open_database(database_url, hurried=False)
        with database.read.connect() as connection:
            for row in connection.execute(select(*REPORT)):
                status = None if row.status is None else str(row.status)
                stored[
                    row.message_id, row.recipient, status, row.statuscode, row.errcode, row.mcc_mnc
                ] += 1
        database.close()
        names = ("messageid", "to", "status", "statuscode", "errcode", "network")
        return {
            report
            for report in self.acknowledged
            if stored[tuple(self.fields(report).get(name) for name in names)] != 1
        }

    def check(self, database_url: URL, perhaps_lost: Collection[int] = ()) -> None:
        """Raise `AssertionError`, with the seed, if a promise was broken.

        `perhaps_lost` are reports that the database itself may have lost.
        """
        history: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
        database = open_database(database_url, hurried=False)
        with database.read.connect() as connection:
            for row in connection.execute(select(*REPORT)):
                history[row.message_id, row.recipient].append(row)
            statuses = {
                (row.message_id, row.recipient): shown_status(row)
                for row in connection.execute(select(deliveries))
            }
            miscounted = [
                keys
                for keys in (KEYS, ("state", "hour"))
                if counted(connection, keys) != recount(connection, keys)
            ]
        rebuilt = list(rebuild(database, RULES, dry_run=True))
        database.close()
        changed = [change for batch in rebuilt for change in batch.corrections]
        lost = [self.fields(report) for report in self.lost(database_url) - {*perhaps_lost}]
        wrong = [
            key
            for key in history.keys() | statuses.keys()
            if key not in history or statuses.get(key) != expected_status(history[key])
        ]
        assert not lost, f"seed {self.seed}: {len(lost)} acknowledged and lost, as {lost[:3]}"
        assert not wrong, f"seed {self.seed}: {len(wrong)} statuses are not the fold: {wrong[:3]}"
        assert not miscounted, f"seed {self.seed}: statistics are not a recount, by {miscounted}"
        assert not changed, f"seed {self.seed}: a rebuild would change {changed[:3]}"
        assert sum(batch.deliveries for batch in rebuilt) == len(statuses)
        assert sum(batch.reports for batch in rebuilt) == 0
        assert self.answers.keys() <= {200, 503}, f"seed {self.seed}: {self.answers}"


class Load(threading.Thread):
    """Sends the reports of a ledger over some connections, through every fault, until stopped.

    Each connection sends its next report after an answer, but all together at most `a_second`.
    """

    def __init__(
        self,
        ledger: Ledger,
        ports: Sequence[int],
        connections: int = 16,
        a_second: float = math.inf,
    ) -> None:
        super().__init__(name="load", daemon=True)
        self.ledger = ledger
        self._ports = ports
        self._connections = connections
        self._interval_s = 1 / a_second
        self._next_at = 0.0
        self._stopping = False

    def run(self) -> None:
        uvloop.run(self._run())

    def stop(self) -> None:
        self._stopping = True
        self.join()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as workers:
            for number in range(self._connections):
                workers.create_task(self._work(self._ports[number % len(self._ports)]))

    async def _work(self, port: int) -> None:
        while not self._stopping:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)  # the service was killed, and is not back yet
                continue
            try:
                while not self._stopping and await self._send(reader, writer):
                    await self._take_turn()
            except (OSError, EOFError):
                self.ledger.unanswered += 1
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _take_turn(self) -> None:
        if self._interval_s:
            now = time.monotonic()
            self._next_at = max(self._next_at + self._interval_s, now)
            await asyncio.sleep(self._next_at - now)

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send one report. False if its answer closes the connection."""
        report = next(self.ledger.reports)
        path = f"/callback/paasoo/{TOKEN}?{self.ledger.query(report)}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
        await reader.readexactly(length)
        self.ledger.note(report, int(head[9:12]))
        if head[9:12] == b"503":
            await asyncio.sleep(0.02)  # 503 asks for a pause
        return b"connection: close" not in head
