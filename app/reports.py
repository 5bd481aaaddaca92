"""Our vocabulary: a delivery report, its state, and the fold from many reports to one status.

Sources: PaaSoo's integration guide ("status report"); the states are SMPP's message states
(SMPP 3.4, section 5.2.28).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final


class State(StrEnum):
    """What became of one delivery, in SMPP's terms."""

    PENDING = "pending"  # sent, no report yet
    ACCEPTED = "accepted"  # ACCEPTD: the carrier took it
    UNKNOWN = "unknown"  # UNKNOWN: a report that we can't call success or failure
    EXPIRED = "expired"  # EXPIRED: no final report in time
    UNDELIVERED = "undelivered"  # UNDELIV
    REJECTED = "rejected"  # REJECTD
    DELIVERED = "delivered"  # DELIVRD


# The report of the highest rank decides, so no order of arrival can change the status.
RANK: Final = {
    State.PENDING: 0,
    State.ACCEPTED: 1,
    State.UNKNOWN: 2,
    State.EXPIRED: 3,
    State.UNDELIVERED: 4,
    State.REJECTED: 4,
    State.DELIVERED: 5,
}

FINAL_STATES: Final = frozenset({State.EXPIRED, State.UNDELIVERED, State.REJECTED, State.DELIVERED})

# The ranks that only a final report of the provider's has: two such that differ are a conflict.
# `expired` is our own mark and contradicts nobody.
LOWEST_REPORTED_FINAL_RANK: Final = 4


class Reason(StrEnum):
    """Why a delivery is not (yet) known to be a success. Source: the guide's tables."""

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
    # Statuses that explain themselves.
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN_KEYWORD = "forbidden_keyword"
    MISSING_KEYWORD = "missing_keyword"
    SYSTEM_ERROR = "system_error"
    # Ours, where the provider gives no reason or no sense.
    UNSPECIFIED = "unspecified"
    CONTRADICTORY = "contradictory"
    UNRECOGNISED_STATUS = "unrecognised_status"


RETRYABLE_REASONS: Final = frozenset(
    {Reason.ABSENT_TEMPORARY, Reason.NETWORK_ERROR, Reason.SYSTEM_ERROR}
)


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """One report, understood.

    `received_at` is ours, in microseconds since 1970 UTC: PaaSoo sends no time.
    `query` is the raw query, printable ASCII, as `callback.parse.printable` gives it.
    """

    message_id: str
    recipient: str  # digits only, country code first
    state: State
    reason: Reason | None
    status: int
    statuscode: str | None
    errcode: str | None
    mcc_mnc: str | None
    received_at: int
    query: str
    fingerprint: int
    source: str = "callback"

    @property
    def rank(self) -> int:
        return RANK[self.state]


def fingerprint_of(
    status: int, statuscode: str | None, errcode: str | None, mcc_mnc: str | None
) -> int:
    """What makes two reports of one delivery the same report, as a signed 64-bit integer.

    NUL can't be part of a value (the door refuses it), so it separates without ambiguity.
    """
    fields = f"{status}\0{statuscode or ''}\0{errcode or ''}\0{mcc_mnc or ''}"
    return int.from_bytes(blake2b(fields.encode(), digest_size=8).digest(), signed=True)


@dataclass(slots=True)
class ReportTally:
    """One distinct report of a batch, and how often it came. Times as in `DeliveryReport`."""

    report: DeliveryReport  # the first of its kind
    last_received_at: int
    times_received: int


@dataclass(slots=True)
class DeliveryStatus:
    """The fold of some reports of one delivery; folding two of them is again one.

    Every field is a maximum, a minimum or an "or", which is why order never matters.
    """

    deciding: DeliveryReport
    first_received_at: int
    last_received_at: int
    conflicting: bool


def precedence(report: DeliveryReport) -> tuple[int, int, int]:
    """The greatest decides: by rank, then the one received last, then the greater fingerprint."""
    return (RANK[report.state], report.received_at, report.fingerprint)


def contradict(one: DeliveryReport, other: DeliveryReport) -> bool:
    """Both final reports of the provider's, and they disagree on the state."""
    return (
        one.state is not other.state
        and RANK[one.state] >= LOWEST_REPORTED_FINAL_RANK
        and RANK[other.state] >= LOWEST_REPORTED_FINAL_RANK
    )


def tally(reports: Iterable[DeliveryReport]) -> list[ReportTally]:
    """Collapse identical reports, sorted by key.

    A statement can't upsert one row twice, and replicas that take row locks in one order
    never deadlock.
    """
    tallies: dict[tuple[str, str, int], ReportTally] = {}
    for report in reports:
        key = (report.message_id, report.recipient, report.fingerprint)
        known = tallies.get(key)
        if known is None:
            tallies[key] = ReportTally(report, report.received_at, 1)
            continue
        known.times_received += 1
        known.last_received_at = max(known.last_received_at, report.received_at)
        if report.received_at < known.report.received_at:
            known.report = report
    return [tallies[key] for key in sorted(tallies)]


def fold(reports: Iterable[DeliveryReport]) -> list[DeliveryStatus]:
    """The status of each delivery that the reports are about, sorted by key."""
    statuses: dict[tuple[str, str], DeliveryStatus] = {}
    for report in reports:
        key = (report.message_id, report.recipient)
        known = statuses.get(key)
        if known is None:
            received_at = report.received_at
            statuses[key] = DeliveryStatus(report, received_at, received_at, conflicting=False)
            continue
        known.first_received_at = min(known.first_received_at, report.received_at)
        known.last_received_at = max(known.last_received_at, report.received_at)
        # Comparing with the deciding report is enough: it is final as soon as any is, and a
        # disagreement between two others was noticed when the second of them came.
        known.conflicting = known.conflicting or contradict(known.deciding, report)
        if precedence(report) > precedence(known.deciding):
            known.deciding = report
    return [statuses[key] for key in sorted(statuses)]
