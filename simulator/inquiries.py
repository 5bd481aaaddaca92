"""Answers to the questions about a message, as PaaSoo's public pages and programs have them.

An answer is a JSON array with an object for each recipient. What PaaSoo answers while there is no
report, or about an id that it doesn't know, no source shows: here an object lacks its `drStatus`,
and the array is empty.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from random import Random
from typing import Any, Final

from simulator.accounts import PRICE
from simulator.oracle import Claim, claim_of
from simulator.traffic import Delivery, Message

# Older messages can't be asked about any more.
MAX_REMEMBERED: Final = 100_000
# Seconds that a slow answer takes: callers that wait for the longest are rare.
SLOW_S: Final = (1.0, 20.0)
# Characters of a text that fit one SMS, and one part of several: GSM's alphabet, and any other.
GSM_LENGTHS: Final = (160, 153)
UCS2_LENGTHS: Final = (70, 67)
MAX_PARTS_INVENTED: Final = 3

# One recipient in an answer.
Item = Mapping[str, Any]


class Kind(StrEnum):
    """The kind of an answer, as the ledger has it."""

    TOLD = "told"  # the report of at least one recipient
    NO_REPORT = "no report yet"
    UNKNOWN_ID = "unknown id"
    HTML = "html"
    ERROR = "http 500"
    SLOW = "slow"
    CUT_OFF = "cut off"
    REFUSED = "refused"  # wrong account or parameters


ODD: Final = tuple(kind for kind in Kind if kind not in {Kind.TOLD, Kind.REFUSED})


WITHOUT_ITEMS: Final = frozenset({Kind.UNKNOWN_ID, Kind.HTML, Kind.ERROR})


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a question: its kind, and the JSON if it has any."""

    kind: Kind
    items: Sequence[Item] = ()
    is_odd: bool = False
    after_s: float = 0.0  # of a slow one
    hangs_up: bool = False  # of one that is cut off; else it ends as if it were whole

    @property
    def told(self) -> list[Item]:
        """The recipients whose report is in it. The caller may miss it, if it is odd."""
        return [item for item in self.items if item.get("drStatus") is not None]


@dataclass(frozen=True, slots=True)
class Remembered:
    """A message that can be asked about."""

    message: Message
    parts: int
    since: float = field(default_factory=time.monotonic)


class Memory:
    """The latest messages of a run, and what is told about them."""

    def __init__(self) -> None:
        self._messages: OrderedDict[str, Remembered] = OrderedDict()

    def remember(self, message: Message, parts: int) -> None:
        self._messages[message.message_id] = Remembered(message, parts)
        if len(self._messages) > MAX_REMEMBERED:
            self._messages.popitem(last=False)

    def answer(self, message_id: str, random: Random, odd_share: float) -> Answer:
        """Answer a question; a share of the answers is odd."""
        is_odd = random.random() < odd_share
        kind = random.choice(ODD) if is_odd else Kind.TOLD
        known = self._messages.get(message_id)
        if kind in WITHOUT_ITEMS:
            return Answer(kind, is_odd=True)
        if known is None:
            return Answer(Kind.UNKNOWN_ID)
        items = _items(known, random, has_reports=kind is not Kind.NO_REPORT)
        after_s = random.uniform(*SLOW_S) if kind is Kind.SLOW else 0.0
        answer = Answer(kind, items, is_odd, after_s, hangs_up=random.random() < 0.5)
        return answer if is_odd or answer.told else Answer(Kind.NO_REPORT, items)


def parts_of(text: str) -> int:
    """The number of SMS that a text is split into."""
    # ASCII is close enough to GSM's alphabet.
    length = len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2
    whole, part = GSM_LENGTHS if text.isascii() else UCS2_LENGTHS
    return 1 if length <= whole else -(-length // part)


def parts_invented(random: Random) -> int:
    """The same of a message that has no text."""
    return random.randint(1, MAX_PARTS_INVENTED)


def _items(known: Remembered, random: Random, *, has_reports: bool) -> list[Item]:
    return [
        _item(known, delivery, random, has_report=has_reports)
        for delivery in known.message.deliveries
    ]


def _item(known: Remembered, delivery: Delivery, random: Random, *, has_report: bool) -> Item:
    item = {
        "type": "dlr",
        "messageid": known.message.message_id,
        "to": delivery.recipient,
        "status": 0,  # that of the send
    }
    claim = _claim_by_now(delivery, time.monotonic() - known.since) if has_report else None
    if claim is None:
        return item | random.choice(({}, {"drStatus": None}))
    report = {
        "drStatus": claim.status,
        "drStatuscode": claim.statuscode,
        "drErrcode": claim.errcode,
        "network": claim.network,
    }
    if random.random() < 0.5:  # programs show null as well as a name that is left out
        report = {name: value for name, value in report.items() if value is not None}
    return {**item, **report, "price": float(PRICE * known.parts), "counts": known.parts}


def _claim_by_now(delivery: Delivery, age_s: float) -> Claim | None:
    """The claim that decides among those that are due: PaaSoo knows what became of a message."""
    delays = [report.after_s for report in delivery.reports]
    dues = delays if delivery.is_at_once else list(accumulate(delays))
    due = [
        claim_of(report.meant)
        for report, due_s in zip(delivery.reports, dues, strict=True)
        if due_s <= age_s
    ]
    return max(reversed(due), key=lambda claim: claim.rank, default=None)
