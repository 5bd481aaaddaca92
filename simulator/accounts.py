"""The rules of an account: the guide's kind, or that of PaaSoo's public pages.

Neither source says which of several mistakes PaaSoo names, or how fast is too fast.
"""

import hmac
import re
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from ipaddress import ip_address
from math import inf
from typing import Final
from urllib.parse import parse_qsl

from simulator.options import Account, Kind
from simulator.traffic import MAX_RECIPIENTS


class Mistake(Enum):
    """A reason to refuse a send: its status in the guide, and on the public pages."""

    MALFORMED = (400, 2)
    CREDENTIALS = (401, 4)
    ADDRESS = (404, 5)
    NUMBER = (400, 6)
    SENDER = (400, 7)  # the guide knows no `from`, so an account of its kind never says so
    REPEATED = (400, 8)  # nor these two
    BALANCE = (403, 9)
    TOO_FAST = (400, 10)

    def status(self, kind: Kind) -> int:
        return self.value[kind is Kind.PUBLIC]


# The public pages' 11.
SYSTEM_ERROR: Final = 11

# Seconds in which a public account refuses the same text to the same number.
REPEATED_WITHIN_S: Final = 3.0

# Of one recipient: the `price` in an answer that public code shows.
PRICE: Final = Decimal("0.05")
CURRENCY: Final = "EUR"
BALANCE_OF_ANY: Final = "0.972"  # of an account without a limit: the public pages' sample

# The form that reports have, country code first, no `+`: the receiver would refuse any other.
_NUMBER: Final = re.compile(r"[1-9][0-9]{2,19}")
_SENDER: Final = re.compile(r"[0-9]{1,15}|[A-Za-z0-9 ]{1,11}")


class RefusedSendError(Exception):
    """A refused send: `status` is PaaSoo's, and so is the text where a source has it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Order:
    """A send that keeps the rules of its form."""

    recipients: list[str]  # each once
    text: str
    sender: str | None


class Till:
    """One account: checks each send, and keeps the account's balance."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._left = inf if account.balance is None else account.balance
        self._sends: deque[float] = deque()  # the times of those within the last second
        self._sent: dict[tuple[str, str], float] = {}  # recipient and text: the time

    def take(self, query: bytes, peer: str | None) -> Order:
        """Take a send and charge for it. Raises `RefusedSendError`, and then takes nothing."""
        values = self._values(query, self._needed())
        self._check_caller(values, peer)
        order = self._order(values)
        if self._account.kind is Kind.PUBLIC:
            self._keep_the_pace()
            self._refuse_repeats(order)
        self._charge(order)
        return order

    def balance(self, query: bytes, peer: str | None) -> dict[str, str]:
        """The answer to the question for the balance. Raises `RefusedSendError`."""
        self._check_caller(self._values(query, ("key", "secret")), peer)
        left = BALANCE_OF_ANY if self._left == inf else str(PRICE * int(self._left))
        return {"balance": left, "currency": CURRENCY}

    def asked_about(self, query: bytes, peer: str | None) -> str:
        """The message that a question is about. Raises `RefusedSendError`."""
        values = self._values(query, ("key", "secret", "messageid"))
        self._check_caller(values, peer)
        return values["messageid"]

    def _needed(self) -> Sequence[str]:
        if self._account.kind is Kind.PUBLIC:
            return ("key", "secret", "from", "to", "text")
        return ("key", "secret", "to", "text")

    def _values(self, query: bytes, needed: Sequence[str]) -> dict[str, str]:
        try:
            pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
        except ValueError:
            raise self._refused(Mistake.MALFORMED, "bad request: it is not UTF-8") from None
        values = dict(pairs)
        given = Counter(name for name, _ in pairs)
        for name in needed:
            if not values.get(name):
                raise self._refused(
                    Mistake.MALFORMED, f"bad request: {name} is missing", "Missing params."
                )
            if given[name] > 1:
                raise self._refused(Mistake.MALFORMED, f"bad request: {name} is given twice")
        return values

    def _check_caller(self, values: dict[str, str], peer: str | None) -> None:
        if values["key"] != self._account.key:
            raise self._refused(Mistake.CREDENTIALS, "illegal key.,")
        if not hmac.compare_digest(values["secret"].encode(), self._account.secret.encode()):
            raise self._refused(Mistake.CREDENTIALS, "illegal secret.,")  # the guide's own example
        allowed = self._account.allowed
        if allowed is not None and (peer is None or ip_address(peer) not in allowed):
            raise self._refused(Mistake.ADDRESS, "illegal ip.,")

    def _order(self, values: dict[str, str]) -> Order:
        recipients = list(dict.fromkeys(values["to"].split(",")))
        if not all(_NUMBER.fullmatch(recipient) for recipient in recipients):
            raise self._refused(Mistake.NUMBER, "bad request: to has an item that is no number")
        if len(recipients) > MAX_RECIPIENTS:
            raise self._refused(
                Mistake.NUMBER, f"bad request: more than {MAX_RECIPIENTS} recipients"
            )
        sender = values.get("from") or None
        if self._account.kind is Kind.PUBLIC and not _SENDER.fullmatch(sender or ""):
            raise self._refused(Mistake.SENDER, "wrong sender id")
        return Order(recipients, values["text"], sender)

    def _keep_the_pace(self) -> None:
        now = time.monotonic()
        while self._sends and self._sends[0] <= now - 1:
            self._sends.popleft()
        if self._account.sends_a_second <= len(self._sends):
            raise self._refused(Mistake.TOO_FAST, "too many requests")
        self._sends.append(now)

    def _refuse_repeats(self, order: Order) -> None:
        since = time.monotonic() - REPEATED_WITHIN_S
        self._sent = {sms: at for sms, at in self._sent.items() if at > since}
        if any((recipient, order.text) in self._sent for recipient in order.recipients):
            raise self._refused(Mistake.REPEATED, "the same text to the same number")

    def _charge(self, order: Order) -> None:
        if len(order.recipients) > self._left:
            raise self._refused(Mistake.BALANCE, "use restricted: the balance is gone")
        self._left -= len(order.recipients)
        if self._account.kind is Kind.PUBLIC:
            now = time.monotonic()
            self._sent.update({(recipient, order.text): now for recipient in order.recipients})

    def _refused(
        self, mistake: Mistake, text: str, public_text: str | None = None
    ) -> RefusedSendError:
        kind = self._account.kind
        text = public_text or text if kind is Kind.PUBLIC else text
        return RefusedSendError(mistake.status(kind), text)
