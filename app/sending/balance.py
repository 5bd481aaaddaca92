"""The account's balance: asked for now and then, and the last answer kept.

Source: PaaSoo's public pages, "balance": `{"balance":"0.972","currency":"EUR"}`.
"""

import asyncio
import logging
import math
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from app.sending.paasoo_client import REFUSALS, PaasooClient, status_of
from app.sending.problems import AccountNotKnownYetError
from app.telemetry import Metrics

log = logging.getLogger(__name__)

EVERY_S: Final = 300
UNTIL_KNOWN_EVERY_S: Final = 30

# Of a question: the last three leave what was known as it is.
OUTCOMES: Final = ("answered", "refused", "not_understood", "no_answer")

_AMOUNT: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
MAX_AMOUNT_LENGTH: Final = 40
MAX_CURRENCY_LENGTH: Final = 16


@dataclass(frozen=True, slots=True)
class Known:
    """An answer. The balance is text, as it came."""

    balance: str
    currency: str
    asked_at: int  # microseconds since 1970 UTC


class Balance:
    """Asks for the balance every few minutes, in a task beside all requests."""

    def __init__(self, client: PaasooClient, url: str, metrics: Metrics) -> None:
        self._client = client
        self._url = url
        self._metrics = metrics
        self._known: Known | None = None
        self._has_asked = asyncio.Event()
        self._complaint: str | None = None
        self._asking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._asking = asyncio.create_task(self._keep_asking())

    async def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking

    @property
    def known(self) -> Known | None:
        """The last answer, if there is one yet."""
        return self._known

    async def latest(self) -> Known:
        """The last answer; just after the start, it waits for the end of the first question.

        Raises `AccountNotKnownYetError`.
        """
        await self._has_asked.wait()
        if self._known is None:
            raise AccountNotKnownYetError
        return self._known

    async def ask(self) -> None:
        """Ask once. Whatever goes wrong leaves the last answer as it is."""
        asked_at = time.time_ns() // 1000
        try:
            answer = await self._client.ask(self._url, {})
        except Exception as error:  # noqa: BLE001 - the next question may well be answered
            self._complain("no_answer", type(error).__name__)
            return
        told = told_in(answer)
        if told is not None:
            self._keep(Known(*told, asked_at))
        elif (refusal := refusal_in(answer)) is not None:
            self._complain("refused", refusal)
        else:
            self._complain("not_understood", None)

    async def _keep_asking(self) -> None:
        while True:
            await self.ask()
            self._has_asked.set()
            await asyncio.sleep(UNTIL_KNOWN_EVERY_S if self._known is None else EVERY_S)

    def _keep(self, known: Known) -> None:
        before, self._known = self._known, known
        self._metrics.balance_questions.labels("answered").inc()
        self._metrics.balance.labels(known.currency).set(float(known.balance))
        self._metrics.balance_asked_at.set(known.asked_at / 1_000_000)
        if before is not None and before.currency != known.currency:
            self._metrics.balance.remove(before.currency)
        if self._complaint is not None:
            log.warning("PaaSoo tells the balance again")
        self._complaint = None

    def _complain(self, outcome: str, why: str | None) -> None:
        self._metrics.balance_questions.labels(outcome).inc()
        complaint = f"{outcome}: {why}"
        if complaint != self._complaint:  # log it once, not every few minutes
            log.warning("PaaSoo doesn't tell the balance", extra={"outcome": outcome, "why": why})
        self._complaint = complaint


def told_in(answer: Any) -> tuple[str, str] | None:
    """The balance and its currency; None if the answer has no such pair."""
    given = answer if isinstance(answer, dict) else {}
    balance, currency = given.get("balance"), given.get("currency")
    if not isinstance(balance, str) or not isinstance(currency, str):
        return None
    # Plain text, for `NumberText` too.
    balance, currency = str(balance.strip()), currency.strip()
    is_amount = len(balance) <= MAX_AMOUNT_LENGTH and _AMOUNT.fullmatch(balance)
    is_currency = 1 <= len(currency) <= MAX_CURRENCY_LENGTH and currency.isprintable()
    if is_amount and math.isfinite(float(balance)) and is_currency:
        return balance, currency
    return None


def refusal_in(answer: Any) -> str | None:
    """Our word for PaaSoo's refusal, which repeats nothing of its answer."""
    status = status_of(answer) if isinstance(answer, dict) else None
    return REFUSALS[status][0].code if status in REFUSALS else None
