"""The change feed: deliveries in the order in which their visible status changed last.

A position is a delivery's `changed_in` and its key. On PostgreSQL `changed_in` comes from the
number of the transaction that wrote it, and transactions end in another order than they began. So a
page ends below the oldest running transaction: a long transaction delays readers, but they skip
nothing (`docs/decisions/0006-change-feed.md`).
"""

import logging
from typing import Final

from sqlalchemy import Connection, literal_column, select, text, tuple_

from app.store import postgresql
from app.store.engine import Database
from app.store.read import SHOWN, Deliveries
from app.store.tables import deliveries, feed

log = logging.getLogger(__name__)

# `changed_in`, message id and recipient. Two empty texts come before every delivery.
Position = tuple[int, str, str]
BEGINNING: Final[Position] = (0, "", "")

# SQL for the `changed_in` of a transaction's changes, after `begin_change`.
POSITION: Final = {
    "sqlite": "(SELECT base FROM feed)",
    "postgresql": "(SELECT base FROM feed) + pg_current_xact_id()::text::bigint",
}

# Makes a new position on SQLite. On PostgreSQL each transaction already has its own number.
BEGIN_ON_SQLITE: Final = "UPDATE feed SET base = base + 1"

_ORDER = deliveries.c["changed_in", "message_id", "recipient"]
_PAGE = select(deliveries.c.changed_in, *SHOWN).order_by(*_ORDER)
_BASE = select(feed.c.base).scalar_subquery()

# Every transaction below this is over, and the asking statement sees its rows.
_SETTLED = _BASE + literal_column(
    "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
)

# More positions than a server can have shown and lost: its transaction numbers have 32 bits.
FAILOVER_GAP: Final = 2**32

# Look first, because a new base is hardly ever needed.
_IS_SETTLED = text("""
SELECT history IS NOT DISTINCT FROM :server
    AND (SELECT coalesce(max(changed_in), 0) FROM deliveries)
        < base + CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)
FROM feed
""")
# The lock and writers wait for each other, so no transaction gives out positions from the old base
# once there is a new one.
_LOCK = text("LOCK TABLE deliveries IN SHARE ROW EXCLUSIVE MODE")
_SETTLE = text("""
UPDATE feed SET history = :server, base = CASE
        WHEN latest >= known.base + CAST(CAST(pg_current_xact_id() AS text) AS bigint)
        THEN latest + 1 - CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
        ELSE known.base
    END + CASE WHEN known.history <> :server THEN CAST(:gap AS bigint) ELSE 0 END
FROM (SELECT max(changed_in) AS latest FROM deliveries) AS reached, feed AS known
RETURNING known.history
""")


def begin_change(connection: Connection) -> None:
    """Call this before a change of a visible status, in the same transaction."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(BEGIN_ON_SQLITE)


def after(connection: Connection, position: Position, limit: int) -> Deliveries:
    """At most `limit` deliveries that changed after `position`, oldest change first."""
    page = _PAGE.where(tuple_(*_ORDER) > tuple_(*position)).limit(limit)
    if connection.dialect.name == "postgresql":
        page = page.where(deliveries.c.changed_in < _SETTLED)
    return connection.execute(page).all()


def end(connection: Connection) -> Position:
    """The end of the feed: every later change comes after this position."""
    last = select(*_ORDER).order_by(*(column.desc() for column in _ORDER)).limit(1)
    if connection.dialect.name == "postgresql":
        last = last.where(deliveries.c.changed_in < _SETTLED)
    # Take a delivery's position, not a transaction's number: `settle_base` begins above the former.
    row = connection.execute(last).one_or_none()
    return BEGINNING if row is None else (row.changed_in, row.message_id, row.recipient)


def commit_token(connection: Connection) -> str:
    """A token that changes with every commit."""
    if connection.dialect.name == "postgresql":
        return str(connection.execute(text("SELECT CAST(pg_current_snapshot() AS text)")).scalar())
    return str(connection.execute(select(feed.c.base)).scalar())


def settle(database: Database) -> None:
    """Make sure that every new change comes after all that was ever shown. Call before any write.

    Another server has transaction numbers of its own, perhaps far lower: a database was restored
    into it, or it was a standby, and lost the latest commits of the primary before.
    """
    if database.is_embedded:
        return
    with database.write.begin() as connection:
        server = postgresql.server_of(connection)
        is_settled = connection.execute(_IS_SETTLED, {"server": server}).scalar_one()
    if not is_settled:
        engine = database.write.execution_options(isolation_level="READ COMMITTED")
        with engine.begin() as connection:
            server = postgresql.server_of(connection)
            connection.execute(_LOCK)
            parameters = {"server": server, "gap": FAILOVER_GAP}
            known = connection.execute(_SETTLE, parameters).scalar_one()
        if known not in {None, server}:
            log.warning(
                "another server has taken over; the change feed goes on above all it has shown",
                extra={"before": known, "now": server},
            )
    database.server = server
