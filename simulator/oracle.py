"""The status that a service must show after some reports, from PaaSoo's documents alone.

It shares no code with the service, so a mistake must be made twice to go unnoticed.
Sources: "guide" is PaaSoo's integration guide, "status report"; "older guide" its site of 2017;
"SMPP" is SMPP 3.4, whose words operators use.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, combinations
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlencode

# Guide, table of the labels that explain a status 404, with its explanations in Chinese.
LABELS: Final = {
    "UNKNOWN": "unknown",
    "ABSENTSUBSCRIBERTEMPORARY": "absent_temporary",
    "目标号码不在服务区或关机": "absent_temporary",
    "ABSENTSUBSCRIBERPERMANENT": "absent_permanent",
    "空号": "absent_permanent",
    "CALLBARREDBYUSER": "barred_by_user",
    "用户拒收": "barred_by_user",
    "ANTISPAMREJECTION": "spam_filtered",
    "被运营商过滤": "spam_filtered",
    "NETWORKERROR": "network_error",
    "运营商网络错误": "network_error",
    "ILLEGALNUMBER": "illegal_number",
    "无效号码": "illegal_number",
    "UNROUTABLE": "unroutable",
    "GENERALERROR": "general_error",
    "EXPIRED": "validity_expired",  # SMPP
}

# Both guides, and SMPP.
DELIVERED: Final = {"DELIVERED", "DELIVRD"}
ACCEPTED: Final = {
    *("ACCEPTED", "ACCEPTD", "ENROUTE", "BUFFERED", "SUBMITTED", "SENT", "QUEUED"),
}
REJECTED: Final = {"REJECTED", "REJECTD"}
FAILED: Final = {"FAILED", "UNDELIV", "UNDELIVERED", "UNDELIVERABLE", "DELETED"}

# Older guide, numbers of a failure.
NUMBERS: Final = {
    "1": "unknown",
    "2": "absent_temporary",
    "3": "absent_permanent",
    "4": "barred_by_user",
    "5": "spam_filtered",
    "99": "general_error",
}

# Guide, table of statuses: the failures that need no label.
FAILURES: Final = {
    401: ("rejected", "unauthorized"),
    402: ("rejected", "forbidden_keyword"),
    403: ("rejected", "missing_keyword"),
    501: ("undelivered", "system_error"),
}

# The claim of the last row decides; the states of one row are equals. `pending` and `expired` are
# no reports but marks of the service's own: the message was sent, and waiting was given up.
RANKS: Final = (
    ("pending",),
    ("accepted",),
    ("unknown",),
    ("expired",),
    ("undelivered", "rejected"),
    ("delivered",),
)
RANK_OF: Final = {state: rank for rank, states in enumerate(RANKS) for state in states}
FINAL_REPORTS: Final = frozenset({"undelivered", "rejected", "delivered"})
FINAL: Final = FINAL_REPORTS | {"expired"}
RETRYABLE: Final = frozenset({"absent_temporary", "network_error", "system_error"})


@dataclass(frozen=True, slots=True)
class Claim:
    """The statement of one report, or of a mark, in the words of the status API."""

    state: str
    reason: str | None = None
    status: int | None = None
    statuscode: str | None = None
    errcode: str | None = None
    network: str | None = None

    @property
    def rank(self) -> int:
        return RANK_OF[self.state]


# Of the words in characters, and of the network.
LONGEST: Final = {"statuscode": 255, "errcode": 255, "network": 64}


def claim_of(query: str) -> Claim:
    """The claim of a good query. An empty value counts as absent.

    Of several statuscodes the one counts that claims least, of anything else the first.
    """
    values: defaultdict[str, list[str]] = defaultdict(list)
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        text = _text(value)[: LONGEST.get(name)].rstrip()
        if text:
            values[name].append(text)
    (status,) = {int(value) for value in values["status"]}
    errcode, network = (next(iter(values[name]), None) for name in ("errcode", "network"))
    claims = []
    words: list[str | None] = [*values["statuscode"]]
    for word in words or [None]:
        state, reason = _meaning(status, _label(word), errcode)
        claims.append(Claim(state, reason, status, word, errcode, network))
    return min(claims, key=lambda claim: claim.rank)


# The parameters of a callback, and the names that an answer to a question gives them.
ANSWERED: Final = {
    "status": "drStatus",
    "statuscode": "drStatuscode",
    "errcode": "drErrcode",
    "network": "network",
}


def claim_of_answer(told: Mapping[str, Any]) -> Claim:
    """The claim about one recipient in an answer: that of a callback with the same values."""
    values = {name: told.get(its) for name, its in ANSWERED.items()}
    return claim_of(urlencode({name: it for name, it in values.items() if it is not None}))


def _text(value: str) -> str:
    """Decode a value: UTF-8, else GB18030, else as it came. Without the white space around it."""
    for encoding in ("utf-8", "gb18030"):
        try:
            text = unquote_to_bytes(value.replace("+", " ")).decode(encoding).strip()
        except UnicodeDecodeError:
            continue
        if any(unicodedata.category(character) == "Cc" for character in text):
            break
        if len(re.findall("%[0-9A-Fa-f]{2}", value)) == value.count("%"):
            return text
    return re.sub(r"^(\+|%20|%0[9A-D])*|(\+|%20|%0[9A-D])*$", "", value, flags=re.IGNORECASE)


def _meaning(status: int, word: str, errcode: str | None) -> tuple[str, str | None]:
    is_good_word = word in DELIVERED | ACCEPTED
    is_bad_word = word in FAILED | REJECTED or word in LABELS
    if is_bad_word if status == 0 else is_good_word:
        return "unknown", "contradictory"
    if status == 0:
        return ("accepted" if word in ACCEPTED else "delivered"), None
    if status in FAILURES:
        return FAILURES[status]
    if status == 400 and word == "UNKNOWN":
        return "unknown", "unknown"
    if status in {400, 404}:
        known = LABELS.get(word) or LABELS.get(_label(errcode)) or NUMBERS.get(errcode or "")
        state = "rejected" if status == 400 and word in REJECTED else "undelivered"
        return state, known or "unspecified"
    return "unknown", "unrecognised_status"


def _label(text: str | None) -> str:
    return re.sub("[ _-]", "", text or "").upper()


def acceptable_statuses(
    stored: Iterable[Claim], perhaps_stored: Iterable[Claim]
) -> list[dict[str, Any] | None]:
    """Every status that a delivery may have. None: the service doesn't know the delivery.

    There are several if a report may or may not be stored, and if reports of one rank differ:
    the one received last decides, and only the service knows which that was.
    """
    certain, open_ = set(stored), set(perhaps_stored)
    open_ -= certain
    some = chain.from_iterable(combinations(open_, count) for count in range(len(open_) + 1))
    found: list[dict[str, Any] | None] = []
    for more in some:
        for status in _statuses_of(certain.union(more)):
            if status not in found:
                found.append(status)
    return found


def _statuses_of(claims: set[Claim]) -> Iterable[dict[str, Any] | None]:
    if not claims:
        yield None
        return
    highest = max(claim.rank for claim in claims)
    for claim in claims:
        if claim.rank == highest:
            yield _status(claim, claims)


def _status(deciding: Claim, claims: Iterable[Claim]) -> dict[str, Any]:
    final_states = {claim.state for claim in claims} & FINAL_REPORTS
    return {
        **asdict(deciding),
        "final": deciding.state in FINAL,
        "retryable": deciding.reason in RETRYABLE,
        "conflicting": len(final_states) > 1,
    }


# A message that the service sent itself shows this before any report.
PENDING: Final = _status(Claim("pending"), ())


@dataclass(frozen=True, slots=True)
class Received:
    """A claim with the moments when it came first and last."""

    claim: Claim
    first_at: int
    last_at: int
    tie_break: int = 0  # the greater decides between equals that came last at one moment


def status_of(history: Iterable[Received], expired_at: int | None = None) -> dict[str, Any]:
    """The one status of a delivery whose whole history is known, with its first and last times.

    `expired_at` is when the service gave up waiting, if it ever did.
    """
    received = list(history)
    mark = Claim("pending" if expired_at is None else "expired")
    marked_at = expired_at or 0
    deciding = max(
        (*received, Received(mark, marked_at, marked_at)),
        key=lambda one: (one.claim.rank, one.last_at, one.tie_break),
    )
    return {
        **_status(deciding.claim, (one.claim for one in received)),
        "first_received_at": min((one.first_at for one in received), default=None),
        "last_received_at": max((one.last_at for one in received), default=None),
    }
