"""The quarantine: refused callbacks with their reasons. When it is full, the oldest go first."""

from collections import Counter
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    bindparam,
    delete,
    func,
    select,
    true,
    tuple_,
    update,
)

from app.reports import DeliveryReport, Refusal
from app.store.inserting import insert_into
from app.store.tables import deliveries, quarantine, reports

_newest_to_go = (
    select(quarantine.c.last_received_at, quarantine.c.id)
    .order_by(quarantine.c.last_received_at.desc(), quarantine.c.id.desc())
    .offset(bindparam("max_rows"))
    .limit(1)
    .cte("newest_to_go")
)
_PRUNE = (
    delete(quarantine)
    .where(
        quarantine.c.id.in_(
            select(quarantine.c.id)
            .where(
                tuple_(quarantine.c.last_received_at, quarantine.c.id)
                <= select(_newest_to_go.c.last_received_at, _newest_to_go.c.id).scalar_subquery(),
                # Keep the rows of this batch even if another replica's clock is ahead of ours.
                quarantine.c.id.not_in(bindparam("kept", expanding=True)),
            )
            # Don't wait for rows that another replica prunes at the same time.
            .with_for_update(of=quarantine, skip_locked=True)
        )
    )
    .returning(quarantine.c.id)
)


def keep(connection: Connection, refusals: Sequence[Refusal], max_rows: int) -> int:
    """Keep the refusals, a repeated query as one row, and return the number of old rows pruned.

    The caller commits, unless the connection is in autocommit.
    """
    statement = insert_into(connection, quarantine)
    statement = statement.on_conflict_do_update(
        index_elements=["id"],
        set_={
            "times_received": quarantine.c.times_received + statement.excluded.times_received,
            "last_received_at": statement.excluded.last_received_at,
            "code": statement.excluded.code,
            "detail": statement.excluded.detail,
        },
    )
    rows = _collapse(refusals)
    connection.execute(statement, rows)
    kept = [row["id"] for row in rows]
    return len(connection.execute(_PRUNE, {"max_rows": max_rows, "kept": kept}).all())


def _collapse(refusals: Sequence[Refusal]) -> list[dict[str, object]]:
    """One row for each query, sorted by key so that all replicas take their locks in one order."""
    times = Counter(refusal.query for refusal in refusals)
    first = {refusal.query: refusal for refusal in reversed(refusals)}
    latest = {refusal.query: refusal for refusal in refusals}
    rows = [
        {
            "id": blake2b(query.encode(), digest_size=16).hexdigest(),
            "received_at": first[query].received_at,
            "last_received_at": refusal.received_at,
            "times_received": times[query],
            "code": refusal.code,
            "detail": refusal.detail,
            "query": query,
        }
        for query, refusal in latest.items()
    ]
    return sorted(rows, key=lambda row: str(row["id"]))


def page(
    connection: Connection, limit: int, after: tuple[int | str, ...] | None
) -> Sequence[Row[tuple[object, ...]]]:
    """At most `limit` rows, latest first, below the row whose (received_at, id) is `after`."""
    statement = (
        select(quarantine)
        .order_by(quarantine.c.received_at.desc(), quarantine.c.id.desc())
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(
            tuple_(quarantine.c.received_at, quarantine.c.id) < tuple_(*after)
        )
    return connection.execute(statement).all()


def newest(connection: Connection) -> int:
    """When the row that came last was received first; 0 if there is none."""
    return connection.scalar(select(func.max(quarantine.c.received_at))) or 0


def count(
    connection: Connection, ids: Collection[str] | None = None, until: int | None = None
) -> int:
    """The number of rows, or of those with these ids, first received at `until` or before."""
    statement = select(func.count()).select_from(quarantine)
    if ids is not None:
        statement = statement.where(quarantine.c.id.in_(ids))
    if until is not None:
        statement = statement.where(quarantine.c.received_at <= until)
    return int(connection.execute(statement).scalar_one())


def take(
    connection: Connection,
    after_id: str,
    limit: int,
    ids: Collection[str] | None,
    until: int | None = None,
) -> Sequence[Row[Any]]:
    """Lock at most `limit` rows with these ids (None: any), in the order of ids, after `after_id`.

    Those that were first received after `until` are left out. The rows stay locked until the
    transaction ends. Rows that another replica has locked are left out.
    """
    statement = (
        select(quarantine)
        .where(quarantine.c.id > after_id)
        .order_by(quarantine.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    if ids is not None:
        statement = statement.where(quarantine.c.id.in_(ids))
    if until is not None:
        statement = statement.where(quarantine.c.received_at <= until)
    return connection.execute(statement).all()


def _is_it(table: Table) -> ColumnElement[bool]:
    return and_(
        table.c.message_id == bindparam("of_message"),
        table.c.recipient == bindparam("of_recipient"),
        table.c.fingerprint == bindparam("of_fingerprint"),
        table.c.times_received.is_not(None),
    )


_IS_HELD = select(deliveries.c.rank).where(_is_it(deliveries)).exists()
# A report in both tables is counted in its delivery.
_COUNT_MORE = [
    update(table)
    .where(_is_it(table), where)
    .values(times_received=table.c.times_received + bindparam("more"))
    for table, where in ((deliveries, true()), (reports, ~_IS_HELD))
]


def count_more(connection: Connection, receipts: Sequence[tuple[DeliveryReport, int]]) -> None:
    """Add to the number of times that each of these reports was received."""
    rows = [
        {
            "of_message": report.message_id,
            "of_recipient": report.recipient,
            "of_fingerprint": report.fingerprint,
            "more": more,
        }
        for report, more in receipts
    ]
    if rows:
        for count in _COUNT_MORE:
            connection.execute(count, rows)


def remove(connection: Connection, ids: Collection[str]) -> list[str]:
    """Remove the rows with these ids, and return the ids that existed."""
    removed = delete(quarantine).where(quarantine.c.id.in_(ids)).returning(quarantine.c.id)
    return list(connection.scalars(removed))
