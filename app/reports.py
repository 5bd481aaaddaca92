"""Our vocabulary: a delivery report, its state, and the rule that decides between several.

`fold` makes one status of many reports. `store.write` does the same in SQL, one report at a time.

Sources: PaaSoo's integration guide ("status report"); the states are SMPP's message states
(SMPP 3.4, section 5.2.28).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final, NamedTuple


class State(StrEnum):
    """The state of one delivery, in SMPP's terms."""

    PENDING = "pending"  # sent, no report yet
    ACCEPTED = "accepted"  # ACCEPTD: the carrier took it
    UNKNOWN = "unknown"  # UNKNOWN: a report that we can't call success or failure
    EXPIRED = "expired"  # EXPIRED: no final report in time
    UNDELIVERED = "undelivered"  # UNDELIV
    REJECTED = "rejected"  # REJECTD
    DELIVERED = "delivered"  # DELIVRD


# The report of the highest rank decides, so no order of arrival can change the status.
RANK: Final[dict[str, int]] = {
    State.PENDING: 0,
    State.ACCEPTED: 1,
    State.UNKNOWN: 2,
    State.EXPIRED: 3,
    State.UNDELIVERED: 4,
    State.REJECTED: 4,
    State.DELIVERED: 5,
}

FINAL_STATES: Final = frozenset({State.EXPIRED, State.UNDELIVERED, State.REJECTED, State.DELIVERED})

# Those that a report can claim: the other two are marks of our own.
REPORTED_STATES: Final = tuple(
    state for state in State if state not in {State.PENDING, State.EXPIRED}
)

LOWEST_FINAL_RANK: Final = min(RANK[state] for state in FINAL_STATES)

# Only final reports of the provider's rank so high: two that differ are a conflict. `expired` is
# our own mark and contradicts no report.
LOWEST_REPORTED_FINAL_RANK: Final = 4


class Reason(StrEnum):
    """The reason why a delivery is not (yet) a success. Source: the guide's tables."""

    # Labels of a failure, from the operator.
    UNKNOWN = "unknown"
    ABSENT_TEMPORARY = "absent_temporary"
    ABSENT_PERMANENT = "absent_permanent"
    BARRED_BY_USER = "barred_by_user"
    SPAM_FILTERED = "spam_filtered"
    NETWORK_ERROR = "network_error"
    ILLEGAL_NUMBER = "illegal_number"
    UNROUTABLE = "unroutable"
    GENERAL_ERROR = "general_error"
    VALIDITY_EXPIRED = "validity_expired"  # a report says so, unlike `State.EXPIRED`
    # Statuses that need no label.
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN_KEYWORD = "forbidden_keyword"
    MISSING_KEYWORD = "missing_keyword"
    SYSTEM_ERROR = "system_error"
    # Our own, for a report without a reason, or one that makes no sense.
    UNSPECIFIED = "unspecified"
    CONTRADICTORY = "contradictory"
    UNRECOGNISED_STATUS = "unrecognised_status"


RETRYABLE_REASONS: Final = frozenset(
    {Reason.ABSENT_TEMPORARY, Reason.NETWORK_ERROR, Reason.SYSTEM_ERROR}
)


# Of test reports and test pushes: no country has the code 999 (ITU-T E.164), so it is nobody's.
TEST_NUMBER: Final = "99900000000"
# Message ids of the test reports of `paasoo-dlr check`, which the service removes again
# (`docs/decisions/0011-checks-leave-nothing.md`).
CHECK_PREFIX: Final = "paasoo-dlr-check-"

# The sources of a report that PaaSoo called with, and of one that it was asked for.
CALLBACK: Final = "callback"
PULL: Final = "pull"


class DeliveryReport(NamedTuple):
    """One report, understood.

    A tuple, key first, because `store.write` binds it as a row. `received_at` is ours, in
    microseconds since 1970 UTC: PaaSoo sends no time.
    """

    message_id: str
    recipient: str  # digits only, country code first
    fingerprint: int
    query: str  # raw, printable ASCII, as `callback.parse.printable` gives it; JSON of a `PULL`
    source: str  # `CALLBACK`, `replay` from the quarantine, or `PULL`
    received_at: int
    rank: int
    state: str  # of `State`
    reason: str | None  # of `Reason`
    status: int
    statuscode: str | None
    errcode: str | None
    mcc_mnc: str | None

    @property
    def spooled(self) -> str:
        """Its text in the spool. That of a `PULL` begins with a space, which no raw query has."""
        return f" {self.message_id} {self.query}" if self.source == PULL else self.query


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused raw query and the reason. `received_at` in microseconds since 1970 UTC."""

    query: str  # printable ASCII
    code: str
    detail: str
    received_at: int

    @property
    def spooled(self) -> str:
        """Its text in the spool."""
        return self.query


class KnownReport(NamedTuple):
    """A report in the history. Times in microseconds since 1970 UTC."""

    fingerprint: int
    received_at: int
    last_received_at: int
    state: str  # of `State`
    reason: str | None  # of `Reason`
    status: int
    statuscode: str | None
    errcode: str | None
    mcc_mnc: str | None


class Status(NamedTuple):
    """The status of a delivery. Times in microseconds since 1970 UTC."""

    rank: int
    decided_at: int
    fingerprint: int
    state: str  # of `State`
    reason: str | None = None  # of `Reason`
    status: int | None = None
    statuscode: str | None = None
    errcode: str | None = None
    mcc_mnc: str | None = None
    conflicting: bool = False  # two final reports disagree
    first_received_at: int | None = None
    last_received_at: int = 0  # 0 while no report came


# A time of receipt further ahead than this was taken from a wrong clock.
CLOCK_TOLERANCE_US: Final = 60_000_000
BEFORE_ALL_US: Final = 2**61


def order_of(at: int, now: int) -> int:
    """The place of a time of receipt among others: one ahead of now comes before all the rest."""
    return at - BEFORE_ALL_US if at > now + CLOCK_TOLERANCE_US else at


def fold(reports: Iterable[KnownReport], expired_at: int | None) -> Status:
    """The status of one delivery, from all its reports in any order.

    The greatest decides: by rank, then the one received last, then the greater fingerprint. A time
    ahead of now, from a clock that was wrong, comes before the others. Our own marks take part as
    if they were reports: pending, or expired if we gave up at `expired_at`.
    """
    mark_state = State.PENDING if expired_at is None else State.EXPIRED
    mark = Status(RANK[mark_state], expired_at or 0, 0, mark_state.value)
    greatest, deciding = mark[:3], None
    now = time.time_ns() // 1000
    final: set[str] = set()
    last_received_at = 0
    known = list(reports)
    for report in known:
        rank = RANK[report.state]
        at = report.last_received_at
        weight = (rank, order_of(at, now), report.fingerprint)
        if weight > greatest:
            greatest, deciding = weight, report
        if rank >= LOWEST_REPORTED_FINAL_RANK:
            final.add(report.state)
        if not last_received_at or order_of(at, now) > order_of(last_received_at, now):
            last_received_at = at
    claim = deciding or mark
    rank, decided_at, fingerprint = greatest
    return Status(
        rank,
        deciding.last_received_at if deciding else decided_at,
        fingerprint,
        claim.state,
        claim.reason,
        claim.status,
        claim.statuscode,
        claim.errcode,
        claim.mcc_mnc,
        len(final) > 1,
        min((report.received_at for report in known), default=None),
        last_received_at,
    )


def fingerprint_of(
    status: int, statuscode: str | None, errcode: str | None, mcc_mnc: str | None
) -> int:
    """A signed 64-bit hash of the fields by which two reports of one delivery are the same report.

    NUL separates them without ambiguity: no value has a control character.
    """
    fields = f"{status}\0{statuscode or ''}\0{errcode or ''}\0{mcc_mnc or ''}"
    return int.from_bytes(blake2b(fields.encode(), digest_size=8).digest(), signed=True)


# The values that `normal_msisdn` accepts, for the OpenAPI document.
MSISDN_PATTERN: Final = "^([+ ]|00)[0-9]{3,20}$|^(?!00)[0-9]{3,20}$"


def normal_msisdn(to: str) -> str | None:
    """Digits only, country code first; None if it can't be a phone number.

    Drops one leading `+`, which arrives as a space if it wasn't escaped, or one `00`.
    """
    if to.startswith(("+", " ")):
        to = to[1:]
    elif to.startswith("00"):
        to = to[2:]
    return to if 3 <= len(to) <= 20 and is_digits(to) else None


def is_printable_ascii(text: str) -> bool:
    """True for printable ASCII without spaces. A regular expression takes three times as long."""
    return text.isascii() and text.isprintable() and " " not in text


def is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
