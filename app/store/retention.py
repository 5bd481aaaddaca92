"""Retention: remove final messages that are old, with their history, in small transactions."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    and_,
    delete,
    func,
    not_,
    or_,
    select,
    tuple_,
)

from app.reports import RANK, State
from app.store import postgresql, stats
from app.store.engine import Database
from app.store.keys import KEY, have_keys
from app.store.read import IS_UNREPORTED
from app.store.tables import deliveries, quarantine, reports

# Rows in a transaction: the writer must wait for it.
BATCH: Final = 200
# A person must consent to purge more than this share of all deliveries, unless they are few.
USUAL_SHARE: Final = 0.25
USUAL_ROWS: Final = 20
WRONG_CLOCK_S: Final = 3600

_POSITION: Final = (deliveries.c.last_received_at, *KEY)
_BEFORE_UNREPORTED: Final = (0, "", "")
_BEFORE_REPORTED: Final = (1, "", "")


class Purged(NamedTuple):
    """Numbers of rows that were removed, or that are due."""

    deliveries: int = 0
    reports: int = 0
    refused: int = 0

    def and_also(self, other: "Purged") -> "Purged":
        return Purged(*(mine + its for mine, its in zip(self, other, strict=True)))


_others: Final = deliveries.alias("others")


def _is_due(before: int) -> ColumnElement[bool]:
    """True for a delivery whose whole message is old: a message goes whole, or stays whole."""
    other_stays = (
        select(_others.c.rank)
        .where(_others.c.message_id == deliveries.c.message_id, not_(_is_old(_others, before)))
        .exists()
    )
    return and_(_is_old(deliveries, before), not_(other_stays))


def _is_old(delivery: FromClause, before: int) -> ColumnElement[bool]:
    """True for a final delivery whose last report, or else its expiry, is before `before`."""
    last = delivery.c.last_received_at
    given_up_before = func.coalesce(delivery.c.expired_at, before) < before
    return and_(
        delivery.c.rank >= RANK[State.EXPIRED], last < before, or_(last > 0, given_up_before)
    )


def due(connection: Connection, before: int) -> Purged:
    """Count the rows that a purge would remove now. `before` in microseconds since 1970 UTC."""
    with_only_report = func.count(deliveries.c.times_received)
    of_due = select(func.count(), with_only_report).select_from(deliveries).where(_is_due(before))
    their_reports = (
        select(func.count())
        .select_from(deliveries)
        .join(
            reports,
            and_(
                reports.c.message_id == deliveries.c.message_id,
                reports.c.recipient == deliveries.c.recipient,
            ),
        )
        .where(_is_due(before))
    )
    refused = select(func.count()).where(quarantine.c.last_received_at < before)
    total, only = connection.execute(of_due).one()
    others, old = (connection.execute(it).scalar_one() for it in (their_reports, refused))
    return Purged(total, only + others, old)


def objection(connection: Connection, before: int) -> str | None:
    """Why a purge is unusual, so that a person should look at it: a wrong clock, most likely.

    `before` in microseconds since 1970 UTC.
    """
    difference_s = postgresql.clock_difference_s(connection)
    if abs(difference_s) > WRONG_CLOCK_S:
        return f"the database's clock differs from ours by {difference_s:.0f} s"
    if _newest(connection) < before:
        return "every report is older than the limit"
    total = sum(row.deliveries for row in stats.count(connection, ["state"], None, None, 100))
    most = max(USUAL_ROWS, int(total * USUAL_SHARE))
    some = select(deliveries.c.rank).where(_is_due(before)).limit(most + 1).subquery()
    if connection.execute(select(func.count()).select_from(some)).scalar_one() > most:
        return f"more than {USUAL_SHARE:.0%} of all deliveries would go at once"
    return None


def _newest(connection: Connection) -> int:
    """The time of the latest report, refused ones included; far ahead if there is none."""
    latest = (func.max(table.c.last_received_at) for table in (deliveries, quarantine))
    times = [connection.execute(select(it)).scalar_one() for it in latest]
    return max((time for time in times if time), default=2**62)


def purge(database: Database, before: int) -> Iterator[Purged]:
    """Remove the rows that are due. Yields what each transaction removed, once it is on disk.

    Several purges at once are harmless. A delivery that is being written to is left to the next
    purge. A report that comes after its delivery was purged begins a new delivery.
    """
    for beginning in (_BEFORE_UNREPORTED, _BEFORE_REPORTED):
        position: Sequence[Any] | None = beginning
        while position is not None:
            # A page has all old rows, due or not: to fill a page with due rows could take long.
            with database.read.connect() as connection:
                keys, position = _page(connection, before, position)
            yield _purge_deliveries(database, before, keys) if keys else Purged()
    while (purged := _purge_refused(database, before)).refused:
        yield purged
    with database.transaction() as connection:
        stats.forget_empty(connection, before // stats.HOUR)


def _page(
    connection: Connection, before: int, position: Sequence[Any]
) -> tuple[list[tuple[str, str]], Sequence[Any] | None]:
    """The due keys of the next page, and the page's end; None for the end of the last page.

    Those without a report have pages of their own: by its time they are all ties.
    """
    later: ColumnElement[bool] = tuple_(*_POSITION) > tuple_(*position)
    if position[0] == 0:
        unreported = IS_UNREPORTED[connection.dialect.name]
        later = and_(unreported, tuple_(*KEY) > tuple_(*position[1:]))
    rows = connection.execute(
        select(*_POSITION, _is_due(before).label("is_due"))
        .where(later, deliveries.c.last_received_at < before)
        .order_by(*_POSITION)
        .limit(BATCH)
    ).all()
    keys = [(row.message_id, row.recipient) for row in rows if row.is_due]
    return keys, rows[-1][:3] if len(rows) == BATCH else None


def _purge_deliveries(database: Database, before: int, keys: list[tuple[str, str]]) -> Purged:
    with database.transaction() as connection:
        # Lock the deliveries first, so that no writer adds to their history. Check again if they
        # are due, as they may have changed. Skip those that another transaction holds.
        still_due = connection.execute(
            select(*KEY, deliveries.c.times_received)
            .where(have_keys(deliveries, keys), _is_due(before))
            .with_for_update(skip_locked=True)
        ).all()
        if not still_due:
            return Purged()
        locked = [(key.message_id, key.recipient) for key in still_due]
        others = connection.execute(delete(reports).where(have_keys(reports, locked))).rowcount
        connection.execute(delete(deliveries).where(have_keys(deliveries, locked)))
    only = sum(row.times_received is not None for row in still_due)
    return Purged(deliveries=len(locked), reports=only + others)


def _purge_refused(database: Database, before: int) -> Purged:
    oldest = (
        select(quarantine.c.id)
        .where(quarantine.c.last_received_at < before)
        .order_by(quarantine.c.last_received_at, quarantine.c.id)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    with database.transaction() as connection:
        removed = connection.execute(delete(quarantine).where(quarantine.c.id.in_(oldest)))
    return Purged(refused=removed.rowcount)
