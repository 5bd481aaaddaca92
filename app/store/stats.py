"""Statistics: how many deliveries there are, by network, state, reason and time.

Triggers count them by the hour (`docs/decisions/0007-statistics-by-triggers.md`). Whole hours are
read from the counts, what is left of an hour at either end of a span from `deliveries` itself,
through the indexes on its times; all in one statement, so that it is of one moment.
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
    tuple_,
    union_all,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from app.store.tables import deliveries, delivery_counts, state_counts

HOUR: Final = 3_600_000_000  # us
HOURS_A_DAY: Final = 24

COUNTS: Final = (delivery_counts, state_counts)

# Parts that one call adds up at most: few enough that nobody waits long for it.
MAX_PARTS: Final = 5_000
# Any number will do that no other program takes a lock on in the same database.
COMPACTION_LOCK: Final = 7_266_332

Columns = ReadOnlyColumnCollection[str, ColumnElement[Any]]

# What statistics may be grouped by, from the columns of the counts. Of a network that is a number
# the first three digits are its mobile country code (ITU-T E.212), of any other it is empty.
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
_KEYS_OF_STATE_COUNTS: Final = frozenset({"state", "hour", "day"})


def count(
    connection: Connection,
    keys: Sequence[str],
    since: int | None,
    until: int | None,
    max_rows: int,
) -> Sequence[Any]:
    """Deliveries by `keys` (of `KEYS`) and state: rows of the keys, the state, and how many.

    `hour` and `day` are numbered from 1970 UTC; a network, `mcc` or reason that isn't there is
    empty. From `since` (inclusive) to `until` (exclusive), in microseconds since 1970 UTC. At most
    `max_rows` rows, in no order.
    """
    table = state_counts if _KEYS_OF_STATE_COUNTS.issuperset(keys) else delivery_counts
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
    """Rows as of `table`, a delivery in one of them alone."""
    if since is not None and until is not None and until < (-(-since // HOUR) + 1) * HOUR:
        yield _one_by_one(table, since, until)  # no whole hour in it
        return
    hours = select(*(column for column in table.c if column.name != "part"))
    if since is not None:
        first_hour = -(-since // HOUR)
        hours = hours.where(table.c.hour >= first_hour)
        if since < first_hour * HOUR:
            yield _one_by_one(table, since, first_hour * HOUR)
    if until is not None:
        end_hour = until // HOUR
        hours = hours.where(table.c.hour < end_hour)
        if until > end_hour * HOUR:
            yield _one_by_one(table, end_hour * HOUR, until)
    yield hours


def _one_by_one(table: Table, since: int, until: int) -> Select[Any]:
    """Deliveries of a part of an hour, each by the time that the triggers take."""
    row = deliveries.c
    # Written out, for a database to see that it may use the index.
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
    return select(
        *(values[column.name].label(column.name) for column in table.c if column.name != "part")
    )


def compact(connection: Connection) -> int:
    """Add up parts that transactions left, and return how many they were.

    At most `MAX_PARTS`, the oldest first, and none while somebody else is at it. PostgreSQL, in a
    transaction: it deletes what is committed, and adds the same to part 0, so that no reader sees
    either alone, and no writer waits.
    """
    lock = select(func.pg_try_advisory_xact_lock(COMPACTION_LOCK))
    if not connection.scalar(lock):
        return 0
    return sum(_compact(connection, table) for table in COUNTS)


def _compact(connection: Connection, table: Table) -> int:
    keys = [column for column in table.primary_key if column.name != "part"]
    ctid: ColumnElement[Any] = literal_column("ctid")
    oldest = (
        select(ctid)
        .select_from(table)
        .where(text("part <> 0"))
        .order_by(table.c.part)
        .limit(MAX_PARTS)
    )
    # An array, for them to be fetched one by one, and not looked for in the whole table.
    is_old = ctid == func.any(func.array(oldest.scalar_subquery()))
    parts = delete(table).where(is_old).returning(*keys, table.c.deliveries).cte("parts")
    of_group = [parts.c[key.name] for key in keys]
    added = func.sum(parts.c.deliveries)
    insert = postgresql.insert(table).from_select(
        [*(key.name for key in keys), "part", "deliveries"],
        select(*of_group, literal_column("0"), added).group_by(*of_group).order_by(*of_group),
    )
    merged = insert.on_conflict_do_update(
        index_elements=[*keys, table.c.part],
        set_={"deliveries": table.c.deliveries + insert.excluded.deliveries},
    ).returning(
        *keys, table.c.deliveries, select(func.count()).select_from(parts).scalar_subquery()
    )
    rows = connection.execute(merged).all()
    empty = [row[: len(keys)] for row in rows if row.deliveries == 0]
    if empty:
        is_empty = (table.c.part == 0, table.c.deliveries == 0, tuple_(*keys).in_(empty))
        connection.execute(delete(table).where(*is_empty))
    return int(rows[0][-1]) if rows else 0


def forget_empty(connection: Connection, before_hour: int) -> None:
    """Remove the groups of long ago that have nothing left in them."""
    for table in COUNTS:
        is_empty = (table.c.part == 0, table.c.deliveries == 0, table.c.hour < before_hour)
        connection.execute(delete(table).where(*is_empty))
