"""Test reports of `paasoo-dlr check`: stored as any other, left out of the feed, removed soon."""

from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, delete, func, not_, or_, select

from app.reports import CHECK_PREFIX, TEST_NUMBER
from app.store.keys import KEY, have_keys
from app.store.tables import deliveries, reports

# By then `paasoo-dlr check` has looked its report up.
KEPT_S: Final = 5
# Rows in a transaction: the writer must wait for it.
BATCH: Final = 100

# The first text behind all that begin with the prefix.
_END: Final = CHECK_PREFIX[:-1] + chr(ord(CHECK_PREFIX[-1]) + 1)

# For the feed's rows, so it is written such that no database takes it for a condition of an index.
IS_NO_CHECK: Final = or_(
    deliveries.c.recipient != TEST_NUMBER,
    func.substr(deliveries.c.message_id, 1, len(CHECK_PREFIX)) != CHECK_PREFIX,
)


def are_due(connection: Connection, now: int) -> bool:
    """True if there are test reports to remove. `now` in microseconds since 1970 UTC."""
    return connection.scalar(select(deliveries.c.rank).where(_is_due(now)).limit(1)) is not None


def remove(connection: Connection, now: int) -> int:
    """Remove some that are due, at most `BATCH`, with their history. Returns their number.

    Needs a transaction. Those that another transaction holds are left to the next call.
    """
    due = connection.execute(
        select(*KEY).where(_is_due(now)).limit(BATCH).with_for_update(skip_locked=True)
    ).all()
    if due:
        keys = [(key.message_id, key.recipient) for key in due]
        for table in (reports, deliveries):
            connection.execute(delete(table).where(have_keys(table, keys)))
    return len(due)


def _is_due(now: int) -> ColumnElement[bool]:
    """True for a test report that is old; one of a wrong clock, far ahead, is too."""
    kept_us = int(KEPT_S * 1_000_000)
    return and_(
        deliveries.c.message_id >= CHECK_PREFIX,
        deliveries.c.message_id < _END,
        # `|| ''` keeps SQLite off the index by recipient: the range of ids is shorter.
        deliveries.c.recipient + "" == TEST_NUMBER,
        not_(deliveries.c.last_received_at.between(now - kept_us, now + kept_us)),
    )
