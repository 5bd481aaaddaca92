"""The change feed: deliveries in the order in which their visible status changed last.

A position is a delivery's `changed_in` and its key. On PostgreSQL `changed_in` comes from the
number of the transaction that wrote it, and transactions end in another order than they began:
so a page ends below the oldest one that still runs. What is held open delays readers, and makes
them skip nothing (`docs/decisions/0006-change-feed.md`).
"""

from typing import Final

from sqlalchemy import Connection, literal_column, select, text, tuple_

from app.store.read import SHOWN, Deliveries
from app.store.tables import deliveries, feed

# `changed_in`, message id and recipient; two empty texts come before every delivery.
Position = tuple[int, str, str]
BEGINNING: Final[Position] = (0, "", "")

# The `changed_in` of what a transaction changes, after `begin_change`.
POSITION: Final = {
    "sqlite": "(SELECT base FROM feed)",
    "postgresql": "(SELECT base FROM feed) + pg_current_xact_id()::text::bigint",
}

# What makes a new position on SQLite; on PostgreSQL each transaction has its own number already.
BEGIN_ON_SQLITE: Final = "UPDATE feed SET base = base + 1"

_ORDER = deliveries.c["changed_in", "message_id", "recipient"]
_PAGE = select(deliveries.c.changed_in, *SHOWN).order_by(*_ORDER)
_BASE = select(feed.c.base).scalar_subquery()

# Every transaction below this is over, and what it wrote is seen by the statement that asks.
_SETTLED = _BASE + literal_column(
    "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
)

# Looks first, as it is hardly ever needed. The lock is one that waits for writers, and that writers
# wait for: nobody gives out positions by the old base once there is a new one.
_SETTLE = text("""
DO $$
BEGIN
    IF (SELECT coalesce(max(changed_in), 0) FROM deliveries) < (SELECT base FROM feed)
            + CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) THEN
        RETURN;
    END IF;
    LOCK TABLE deliveries IN SHARE ROW EXCLUSIVE MODE;
    UPDATE feed SET base = latest + 1
            - CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
        FROM (SELECT max(changed_in) AS latest FROM deliveries) AS reached
        WHERE latest >= base + CAST(CAST(pg_current_xact_id() AS text) AS bigint);
END $$
""")


def begin_change(connection: Connection) -> None:
    """To be called before whatever changes a visible status, in the same transaction."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(BEGIN_ON_SQLITE)


def after(connection: Connection, position: Position, limit: int) -> Deliveries:
    """At most `limit` deliveries that changed after `position`, oldest change first."""
    page = _PAGE.where(tuple_(*_ORDER) > tuple_(*position)).limit(limit)
    if connection.dialect.name == "postgresql":
        page = page.where(deliveries.c.changed_in < _SETTLED)
    return connection.execute(page).all()


def end(connection: Connection) -> Position:
    """A position that all that is still to be shown comes after."""
    last = select(*_ORDER).order_by(*(column.desc() for column in _ORDER)).limit(1)
    if connection.dialect.name == "postgresql":
        last = last.where(deliveries.c.changed_in < _SETTLED)
    # That of a delivery, not of a transaction: a restored database begins above the former.
    row = connection.execute(last).one_or_none()
    return BEGINNING if row is None else (row.changed_in, row.message_id, row.recipient)


def commit_token(connection: Connection) -> str:
    """A token that changes with every commit."""
    if connection.dialect.name == "postgresql":
        return str(connection.execute(text("SELECT CAST(pg_current_snapshot() AS text)")).scalar())
    return str(connection.execute(select(feed.c.base)).scalar())


def settle_base(connection: Connection) -> None:
    """Have every coming change come after those that are there.

    A database that was restored into another server has positions from the old one's transaction
    numbers, which the new one's may be far below. To be called before anything is written.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_SETTLE)
