"""What a service must make of reports, from PaaSoo's documents alone.

Written apart from the service, so that a mistake would have to be made twice to go unnoticed.
Sources: "guide" is PaaSoo's integration guide, "status report"; "older guide" its site of 2017.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import chain, combinations
from typing import Any, Final
from urllib.parse import parse_qsl

# Guide, table of the labels that explain a status 404.
LABELS: Final = {
    "UNKNOWN": "unknown",
    "ABSENT SUBSCRIBER TEMPORARY": "absent_temporary",
    "ABSENT SUBSCRIBER PERMANENT": "absent_permanent",
    "CALL BARRED BY USER": "barred_by_user",
    "ANTI SPAM REJECTION": "spam_filtered",
    "NETWORK ERROR": "network_error",
    "ILLEGAL NUMBER": "illegal_number",
    "UNROUTABLE": "unroutable",
    "GENERAL ERROR": "general_error",
}

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

# The later in this list, the more a report has to say; those of one row are equals.
RANKS: Final = (("accepted",), ("unknown",), ("undelivered", "rejected"), ("delivered",))
FINAL: Final = frozenset({"undelivered", "rejected", "delivered"})
RETRYABLE: Final = frozenset({"absent_temporary", "network_error", "system_error"})


@dataclass(frozen=True, slots=True)
class Claim:
    """What one report says of its delivery, in the words of the status API."""

    state: str
    reason: str | None
    status: int
    statuscode: str | None
    errcode: str | None
    network: str | None

    @property
    def rank(self) -> int:
        return next(rank for rank, states in enumerate(RANKS) if self.state in states)


def claim_of(query: str) -> Claim:
    """What a well-formed query says. An empty value is an absent one."""
    values = {name: value for name, value in parse_qsl(query, errors="replace") if value}
    status = int(values["status"])
    statuscode, errcode = values.get("statuscode"), values.get("errcode")
    state, reason = _meaning(status, _label(statuscode), errcode)
    return Claim(state, reason, status, statuscode, errcode, values.get("network"))


def _meaning(status: int, word: str, errcode: str | None) -> tuple[str, str | None]:
    is_good_word = word in {"DELIVERED", "ACCEPTED"}
    is_bad_word = word in {"FAILED", "REJECTED", "UNKNOWN"} or word in LABELS
    if is_bad_word if status == 0 else is_good_word:
        return "unknown", "contradictory"
    if status == 0:
        return ("accepted" if word == "ACCEPTED" else "delivered"), None
    if status in FAILURES:
        return FAILURES[status]
    if status == 400 and word == "UNKNOWN":
        return "unknown", "unknown"
    if status in {400, 404}:
        known = LABELS.get(word) or LABELS.get(_label(errcode)) or NUMBERS.get(errcode or "")
        state = "rejected" if status == 400 and word == "REJECTED" else "undelivered"
        return state, known or "unspecified"
    return "unknown", "unrecognised_status"


def _label(text: str | None) -> str:
    return (text or "").replace("-", " ").replace("_", " ").strip().upper()


def acceptable_statuses(
    stored: Iterable[Claim], perhaps_stored: Iterable[Claim]
) -> list[dict[str, Any] | None]:
    """Every status that a delivery may have. None: nothing is known of it.

    More than one where it isn't known which reports were stored, or where equals differ: the one
    received last decides then, and when that was, the service alone knows.
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
    final_states = {claim.state for claim in claims} & FINAL
    for claim in claims:
        if claim.rank == highest:
            yield {
                **asdict(claim),
                "final": claim.state in FINAL,
                "retryable": claim.reason in RETRYABLE,
                "conflicting": len(final_states) > 1,
            }


# Of a message that the service sent itself, before any report.
PENDING: Final[dict[str, Any]] = {
    "state": "pending",
    "reason": None,
    "status": None,
    "statuscode": None,
    "errcode": None,
    "network": None,
    "final": False,
    "retryable": False,
    "conflicting": False,
}
