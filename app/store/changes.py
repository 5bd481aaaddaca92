"""The change feed: deliveries in the order in which their visible status changed last.

A position is a delivery's `changed_in` and its key. On PostgreSQL `changed_in` comes from the
number of the transaction that wrote it, and transactions end in another order than they began. So a
page ends below the oldest running transaction: a long transaction delays readers, but they skip
nothing (`docs/decisions/0006-change-feed.md`). Test reports of `paasoo-dlr check` are left out.
"""

import logging
import secrets
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, func, literal_column, select, text, tuple_, update

from app.store import postgresql
from app.store.checks import IS_NO_CHECK
from app.store.engine import Database
from app.store.keys import KEY
from app.store.postgresql import UNKNOWN_PLACE, Server
from app.store.read import IS_BEFORE_FEED, SHOWN, Deliveries
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
NEXT_ON_SQLITE: Final = "UPDATE feed SET base = base + 1"

_ORDER = (deliveries.c.changed_in, *KEY)
_PAGE = select(deliveries.c.changed_in, *SHOWN).where(IS_NO_CHECK).order_by(*_ORDER)
_BASE = select(feed.c.base).scalar_subquery()

# Every transaction below this is over, and the asking statement sees its rows.
_SETTLED = _BASE + literal_column(
    "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
)

_HOLDER = text("""
SELECT CASE WHEN pg_snapshot_xmin(seen) < pg_snapshot_xmax(seen)
    THEN CAST(pg_snapshot_xmin(seen) AS text) END
FROM pg_current_snapshot() AS seen
""")

# More positions than a server can have shown and lost: its transaction numbers have 32 bits.
FAILOVER_GAP: Final = 2**32

_KNOWN = text("""
SELECT base, history, (SELECT coalesce(max(changed_in), 0) FROM deliveries)
    < base + CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS is_above_all
FROM feed
""")
# The lock and writers wait for each other, so no transaction gives out positions from the old base
# once there is a new one.
_LOCK = text("LOCK TABLE deliveries IN SHARE ROW EXCLUSIVE MODE")
# The server before may have shown positions that this one knows nothing of. The clock makes the new
# ones differ even from those of another server that was given the same base.
_SETTLE = text("""
UPDATE feed SET history = :history, base = CASE WHEN :took_over THEN greatest(
        greatest(start, :known_base) + :gap,
        CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)
            - CAST(CAST(pg_current_xact_id() AS text) AS bigint))
    ELSE start END
FROM (
    SELECT CASE WHEN latest >= base + CAST(CAST(pg_current_xact_id() AS text) AS bigint)
        THEN latest + 1 - CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
        ELSE base END AS start
    FROM (SELECT max(changed_in) AS latest FROM deliveries) AS reached, feed AS known
) AS above_all
RETURNING feed.base
""")


def begin_change(connection: Connection) -> None:
    """Call this before a change of a visible status, in the same transaction."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(NEXT_ON_SQLITE)


def write_nothing_new(connection: Connection) -> None:
    """Write a row as it is. Its commit shows that the database takes changes.

    While one such commit hangs, the next waits for the row, and ends by its time limit: so no
    session is added to those that hang.
    """
    connection.execute(update(feed).values(base=feed.c.base))


def after(connection: Connection, position: Position, limit: int) -> Deliveries:
    """At most `limit` deliveries that changed after `position`, oldest change first."""
    changed_in, *key = position
    found: list[Row[Any]] = []
    if changed_in == 0:  # all ties, which have an index of their own
        oldest = _PAGE.where(IS_BEFORE_FEED[connection.dialect.name])
        oldest = oldest.where(tuple_(*KEY) > tuple_(*key)).limit(limit)
        found += connection.execute(oldest).all()
        position = (1, "", "")
    if len(found) < limit:
        page = _PAGE.where(tuple_(*_ORDER) > tuple_(*position)).limit(limit - len(found))
        if connection.dialect.name == "postgresql":
            page = page.where(deliveries.c.changed_in < _SETTLED)
        found += connection.execute(page).all()
    return found


def history(connection: Connection) -> str | None:
    """The server whose positions these are; None where there is no other."""
    found: str | None = connection.execute(select(feed.c.history)).scalar()
    return found


def count_after(connection: Connection, position: Position, limit: int) -> int:
    """The number of deliveries that changed after `position`, counted no further than `limit`.

    Those that an open transaction holds back count, too.
    """
    later = select(deliveries.c.changed_in).where(tuple_(*_ORDER) > tuple_(*position), IS_NO_CHECK)
    counted = select(func.count()).select_from(later.limit(limit).subquery())
    return int(connection.execute(counted).scalar_one())


def end(connection: Connection) -> Position:
    """The end of the feed: every later change comes after this position."""
    last = select(*_ORDER).order_by(*(column.desc() for column in _ORDER)).limit(1)
    if connection.dialect.name == "postgresql":
        last = last.where(deliveries.c.changed_in < _SETTLED)
    # Take a delivery's position, not a transaction's number: `settle` begins above the former.
    row = connection.execute(last).one_or_none()
    return BEGINNING if row is None else (row.changed_in, row.message_id, row.recipient)


def holder(connection: Connection) -> str | None:
    """The number of the transaction that holds the feed back: the oldest that has written.

    It may be in any database of the server. None if none is older than one that has ended.
    """
    if connection.dialect.name != "postgresql":
        return None
    held_by: str | None = connection.execute(_HOLDER).scalar_one()
    return held_by


def commit_token(connection: Connection) -> str:
    """A token that changes whenever a visible status does."""
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
        known = _known(connection)
    if not _is_settled(database, known):
        known = _settle(database)
    if database.server is None and known.server.place == UNKNOWN_PLACE:
        log.warning("the server tells no timeline: after a failover the change feed may skip some")
    if database.server != known.server:
        database.server, database.feed_base = known.server, known.base
        database.close()  # connections know the server as it was when they began


class _Known(NamedTuple):
    """A server, and the state of the change feed there."""

    server: Server
    base: int
    is_above_all: bool  # new positions come after those of all deliveries


def _known(connection: Connection) -> _Known:
    row = connection.execute(_KNOWN).one()
    server = Server(postgresql.place_of(connection), row.history)
    return _Known(server, row.base, row.is_above_all)


def _is_settled(database: Database, known: _Known) -> bool:
    place, _, token = (known.server.history or "").rpartition("/")
    if not (token and place == known.server.place and known.is_above_all):
        return False
    return not _took_over(database, known)


def _took_over(database: Database, known: _Known) -> bool:
    """True if another server has shown positions that this one may give out again."""
    history, place = known.server.history, known.server.place
    is_known = database.server is None or database.server.history == history
    # Perhaps another replica has settled it, but one that didn't know of the latest server.
    if not is_known and known.base <= database.feed_base:
        return True
    # A version before tokens wrote the place alone.
    return history is not None and place not in {history, history.rpartition("/")[0]}


def _settle(database: Database) -> _Known:
    engine = database.write.execution_options(isolation_level="READ COMMITTED")
    with engine.begin() as connection:
        connection.execute(_LOCK)
        known = _known(connection)
        if _is_settled(database, known):  # by another replica meanwhile
            return known
        took_over = _took_over(database, known)
        place = known.server.place
        server = Server(place, f"{place}/{secrets.token_hex(8)}")
        values = {
            "history": server.history,
            "took_over": took_over,
            "known_base": database.feed_base,
            "gap": FAILOVER_GAP,
        }
        base = connection.execute(_SETTLE, values).scalar_one()
    if took_over:
        log.warning(
            "another server has taken over; the change feed goes on above all it has shown",
            extra={"before": known.server.history, "now": server.history},
        )
    return _Known(server, base, is_above_all=True)
