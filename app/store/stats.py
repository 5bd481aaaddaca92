"""Statistics: numbers of deliveries by network, state, reason and time.

Triggers count deliveries by the hour (`docs/decisions/0007-statistics-by-triggers.md`). Whole hours
are read from these counts, and the partial hour at either end of a span from `deliveries`, through
the indexes on its times. One statement reads both, so all is of one moment.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Table,
    case,
    cast,
    delete,
    func,
    literal_column,
    select,
    text,
    union_all,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from app.store.tables import count_deltas, deliveries, delivery_counts, state_totals

HOUR: Final = 3_600_000_000  # us
HOURS_A_DAY: Final = 24

# Deltas that one call adds up at most: few enough that writers don't wait long.
MAX_DELTAS: Final = 2_000
# An arbitrary number, which no other program in the same database should lock.
COMPACTION_LOCK: Final = 7_266_332

Columns = ReadOnlyColumnCollection[str, ColumnElement[Any]]

# Keys that statistics may be grouped by, from the columns of the counts. The first three digits of
# a numeric network are its mobile country code (ITU-T E.212); any other network has none.
KEYS: Final[dict[str, Callable[[Columns], ColumnElement[Any]]]] = {
    "network": lambda counted: counted.mcc_mnc,
    "mcc": lambda counted: case(
        (func.trim(counted.mcc_mnc, "0123456789") == "", func.substr(counted.mcc_mnc, 1, 3)),
        else_="",
    ),
    "state": lambda counted: counted.state,
    "reason": lambda counted: counted.reason,
    "hour": lambda counted: counted.hour,
    "day": lambda counted: counted.hour // HOURS_A_DAY,
}
_KEYS_OF_STATE_TOTALS: Final = frozenset({"state", "hour", "day"})


def count(
    connection: Connection,
    keys: Sequence[str],
    since: int | None,
    until: int | None,
    max_rows: int,
) -> Sequence[Any]:
    """Deliveries by `keys` (of `KEYS`) and state: rows of the keys, the state, and the number.

    `hour` and `day` are numbered from 1970 UTC; a missing network, `mcc` or reason is empty. From
    `since` (inclusive) to `until` (exclusive), in microseconds since 1970 UTC. At most `max_rows`
    rows, in no order.
    """
    table = state_totals if _KEYS_OF_STATE_TOTALS.issuperset(keys) else delivery_counts
    counted = union_all(*_counted(table, since, until)).subquery("counted")
    total = func.sum(counted.c.deliveries)
    names = [*keys, "of_state"]
    statement = (
        select(
            *(KEYS[key](counted.c).label(key) for key in keys),
            counted.c.state.label("of_state"),
            cast(total, BigInteger).label("deliveries"),
        )
        .group_by(*names)  # by name, as PostgreSQL takes two bound constants for different ones
        .having(total != 0)
        .limit(max_rows)
    )
    return connection.execute(statement).all()


def _counted(table: Table, since: int | None, until: int | None) -> Iterator[Select[Any]]:
    """Selects of rows like those of `table`. Each delivery is in one of them."""
    if since is not None and until is not None and until < (-(-since // HOUR) + 1) * HOUR:
        yield _one_by_one(table, since, until)  # the span has no whole hour
        return
    first_hour = end_hour = None
    if since is not None:
        first_hour = -(-since // HOUR)
        if since < first_hour * HOUR:
            yield _one_by_one(table, since, first_hour * HOUR)
    if until is not None:
        end_hour = until // HOUR
        if until > end_hour * HOUR:
            yield _one_by_one(table, end_hour * HOUR, until)
    names = _names(table)
    for counts in (table, count_deltas):
        yield select(*(counts.c[name] for name in names)).where(
            *_between(counts.c.hour, first_hour, end_hour)
        )


def _between(
    hour: ColumnElement[int], first: int | None, end: int | None
) -> Iterator[ColumnElement[bool]]:
    if first is not None:
        yield hour >= first
    if end is not None:
        yield hour < end


def _one_by_one(table: Table, since: int, until: int) -> Select[Any]:
    """Deliveries of a part of an hour, by the same time as the triggers'."""
    row = deliveries.c
    # Written as text, so that the database sees that it may use the partial index.
    is_unreported = text("last_received_at = 0")
    at = union_all(
        select(row.last_received_at.label("at"), row.mcc_mnc, row.state, row.reason).where(
            row.last_received_at >= max(since, 1), row.last_received_at < until
        ),
        select(row.submitted_at, row.mcc_mnc, row.state, row.reason).where(
            is_unreported, row.submitted_at >= since, row.submitted_at < until
        ),
    ).subquery()
    values: dict[str, ColumnElement[Any]] = {
        "hour": at.c.at // HOUR,
        "mcc_mnc": func.coalesce(at.c.mcc_mnc, ""),
        "state": at.c.state,
        "reason": func.coalesce(at.c.reason, ""),
        "deliveries": literal_column("1"),
    }
    return select(*(values[name].label(name) for name in _names(table)))


def _names(table: Table) -> list[str]:
    return [name for name in table.columns.keys() if name != "part"]  # noqa: SIM118 - no dict


_INTO_STATE_TOTALS = """
INSERT INTO state_totals (hour, state, deliveries) {added}
ON CONFLICT (hour, state) DO UPDATE SET deliveries = state_totals.deliveries + excluded.deliveries
"""
_INTO_COUNTS = """
INSERT INTO delivery_counts (hour, mcc_mnc, state, reason, part, deliveries) {added}
ON CONFLICT (hour, mcc_mnc, state, reason, part)
DO UPDATE SET deliveries = delivery_counts.deliveries + excluded.deliveries
"""
_BY_STATE = "SELECT hour, state, sum(deliveries) FROM deltas GROUP BY hour, state"
_BY_GROUP = """
SELECT hour, mcc_mnc, state, reason, 0, sum(deliveries) FROM deltas
GROUP BY hour, mcc_mnc, state, reason
"""
# One statement, so that no reader sees deltas twice or not at all, and no writer waits. The array
# makes PostgreSQL fetch the rows one by one instead of scanning the table twice.
_COMPACT_POSTGRESQL = f"""
WITH deltas AS (
    DELETE FROM count_deltas WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM count_deltas LIMIT %(limit)s))
    RETURNING hour, mcc_mnc, state, reason, deliveries
),
by_state AS ({_INTO_STATE_TOTALS.format(added=_BY_STATE)}),
by_group AS ({_INTO_COUNTS.format(added=_BY_GROUP)})
SELECT count(*) FROM deltas
"""
_TAKE_SQLITE = """
DELETE FROM count_deltas WHERE (hour, mcc_mnc, state, reason) IN (
    SELECT hour, mcc_mnc, state, reason FROM count_deltas LIMIT ?)
RETURNING hour, mcc_mnc, state, reason, deliveries
"""
_ADD_SQLITE = (
    _INTO_STATE_TOTALS.format(added="VALUES (?1, ?3, ?5)"),
    _INTO_COUNTS.format(added="VALUES (?1, ?2, ?3, ?4, 0, ?5)"),
)


def compact(connection: Connection) -> int:
    """Add up at most `MAX_DELTAS` that transactions left, and return their number.

    Needs a transaction. On PostgreSQL it adds none while another process does.
    """
    if connection.dialect.name == "sqlite":
        deltas = [tuple(row) for row in connection.exec_driver_sql(_TAKE_SQLITE, (MAX_DELTAS,))]
        for statement in _ADD_SQLITE if deltas else ():
            connection.exec_driver_sql(statement, deltas)
        return len(deltas)
    lock = select(func.pg_try_advisory_xact_lock(COMPACTION_LOCK))
    if not connection.scalar(lock):
        return 0
    compacted = connection.exec_driver_sql(_COMPACT_POSTGRESQL, {"limit": MAX_DELTAS})
    return int(compacted.scalar_one())


def forget_empty(connection: Connection, before_hour: int) -> None:
    """Remove the empty groups before an hour."""
    for table in (delivery_counts, state_totals):
        is_empty = (table.c.deliveries == 0, table.c.hour < before_hour)
        connection.execute(delete(table).where(*is_empty))
