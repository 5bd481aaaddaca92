"""The status of a delivery: the simulator's oracle's, from the raw history, and the stored one."""

from collections.abc import Iterable
from typing import Any

from simulator.oracle import Received, claim_of, status_of

# The API's names; the table has `mcc_mnc` for `network`.
DECIDED = ("state", "reason", "status", "statuscode", "errcode", "network", "conflicting")
TIMES = ("first_received_at", "last_received_at")


def expected_status(history: Iterable[Any], expired_at: int | None = None) -> dict[str, Any]:
    """The fold of one delivery's reports, each parsed again from its query."""
    received = (
        Received(claim_of(row.query), row.received_at, row.last_received_at, row.fingerprint)
        for row in history
    )
    status = status_of(received, expired_at)
    return {name: status[name] for name in (*DECIDED, *TIMES)}


def shown_status(row: Any) -> dict[str, Any]:
    """The same fields of a row of the table `deliveries`, where 0 means no report yet."""
    times = (row.first_received_at, row.last_received_at or None)
    decided = (row.state, row.reason, row.status, row.statuscode, row.errcode, row.mcc_mnc)
    return dict(zip((*DECIDED, *TIMES), (*decided, row.conflicting, *times), strict=True))
