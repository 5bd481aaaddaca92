"""Rebuilding: every status once more, from its history and from what we know by ourselves.

Normally this changes nothing. It does where reports are read by other rules than when they came,
or where somebody changed rows by hand.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    TextClause,
    and_,
    bindparam,
    func,
    select,
    text,
    tuple_,
    union,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from app.reports import KnownReport, State, Status, fold
from app.store.changes import POSITION, begin_change
from app.store.engine import Database
from app.store.tables import deliveries, reports

# Deliveries a transaction: the writer waits for no more of them.
BATCH: Final = 1000
# Reports that are in memory at once: a delivery may have any number.
REPORTS_AT_ONCE: Final = 2000

# State and reason of a report, by its status, statuscode and errcode.
Meaning = Callable[[int, str | None, str | None], tuple[str, str | None]]


class Correction(NamedTuple):
    """A delivery whose status is not what its history says. `was` is None where it has none."""

    message_id: str
    recipient: str
    was: str | None
    status: Status


class Claim(NamedTuple):
    """A report's own words, and what they were taken for when it came."""

    status: int
    statuscode: str | None
    errcode: str | None
    state: str
    reason: str | None


# State and reason of claims that mean something else by today's rules.
Misread = dict[Claim, tuple[str, str | None]]


class Rebuilt(NamedTuple):
    """What was found in a batch."""

    deliveries: int
    reports: int  # those with another state or reason by today's rules
    corrections: list[Correction]


class Span(NamedTuple):
    """Keys from behind `after`, up to and including `last`."""

    after: tuple[str, str]
    last: tuple[str, str]

    def of(self, table: Table) -> ColumnElement[bool]:
        key = tuple_(table.c.message_id, table.c.recipient)
        return and_(key > tuple_(*self.after), key <= tuple_(*self.last))


def count(connection: Connection) -> int:
    """How many deliveries there are to look at."""
    return int(connection.execute(select(func.count()).select_from(deliveries)).scalar_one())


def rebuild(database: Database, meaning_of: Meaning, *, dry_run: bool) -> Iterator[Rebuilt]:
    """Recompute every status, in the order of the keys; what was found in each batch.

    Safe while others write: most batches are only read, and what is changed is locked first. With
    `dry_run` nothing stays changed.
    """
    meaning_of = _remembered(meaning_of)
    after = ("", "")
    while True:
        with database.snapshot() as connection:
            keys = _next_keys(connection, after)
            if not keys:
                return
            span = Span(after, keys[-1])
            misread, wrong = _compare(connection, span, meaning_of)
        reread = 0
        if misread or wrong:
            reread, wrong = _correct(database, span, meaning_of, dry_run=dry_run)
        yield Rebuilt(len(keys), reread, wrong)
        after = span.last


def _remembered(meaning_of: Meaning) -> Meaning:
    """The same, and fast: few reports differ in their words."""

    @lru_cache(maxsize=4096)
    def meaning(status: int, statuscode: str | None, errcode: str | None) -> tuple[str, str | None]:
        state, reason = meaning_of(status, statuscode, errcode)
        # Plain strings: a driver may take a member of an enumeration for its name.
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
_KNOWN = select(
    *deliveries.c["message_id", "recipient", "expired_at"],
    *(deliveries.c[name] for name in Status._fields),
)
_HISTORY = select(
    *reports.c["message_id", "recipient"], *(reports.c[name] for name in KnownReport._fields)
).order_by(reports.c.message_id, reports.c.recipient)


def _compare(
    connection: Connection, span: Span, meaning_of: Meaning
) -> tuple[Misread, list[Correction]]:
    """The claims that were misread, and the deliveries that have not the status they should."""
    known = {_key(row): row for row in connection.execute(_KNOWN.where(span.of(deliveries)))}
    history = connection.execute(
        _HISTORY.where(span.of(reports)), execution_options={"yield_per": REPORTS_AT_ONCE}
    )
    misread: Misread = {}
    wrong = []
    for (message_id, recipient), rows in groupby(history, key=_key):
        row = known.pop((message_id, recipient), None)
        expired_at = None if row is None else row.expired_at
        status = fold(_understood(rows, meaning_of, misread), expired_at)
        if row is None or row[3:] != status:
            was = None if row is None else row.state
            wrong.append(Correction(message_id, recipient, was, status))
    for (message_id, recipient), row in known.items():  # no report came
        status = fold((), row.expired_at)
        if row[3:] != status:
            wrong.append(Correction(message_id, recipient, row.state, status))
    return misread, sorted(wrong, key=_key)


def _understood(
    rows: Iterable[Row[Any]], meaning_of: Meaning, misread: Misread
) -> Iterator[KnownReport]:
    """Reports by today's rules; what was read by others goes into `misread`."""
    for row in rows:
        report = KnownReport._make(row[2:])
        meaning = meaning_of(report.status, report.statuscode, report.errcode)
        if (report.state, report.reason) != meaning:
            words = (report.status, report.statuscode, report.errcode)
            misread[Claim(*words, report.state, report.reason)] = meaning
            report = report._replace(state=meaning[0], reason=meaning[1])
        yield report


def _correct(
    database: Database, span: Span, meaning_of: Meaning, *, dry_run: bool
) -> tuple[int, list[Correction]]:
    """Mend what is wrong; how many reports were misread, and what was corrected."""
    with database.transaction() as connection:
        missing = _begin_missing(connection, span)
        # From here on no writer changes these, nor adds to their history.
        connection.execute(
            select(deliveries.c.rank)
            .where(span.of(deliveries))
            .order_by(deliveries.c.message_id, deliveries.c.recipient)
            .with_for_update()
        ).all()
        misread, wrong = _compare(connection, span, meaning_of)
        reread = sum(
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
    """A row, pending as yet, for each history that has no status: to be locked with the others."""
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
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        begun = dialect.insert(deliveries).values(conflicting=False)
        connection.execute(begun.on_conflict_do_nothing(), rows)  # a writer may be faster
    return {(key.message_id, key.recipient) for key in keys}


def _reread(
    connection: Connection, span: Span, claim: Claim, meaning: tuple[str, str | None]
) -> int:
    same = (reports.c[name].is_not_distinct_from(value) for name, value in claim._asdict().items())
    state, reason = meaning
    return connection.execute(
        update(reports).where(span.of(reports), *same).values(state=state, reason=reason)
    ).rowcount


def _write(connection: Connection, corrections: Iterable[Correction]) -> None:
    begin_change(connection)
    of_delivery = and_(
        deliveries.c.message_id == bindparam("of_message"),
        deliveries.c.recipient == bindparam("of_recipient"),
    )
    position: TextClause = text(POSITION[connection.dialect.name])
    connection.execute(
        update(deliveries)
        .where(of_delivery)
        .values({name: bindparam(name) for name in Status._fields} | {"changed_in": position}),
        [
            {
                "of_message": correction.message_id,
                "of_recipient": correction.recipient,
                **correction.status._asdict(),
            }
            for correction in corrections
        ],
    )
