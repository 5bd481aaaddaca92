"""The expected statistics: deliveries counted one by one, in Python."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select

from app.store import stats
from app.store.tables import deliveries

KEYS = ("network", "mcc", "state", "reason", "hour", "day")


def recount(
    connection: Connection, keys: Sequence[str], since: int | None = None, until: int | None = None
) -> Counter[tuple[Any, ...]]:
    """The number of deliveries with the same keys and state."""
    return Counter(
        (*(key_of(row, key) for key in keys), row.state)
        for row in connection.execute(select(deliveries))
        if (since is None or moment_of(row) >= since) and (until is None or moment_of(row) < until)
    )


def counted(
    connection: Connection, keys: Sequence[str], since: int | None = None, until: int | None = None
) -> Counter[tuple[Any, ...]]:
    """The same from our statistics."""
    rows = stats.count(connection, keys, since, until, max_rows=1_000_000)
    found = Counter({tuple(row[:-1]): row[-1] for row in rows})
    assert len(found) == len(rows)
    return found


def moment_of(row: Any) -> int:
    """The time of a delivery's last report or, without one, of its sending."""
    return int(row.last_received_at or row.submitted_at or 0)


def key_of(row: Any, key: str) -> Any:
    if key == "mcc":
        is_number = row.mcc_mnc is not None and set(row.mcc_mnc) <= set("0123456789")
        return row.mcc_mnc[:3] if is_number else ""
    return {
        "network": row.mcc_mnc or "",
        "state": row.state,
        "reason": row.reason or "",
        "hour": moment_of(row) // 3_600_000_000,
        "day": moment_of(row) // (24 * 3_600_000_000),
    }[key]
