"""What is stored, counted anew: deliveries one by one, in Python, and reports wherever they are."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, select

from app.store import stats
from app.store.tables import deliveries

# For a FROM: the number of times that each report came.
HISTORY: Final = """(
    SELECT times_received FROM reports
    UNION ALL SELECT times_received FROM deliveries WHERE times_received IS NOT NULL
) AS history"""

KEYS = ("network", "mcc", "state", "reason", "hour", "day")


def recount(
    connection: Connection, keys: Sequence[str], since: int | None = None, until: int | None = None
) -> Counter[tuple[Any, ...]]:
    """The number of deliveries with the same keys and state."""
    of_keys = [_OF_KEY[key] for key in keys]
    return Counter(
        (*(of_key(row, moment) for of_key in of_keys), row.state)
        for row in connection.execute(select(deliveries))
        for moment in (moment_of(row),)
        if (since is None or moment >= since) and (until is None or moment < until)
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


def _mcc_of(row: Any, _moment: int) -> str:
    is_number = row.mcc_mnc is not None and set(row.mcc_mnc) <= set("0123456789")
    return row.mcc_mnc[:3] if is_number else ""


# Of a delivery and its moment.
_OF_KEY: Final[dict[str, Callable[[Any, int], Any]]] = {
    "network": lambda row, _moment: row.mcc_mnc or "",
    "mcc": _mcc_of,
    "state": lambda row, _moment: row.state,
    "reason": lambda row, _moment: row.reason or "",
    "hour": lambda _row, moment: moment // 3_600_000_000,
    "day": lambda _row, moment: moment // (24 * 3_600_000_000),
}
