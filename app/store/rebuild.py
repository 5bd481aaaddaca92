"""Rebuilding: recompute every status from its history and our own marks.

Normally nothing changes. A status changes if today's rules give its reports another meaning or
other values, or if somebody edited rows.
"""

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    TextClause,
    and_,
    bindparam,
    case,
    delete,
    func,
    select,
    text,
    tuple_,
    union,
    update,
)

from app.reports import DeliveryReport, KnownReport, Refusal, State, Status, fold, order_of
from app.store.changes import POSITION, begin_change
from app.store.engine import Database
from app.store.history import HISTORY, REPORT
from app.store.inserting import insert_into
from app.store.keys import have_keys
from app.store.tables import deliveries, reports
from app.store.write import kept_query

# Deliveries in a transaction: the writer must wait for it.
BATCH: Final = 1000
# Reports in memory at once: a delivery may have any number.
REPORTS_AT_ONCE: Final = 2000

# Gives the state and reason of a report by its status, statuscode and errcode.
Meaning = Callable[[int, str | None, str | None], tuple[str, str | None]]
# Parses a raw query that was received at this time.
Understand = Callable[[bytes, int], DeliveryReport | Refusal]

ReportKey = tuple[str, str, int]  # message_id, recipient, fingerprint

# A value that an earlier version stored as it came, and that today's rules store otherwise.
_UNTIDY: Final = re.compile(r"\A\s|\s\Z|[\x00-\x1f\x7f-\x9f]")


class Rules(NamedTuple):
    """Today's rules, which the store doesn't know by itself."""

    meaning_of: Meaning
    understand: Understand


class Correction(NamedTuple):
    """A delivery whose status differs from its history's. `was` is None if it had no status."""

    message_id: str
    recipient: str
    was: str | None
    status: Status


class Claim(NamedTuple):
    """A report's own words, and the state and reason that they were given when it came."""

    status: int
    statuscode: str | None
    errcode: str | None
    state: str
    reason: str | None


# Today's state and reason of the claims that today's rules read differently.
Misread = dict[Claim, tuple[str, str | None]]


class Rebuilt(NamedTuple):
    """The result of a batch."""

    deliveries: int
    reports: int  # those with another state, reason or values under today's rules
    corrections: list[Correction]


class Span(NamedTuple):
    """The keys after `after`, up to and including `last`."""

    after: tuple[str, str]
    last: tuple[str, str]

    def of(self, table: FromClause) -> ColumnElement[bool]:
        key = tuple_(table.c.message_id, table.c.recipient)
        return and_(key > tuple_(*self.after), key <= tuple_(*self.last))


def count(connection: Connection) -> int:
    """The number of deliveries."""
    return int(connection.execute(select(func.count()).select_from(deliveries)).scalar_one())


def rebuild(database: Database, rules: Rules, *, dry_run: bool) -> Iterator[Rebuilt]:
    """Recompute every status, in the order of the keys. Yields the result of each batch.

    Safe while others write: most batches are only read, and a delivery is locked before it is
    corrected. With `dry_run` all changes are rolled back.
    """
    rules = rules._replace(meaning_of=_remembered(rules.meaning_of))
    after = ("", "")
    while True:
        with database.snapshot() as connection:
            keys = _next_keys(connection, after)
            if not keys:
                return
            span = Span(after, keys[-1])
            found = _compare(connection, span, rules.meaning_of)
        reread, wrong = 0, found.wrong
        if any(found):
            reread, wrong = _correct(database, span, rules, found.untidy, dry_run=dry_run)
        yield Rebuilt(len(keys), reread, wrong)
        after = span.last


def _remembered(meaning_of: Meaning) -> Meaning:
    """Cache the meanings: few reports differ in their words."""

    @lru_cache(maxsize=4096)
    def meaning(status: int, statuscode: str | None, errcode: str | None) -> tuple[str, str | None]:
        state, reason = meaning_of(status, statuscode, errcode)
        # Plain strings: a driver may bind a member of an enumeration as its name.
        return str(state), reason and str(reason)

    return meaning


def _next_keys(connection: Connection, after: tuple[str, str]) -> list[tuple[str, str]]:
    of_each = []
    for table in (reports, deliveries):
        key = (table.c.message_id, table.c.recipient)
        keys = select(*key).distinct().where(tuple_(*key) > tuple_(*after))
        of_each.append(select(keys.order_by(*key).limit(BATCH).subquery()))
    keys_of_both = union(*of_each).order_by("message_id", "recipient").limit(BATCH)
    return [(row.message_id, row.recipient) for row in connection.execute(keys_of_both)]


_key = itemgetter(0, 1)
ONLY_REPORT: Final = ("times_received", "source", "query")
# While a trigger was missing, a second report overwrote the first and left this.
_IS_DAMAGED = and_(deliveries.c.times_received.is_(None), deliveries.c.query.is_not(None))
_KNOWN = select(
    *deliveries.c["message_id", "recipient", "expired_at"],
    _IS_DAMAGED.label("is_damaged"),
    *(deliveries.c[name] for name in Status._fields),
)
_IS_IT = and_(
    reports.c.message_id == bindparam("of_message"),
    reports.c.recipient == bindparam("of_recipient"),
    reports.c.fingerprint == bindparam("of_fingerprint"),
)
_REPORT = select(*REPORT).where(
    HISTORY.c.message_id == bindparam("of_message"),
    HISTORY.c.recipient == bindparam("of_recipient"),
    HISTORY.c.fingerprint == bindparam("of_fingerprint"),
)
_HISTORY = select(
    *HISTORY.c["message_id", "recipient"], *(HISTORY.c[name] for name in KnownReport._fields)
).order_by(*HISTORY.c["message_id", "recipient", "fingerprint"])


class Found(NamedTuple):
    """The changes that today's rules would make in a span."""

    misread: Misread
    untidy: list[ReportKey]
    wrong: list[Correction]


def _of(message_id: str, recipient: str, fingerprint: int) -> dict[str, str | int]:
    return {"of_message": message_id, "of_recipient": recipient, "of_fingerprint": fingerprint}


def _compare(connection: Connection, span: Span, meaning_of: Meaning) -> Found:
    known = {_key(row): row for row in connection.execute(_KNOWN.where(span.of(deliveries)))}
    history = connection.execute(
        _HISTORY.where(span.of(HISTORY)), execution_options={"yield_per": REPORTS_AT_ONCE}
    )
    found = Found({}, [], [])
    wrong = found.wrong
    for (message_id, recipient), rows in groupby(history, key=_key):
        row = known.pop((message_id, recipient), None)
        expired_at = None if row is None else row.expired_at
        status = fold(_understood(rows, meaning_of, found), expired_at)
        if row is None or row.is_damaged or row[4:] != status:
            was = None if row is None else row.state
            wrong.append(Correction(message_id, recipient, was, status))
    for (message_id, recipient), row in known.items():  # no report came
        status = fold((), row.expired_at)
        if row.is_damaged or row[4:] != status:
            wrong.append(Correction(message_id, recipient, row.state, status))
    wrong.sort(key=_key)
    return found


def _understood(
    rows: Iterable[Row[Any]], meaning_of: Meaning, found: Found
) -> Iterator[KnownReport]:
    """Read the reports under today's rules, and note those that meant or said something else.

    And those that stand twice in the history, in `reports` and in the delivery.
    """
    before = None
    for row in rows:
        report = KnownReport._make(row[2:])
        is_again, before = report.fingerprint == before, report.fingerprint
        if is_again or _is_untidy(report.statuscode, report.errcode, report.mcc_mnc):
            found.untidy.append((row.message_id, row.recipient, report.fingerprint))
        meaning = meaning_of(report.status, report.statuscode, report.errcode)
        if (report.state, report.reason) != meaning:
            words = (report.status, report.statuscode, report.errcode)
            found.misread[Claim(*words, report.state, report.reason)] = meaning
            report = report._replace(state=meaning[0], reason=meaning[1])
        yield report


@lru_cache(maxsize=4096)
def _is_untidy(*values: str | None) -> bool:
    return any(value is not None and _UNTIDY.search(value) for value in values)


def _correct(
    database: Database,
    span: Span,
    rules: Rules,
    untidy: Collection[ReportKey],
    *,
    dry_run: bool,
) -> tuple[int, list[Correction]]:
    """Correct a span. Returns the number of reports read differently, and the corrections."""
    with database.transaction() as connection:
        missing = _begin_missing(connection, span)
        # Lock the deliveries: no writer changes them now, nor adds to their history.
        connection.execute(
            select(deliveries.c.rank)
            .where(span.of(deliveries))
            .order_by(deliveries.c.message_id, deliveries.c.recipient)
            .with_for_update()
        ).all()
        _move_to_reports(connection, untidy)
        reread = sum(_tidy(connection, key, rules.understand) for key in untidy)
        misread, _, wrong = _compare(connection, span, rules.meaning_of)
        reread += sum(
            _reread(connection, span, claim, meaning) for claim, meaning in misread.items()
        )
        if dry_run:
            connection.rollback()
        elif wrong:
            _write(connection, wrong)
    return reread, [
        correction._replace(was=None) if _key(correction) in missing else correction
        for correction in wrong
    ]


def _begin_missing(connection: Connection, span: Span) -> set[tuple[str, str]]:
    """Insert a pending delivery for each history without one, so that it can be locked too."""
    key = (reports.c.message_id, reports.c.recipient)
    known = (
        select(deliveries.c.rank)
        .where(deliveries.c.message_id == key[0], deliveries.c.recipient == key[1])
        .exists()
    )
    keys = connection.execute(
        select(*key).distinct().where(span.of(reports), ~known).order_by(*key)
    ).all()
    if keys:
        values = {"rank": 0, "decided_at": 0, "fingerprint": 0, "state": State.PENDING.value}
        rows = [
            {"message_id": key.message_id, "recipient": key.recipient, **values} for key in keys
        ]
        begun = insert_into(connection, deliveries).values(conflicting=False)
        connection.execute(begun.on_conflict_do_nothing(), rows)  # a writer may come first
    return {(key.message_id, key.recipient) for key in keys}


def _move_to_reports(connection: Connection, keys: Collection[ReportKey]) -> None:
    """Let no delivery hold one of these reports: a trigger moves it."""
    is_one = have_keys(deliveries, sorted({key[:2] for key in keys}))
    is_held = deliveries.c.times_received.is_not(None)
    if keys:
        connection.execute(update(deliveries).where(is_one, is_held).values(times_received=None))


def _tidy(connection: Connection, key: ReportKey, understand: Understand) -> bool:
    """Store a report with the values that its raw query has today. False if it has no others.

    The fingerprint follows from the values, so it may become a report that is there already.
    """
    row = connection.execute(_REPORT, _of(*key)).one_or_none()
    if row is None:  # purged meanwhile
        return False
    today = understand(row.query.encode(), row.received_at)
    if isinstance(today, Refusal) or today[:2] != key[:2]:
        return False
    same = connection.execute(_REPORT, _of(*today[:3])).one_or_none()
    if same is None or same.fingerprint == row.fingerprint:
        names = ("fingerprint", "state", "reason", "status", "statuscode", "errcode", "mcc_mnc")
        values = {name: getattr(today, name) for name in names}
        if all(getattr(row, name) == value for name, value in values.items()):
            return False
        values["query"] = kept_query(today)
    else:
        now = time.time_ns() // 1000
        values = {
            "times_received": same.times_received + row.times_received,
            "received_at": min(same.received_at, row.received_at),
            "last_received_at": max(
                same.last_received_at, row.last_received_at, key=lambda at: order_of(at, now)
            ),
        }
        connection.execute(delete(reports).where(_IS_IT), _of(*key))
        key = today[:3]
    connection.execute(update(reports).where(_IS_IT).values(values), _of(*key))
    return True


def _reread(
    connection: Connection, span: Span, claim: Claim, meaning: tuple[str, str | None]
) -> int:
    """Give the reports with this claim another meaning. Returns their number."""
    state, reason = meaning
    reread = 0
    for table in (reports, deliveries):
        same = (table.c[name].is_not_distinct_from(it) for name, it in claim._asdict().items())
        is_one = and_(span.of(table), table.c.times_received.is_not(None), *same)
        changed = update(table).where(is_one).values(state=state, reason=reason)
        reread += connection.execute(changed).rowcount
    return reread


def _write(connection: Connection, corrections: Iterable[Correction]) -> None:
    begin_change(connection)
    of_delivery = and_(
        deliveries.c.message_id == bindparam("of_message"),
        deliveries.c.recipient == bindparam("of_recipient"),
    )
    position: TextClause = text(POSITION[connection.dialect.name])
    # The first time of a row that holds a report is the report's. With another it holds none.
    holds_it = and_(
        deliveries.c.times_received.is_not(None),
        deliveries.c.first_received_at == bindparam("first_received_at"),
    )
    held = {name: case((holds_it, deliveries.c[name])) for name in ONLY_REPORT}
    connection.execute(
        update(deliveries)
        .where(of_delivery)
        .values({name: bindparam(name) for name in Status._fields})
        .values(held | {"changed_in": position}),
        [
            {
                "of_message": correction.message_id,
                "of_recipient": correction.recipient,
                **correction.status._asdict(),
            }
            for correction in corrections
        ],
    )
