"""Sends reports to the callback address, at a rate and over a bounded number of connections."""

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import httpx2

from simulator.ledger import Ledger
from simulator.options import Calls
from simulator.traffic import Delivery, PlannedReport

# A run that falls behind its rate makes up for this much: for the clock's grain, not for an outage.
CATCH_UP_S: Final = 0.1
# The wait before a retry without a `Retry-After`.
RETRY_AFTER_S: Final = 1.0
MAX_RETRY_AFTER_S: Final = 30.0
# Characters of an answer's body that the ledger keeps.
MAX_BODY: Final = 500

NO_ANSWER: Final = "no answer"


@dataclass(slots=True)
class Tally:
    """The figures of a run so far."""

    messages: int = 0
    deliveries: int = 0
    refused_sends: int = 0
    outstanding: int = 0  # reports to come or under way
    waiting: int = 0  # those among them that are due and wait for a connection
    answers: Counter[str] = field(default_factory=Counter)  # by HTTP status, or `NO_ANSWER`
    questions: Counter[str] = field(default_factory=Counter)  # by the kind of their answer
    given_up: int = 0  # reports that the run was stopped before
    _lately: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=20))

    def rate(self) -> float:
        """Answers a second, over the last calls of this method."""
        self._lately.append((time.monotonic(), self.answers.total()))
        (began, before), (now, after) = self._lately[0], self._lately[-1]
        return (after - before) / (now - began) if now > began else 0.0


class Stopping:
    """True once the run was told to stop, which also ends every sleep."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()

    async def sleep(self, seconds: float | None) -> None:
        """Sleep until the time is over (None: never) or the run is told to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass


class Pace:
    """Turns at a rate. Time lost by more than `CATCH_UP_S` is not made up for."""

    def __init__(self, rate: float, stopping: Stopping) -> None:
        self._interval_s = 1 / rate
        self._stopping = stopping
        self._next = time.monotonic()

    async def turn(self, cost: int = 1) -> None:
        """Wait for a turn; the next one comes `cost` intervals later."""
        mine = max(self._next, time.monotonic() - CATCH_UP_S)
        self._next = mine + cost * self._interval_s
        wait_s = mine - time.monotonic()
        if wait_s > 0:
            await self._stopping.sleep(wait_s)
        else:
            await asyncio.sleep(0)  # a run behind its rate must not keep the loop to itself


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a call of the callback address. Without one, `status` is None."""

    status: int | None
    body: str
    retry_after_s: float = RETRY_AFTER_S

    @property
    def asks_for_more(self) -> bool:
        return self.status is None or self.status == 503


class Reporter:
    """Calls the reports on deliveries back, and writes down each answer."""

    def __init__(self, calls: Calls, ledger: Ledger, tally: Tally, stopping: Stopping) -> None:
        parts = urlsplit(calls.callback)
        self._url = parts._replace(query="").geturl()
        separator = f"?{parts.query}&" if parts.query else "?"
        self._target = f"{parts.path or '/'}{separator}"
        self._client = httpx2.AsyncClient(
            limits=httpx2.Limits(
                max_connections=calls.connections, max_keepalive_connections=calls.connections
            ),
            timeout=calls.timeout_s,
            trust_env=False,
        )
        self._connections = asyncio.Semaphore(calls.connections)
        self._pace = Pace(calls.rate, stopping)
        self._retries = calls.retries
        self._ledger = ledger
        self._tally = tally
        self._stopping = stopping

    async def close(self) -> None:
        await self._client.aclose()

    async def report(self, message_id: str, delivery: Delivery) -> None:
        """Call a delivery's reports back when they are due: one after the other, or at once."""
        calls = delivery.calls
        self._tally.outstanding += len(calls)
        one = partial(self._report, message_id, delivery.recipient)
        if delivery.is_at_once:
            await asyncio.gather(*map(one, calls))
        else:
            for report in calls:
                await one(report)

    async def _report(self, message_id: str, recipient: str, report: PlannedReport) -> None:
        await self._stopping.sleep(report.after_s)
        is_sent = await self._send(message_id, recipient, report)
        self._tally.given_up += not is_sent
        self._tally.outstanding -= 1

    async def _send(self, message_id: str, recipient: str, report: PlannedReport) -> bool:
        """Send a report, with retries. False if the run was stopped before the first call."""
        for attempt in range(1, self._retries + 2):
            self._tally.waiting += 1
            async with self._connections:
                self._tally.waiting -= 1
                await self._pace.turn()
                if self._stopping:
                    return attempt > 1
                began = time.monotonic()
                answer = await self._call(report.query)
                took_s = time.monotonic() - began
            self._tally.answers[str(answer.status or NO_ANSWER)] += 1
            self._ledger.write(
                "report",
                messageid=message_id,
                to=recipient,
                query=report.query,
                malformed=report.malformed,
                attempt=attempt,
                answer=answer.status,
                body=answer.body,
                took_s=round(took_s, 6),
            )
            if not answer.asks_for_more:
                break
            if attempt <= self._retries:
                await self._stopping.sleep(answer.retry_after_s)
        return True

    async def _call(self, query: str) -> Answer:
        # Pass the query as the raw target: the client would re-encode it as part of the URL.
        target = f"{self._target}{query}".encode("ascii")
        try:
            response = await self._client.get(self._url, extensions={"target": target})
        except httpx2.HTTPError as error:
            return Answer(None, type(error).__name__)
        try:
            retry_after_s = float(response.headers.get("retry-after", RETRY_AFTER_S))
        except ValueError:
            retry_after_s = RETRY_AFTER_S
        return Answer(
            response.status_code, response.text[:MAX_BODY], min(retry_after_s, MAX_RETRY_AFTER_S)
        )
