"""What the status of a delivery must be, from its whole history at once: the rule, not our code."""

from collections.abc import Iterable
from typing import Any

RANKS = {
    "pending": 0,
    "accepted": 1,
    "unknown": 2,
    "expired": 3,
    "undelivered": 4,
    "rejected": 4,
    "delivered": 5,
}

# What a row of `deliveries` shows of the report that decides.
DECIDED = ("state", "reason", "status", "statuscode", "errcode", "mcc_mnc")


def expected_status(history: Iterable[Any]) -> tuple[object, ...]:
    """The deciding report's fields, whether it is conflicting, and the first and last times.

    `history` has the reports of one delivery, with attributes as in the table `reports`.
    """
    reports = list(history)
    deciding = max(
        reports, key=lambda row: (RANKS[row.state], row.last_received_at, row.fingerprint)
    )
    final = {row.state for row in reports if row.state in {"delivered", "undelivered", "rejected"}}
    return (
        *(getattr(deciding, name) for name in DECIDED),
        len(final) > 1,
        min(row.received_at for row in reports),
        max(row.last_received_at for row in reports),
    )


def shown_status(row: Any) -> tuple[object, ...]:
    """The same of a row of `deliveries`, as it stands."""
    return (
        *(getattr(row, name) for name in DECIDED),
        row.conflicting,
        row.first_received_at,
        row.last_received_at,
    )
