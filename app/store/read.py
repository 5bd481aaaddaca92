"""Reading: the deliveries of messages, and pages of deliveries."""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    TextClause,
    bindparam,
    func,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.types import Text

from app.reports import LOWEST_FINAL_RANK, State
from app.store.keys import KEY
from app.store.tables import deliveries

# The columns of a delivery that the API shows.
SHOWN = deliveries.c[
    "message_id",
    "recipient",
    "state",
    "reason",
    "conflicting",
    "status",
    "statuscode",
    "errcode",
    "mcc_mnc",
    "first_received_at",
    "last_received_at",
    "submitted_at",
    "reference",
    "price",
    "parts",
]

_OF_MESSAGES = select(*SHOWN).order_by(deliveries.c.message_id, deliveries.c.recipient)
# One parameter for any number of ids, so that the statement stays the same, and prepared. It is a
# text, because the driver binds an array slower than the database splits a text. No id has a space.
_ANY_OF = {
    "sqlite": deliveries.c.message_id.in_(
        select(text("value")).select_from(func.json_each(bindparam("ids")))
    ),
    "postgresql": deliveries.c.message_id
    == func.any(func.string_to_array(bindparam("ids", type_=Text), " ")),
}
_OF_MESSAGES_ON = {dialect: _OF_MESSAGES.where(any_of) for dialect, any_of in _ANY_OF.items()}
_FINAL_OF = (
    select(deliveries.c.message_id)
    .group_by(deliveries.c.message_id)
    .having(func.min(deliveries.c.rank) >= LOWEST_FINAL_RANK)
)
_FINAL_OF_ON = {dialect: _FINAL_OF.where(any_of) for dialect, any_of in _ANY_OF.items()}

Deliveries = Sequence[Row[Any]]


def deliveries_of(connection: Connection, message_id: str) -> Deliveries:
    """The deliveries of a message, ordered by recipient; none if the message is unknown."""
    return deliveries_of_each(connection, [message_id]).get(message_id, [])


def deliveries_of_each(
    connection: Connection, message_ids: Sequence[str]
) -> dict[str, list[Row[Any]]]:
    """The deliveries of each known message, ordered by recipient."""
    dialect = connection.dialect.name
    found = defaultdict(list)
    for row in connection.execute(_OF_MESSAGES_ON[dialect], _bound(dialect, message_ids)).all():
        found[row[0]].append(row)
    return found


def final_of(connection: Connection, message_ids: Collection[str]) -> set[str]:
    """Those of the messages whose deliveries are known and all final."""
    dialect = connection.dialect.name
    return set(connection.execute(_FINAL_OF_ON[dialect], _bound(dialect, message_ids)).scalars())


def _bound(dialect: str, message_ids: Collection[str]) -> dict[str, str]:
    if dialect == "sqlite":
        return {"ids": json.dumps([*message_ids])}
    return {"ids": " ".join(message_ids)}


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions for a list of deliveries. Times of the last report, in us since 1970 UTC."""

    recipient: str | None = None
    state: State | None = None
    reason: str | None = None
    mcc_mnc: str | None = None
    errcode: str | None = None
    reference: str | None = None
    since: int | None = None  # inclusive
    until: int | None = None  # exclusive
    conflicting: bool = False  # only those whose final reports disagree
    networks: tuple[str, ...] | None = None  # any of these


# As the partial index has it, so that the database sees that it may use the index.
IS_CONFLICTING = text("conflicting")
# As the partial indexes by key have them. SQLite doesn't know how many rows tie: without the
# hint it reads all of them by another index, and sorts them.
IS_UNREPORTED = {
    "postgresql": text("last_received_at = 0"),
    "sqlite": text("likely(last_received_at = 0)"),
}
IS_BEFORE_FEED = {
    "postgresql": text("changed_in = 0"),
    "sqlite": text("likely(changed_in = 0)"),
}
_PLACE = tuple_(deliveries.c.last_received_at, *KEY)


def page(
    connection: Connection, filters: Filters, limit: int, after: tuple[int | str, ...] | None
) -> Deliveries:
    """At most `limit` deliveries, latest report first.

    They come after the one with `after` as (last_received_at, message_id, recipient).
    """
    if filters.networks is not None and not _finds_few(filters):
        return _page_of_networks(connection, filters, limit, after)
    dialect = connection.dialect.name
    page = _page_of(dialect, filters, limit, after)
    if filters != Filters():
        return connection.execute(page).all()
    unreported = _unreported(dialect, limit)
    if after is not None and after[0] == 0:
        return connection.execute(unreported.where(tuple_(*after[1:]) > tuple_(*KEY))).all()
    page = page.where(deliveries.c.last_received_at > 0)
    reported = connection.execute(page).all()
    if len(reported) == limit:
        return reported
    # Both in one statement: none may fall between two because its first report came.
    return _merged(connection, [page, unreported], limit)


def _page_of_networks(
    connection: Connection, filters: Filters, limit: int, after: tuple[int | str, ...] | None
) -> Deliveries:
    """No index has several networks in the order of time, so merge the pages of each."""
    of_each = (replace(filters, networks=None, mcc_mnc=it) for it in filters.networks or ())
    pages = [_page_of(connection.dialect.name, it, limit, after) for it in of_each]
    return _merged(connection, pages, limit) if pages else []


def _merged(
    connection: Connection, pages: Sequence[Select[tuple[Any, ...]]], limit: int
) -> Deliveries:
    found = union_all(*(select(page.subquery()) for page in pages)).subquery()
    return connection.execute(select(found).order_by(*_latest_first(found)).limit(limit)).all()


def _page_of(
    dialect: str, filters: Filters, limit: int, after: tuple[int | str, ...] | None
) -> Select[tuple[Any, ...]]:
    page = select(*SHOWN)
    if after is not None:
        # Before other conditions: of two bounds of a time, SQLite uses the first.
        page = page.where(tuple_(*after) > _PLACE)
    page = page.where(*_conditions(dialect, filters))
    return page.order_by(*_latest_first(deliveries)).limit(limit)


def _unreported(dialect: str, limit: int) -> Select[tuple[Any, ...]]:
    page = select(*SHOWN).where(IS_UNREPORTED[dialect])
    return page.order_by(*_latest_first(deliveries)).limit(limit)


def _latest_first(rows: FromClause) -> list[ColumnElement[Any]]:
    return [rows.c[name].desc() for name in ("last_received_at", "message_id", "recipient")]


def _finds_few(filters: Filters) -> bool:
    """True for a filter that has few rows, so that its index must be the one that is used."""
    return not (filters.recipient is None and filters.reference is None) or filters.conflicting


def _conditions(dialect: str, filters: Filters) -> list[ColumnElement[bool] | TextClause]:
    column = deliveries.c
    # SQLite might as well take another condition's index: `|| ''` hides the others from it.
    is_found = filters.conflicting and filters.recipient is None and filters.reference is None
    conditions: list[ColumnElement[bool] | TextClause] = []
    if filters.conflicting:
        conditions.append(IS_CONFLICTING)
    for name in ("recipient", "reference", "state", "reason", "mcc_mnc", "errcode"):
        value = getattr(filters, name)
        if value is not None:
            conditions.append((column[name] + "" if is_found else column[name]) == value)
            is_found = is_found or name in {"recipient", "reference"}
    if filters.networks is not None:
        conditions.append((column.mcc_mnc + "").in_(filters.networks))
    # Nothing delivered has a reason.
    is_not_delivered = filters.state not in {None, State.DELIVERED} or filters.reason is not None
    if is_not_delivered and (filters.recipient is not None or not is_found):
        # Again the condition of a partial index.
        conditions.append(text("state <> 'delivered'"))
    at: ColumnElement[int] = column.last_received_at
    if dialect == "sqlite" and filters.mcc_mnc is not None and filters.reason is not None:
        at += 0  # hides the span, for which it would use the index of the reason alone
    if filters.since is not None:
        conditions.append(at >= filters.since)
    if filters.until is not None:
        conditions.append(at < filters.until)
        # A delivery without a report has no time, so it is not before any.
        conditions.append(at > 0)
    return conditions
