"""Rebuilding: every status once more, from its history and from what we know by ourselves.

Normally this changes nothing. It does where reports are read by other rules than when they came,
or where somebody changed rows by hand.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    Table,
    TextClause,
    and_,
    bindparam,
    case,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    text,
    tuple_,
    union,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from app.reports import LOWEST_REPORTED_FINAL_RANK, RANK, State
from app.store.changes import POSITION, begin_change
from app.store.engine import Database
from app.store.tables import deliveries, reports

# Deliveries a transaction: the writer waits for no more of them.
BATCH: Final = 1000

# State and reason of a report, by its status, statuscode and errcode.
Meaning = Callable[[int, str | None, str | None], tuple[str, str | None]]


class Change(NamedTuple):
    """A delivery whose status is not what its history says. None where it has no status."""

    message_id: str
    recipient: str
    was: str | None
    becomes: str


class Rebuilt(NamedTuple):
    """What was found in a batch."""

    deliveries: int
    reports: int  # those with another state or reason by today's rules
    changes: list[Change]


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
    after = ("", "")
    while True:
        with database.read.connect() as connection:
            keys = _next_keys(connection, after)
            if not keys:
                return
            span = Span(after, keys[-1])
            is_right = not (_misread(connection, span, meaning_of) or _wrong(connection, span))
        found = Rebuilt(len(keys), 0, [])
        yield found if is_right else _correct(database, span, meaning_of, found, dry_run=dry_run)
        after = span.last


def _next_keys(connection: Connection, after: tuple[str, str]) -> list[tuple[str, str]]:
    of_each = []
    for table in (reports, deliveries):
        key = (table.c.message_id, table.c.recipient)
        keys = select(*key).distinct().where(tuple_(*key) > tuple_(*after))
        of_each.append(select(keys.order_by(*key).limit(BATCH).subquery()))
    keys_of_both = union(*of_each).order_by("message_id", "recipient").limit(BATCH)
    return [(row.message_id, row.recipient) for row in connection.execute(keys_of_both)]


def _misread(connection: Connection, span: Span, meaning_of: Meaning) -> list[dict[str, Any]]:
    """What reports claim that means something else by today's rules, each with its meaning."""
    row = reports.c
    claims = select(row.status, row.statuscode, row.errcode, row.state, row.reason).distinct()
    found = []
    for claim in connection.execute(claims.where(span.of(reports))).mappings():
        state, reason = meaning_of(claim["status"], claim["statuscode"], claim["errcode"])
        if (claim["state"], claim["reason"]) != (state, reason):
            # Plain strings: a driver may take a member of an enumeration for its name.
            found.append({**claim, "means": str(state), "because": reason and str(reason)})
    return found


# All that a status is made of. `rank` is generated, as are the states of our own two marks.
_RANK_OF_STATE: Final = " ".join(f"WHEN '{state}' THEN {rank}" for state, rank in RANK.items())
_DECIDED: Final = (
    *("rank", "decided_at", "fingerprint"),
    *("state", "reason", "status", "statuscode", "errcode", "mcc_mnc"),
)
_STATUS: Final = (*_DECIDED, "conflicting", "first_received_at", "last_received_at")


def _facts(span: Span) -> Subquery:
    """What is known of each delivery: its reports, and that it was sent or given up."""
    row = reports.c
    reported = select(
        row.message_id,
        row.recipient,
        literal_column(f"CASE state {_RANK_OF_STATE} END").label("rank"),
        row.last_received_at.label("decided_at"),
        *(row[name] for name in _DECIDED[2:]),
        row.received_at,
        row.last_received_at,
    ).where(span.of(reports))
    sent = _own_mark(State.PENDING, literal_column("0")).where(span.of(deliveries))
    given_up = _own_mark(State.EXPIRED, deliveries.c.expired_at).where(
        span.of(deliveries), deliveries.c.expired_at.is_not(None)
    )
    return union_all(reported, sent, given_up).subquery("facts")


def _own_mark(state: State, decided_at: ColumnElement[Any]) -> Select[Any]:
    """A mark of ours, as if it were a report: it has nothing of the provider's."""
    return select(
        deliveries.c.message_id,
        deliveries.c.recipient,
        literal_column(str(RANK[state])),
        decided_at,
        literal_column("0"),
        literal_column(f"'{state}'"),
        *(null() for _ in range(7)),
    )


def _fold(span: Span) -> Subquery:
    """The status of each delivery: the greatest fact decides, as in `store.write`."""
    facts = _facts(span)
    fact = facts.c
    of_delivery = (fact.message_id, fact.recipient)
    greatest_first = (fact.rank.desc(), fact.decided_at.desc(), fact.fingerprint.desc())
    final = case((fact.rank >= LOWEST_REPORTED_FINAL_RANK, fact.state))
    ranked = select(
        fact.message_id,
        fact.recipient,
        *(fact[name] for name in _DECIDED),
        func.row_number().over(partition_by=of_delivery, order_by=greatest_first).label("place"),
        func.min(final).over(partition_by=of_delivery).label("one_final"),
        func.max(final).over(partition_by=of_delivery).label("another_final"),
        func.min(fact.received_at).over(partition_by=of_delivery).label("first_received_at"),
        func.max(fact.last_received_at).over(partition_by=of_delivery).label("last_report_at"),
    ).subquery("ranked")
    return (
        select(
            *(ranked.c[name] for name in ("message_id", "recipient", *_DECIDED)),
            func.coalesce(ranked.c.one_final != ranked.c.another_final, false()).label(
                "conflicting"
            ),
            ranked.c.first_received_at,
            func.coalesce(ranked.c.last_report_at, 0).label("last_received_at"),
        )
        .where(ranked.c.place == 1)
        .subquery("folded")
    )


def _wrong(connection: Connection, span: Span) -> list[dict[str, Any]]:
    """The right status of each delivery that has another, or none; and the state that it `was`."""
    folded = _fold(span)
    known = deliveries.c
    of_same = and_(
        span.of(deliveries),
        known.message_id == folded.c.message_id,
        known.recipient == folded.c.recipient,
    )
    differs = (known[name].is_distinct_from(folded.c[name]) for name in _STATUS)
    statement = (
        select(folded, known.state.label("was"))
        .select_from(folded.outerjoin(deliveries, of_same))
        .where(or_(known.message_id.is_(None), *differs))
        .order_by(folded.c.message_id, folded.c.recipient)
    )
    return [dict(row) for row in connection.execute(statement).mappings()]


def _correct(
    database: Database, span: Span, meaning_of: Meaning, found: Rebuilt, *, dry_run: bool
) -> Rebuilt:
    with database.transaction() as connection:
        missing = _begin_missing(connection, span)
        # From here on no writer changes these, nor adds to their history.
        connection.execute(
            select(deliveries.c.rank)
            .where(span.of(deliveries))
            .order_by(deliveries.c.message_id, deliveries.c.recipient)
            .with_for_update()
        ).all()
        misread = _misread(connection, span, meaning_of)
        reread = sum(_reread(connection, span, claim) for claim in misread)
        wrong = _wrong(connection, span)
        if dry_run:
            connection.rollback()
        elif wrong:
            _write(connection, wrong)
    changes = [
        Change(
            row["message_id"],
            row["recipient"],
            None if (row["message_id"], row["recipient"]) in missing else row["was"],
            row["state"],
        )
        for row in wrong
    ]
    return found._replace(reports=reread, changes=changes)


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


def _reread(connection: Connection, span: Span, claim: dict[str, Any]) -> int:
    names = ("status", "statuscode", "errcode", "state", "reason")
    same = (reports.c[name].is_not_distinct_from(claim[name]) for name in names)
    return connection.execute(
        update(reports)
        .where(span.of(reports), *same)
        .values(state=claim["means"], reason=claim["because"])
    ).rowcount


def _write(connection: Connection, statuses: list[dict[str, Any]]) -> None:
    begin_change(connection)
    of_delivery = and_(
        deliveries.c.message_id == bindparam("of_message"),
        deliveries.c.recipient == bindparam("of_recipient"),
    )
    position: TextClause = text(POSITION[connection.dialect.name])
    connection.execute(
        update(deliveries)
        .where(of_delivery)
        .values({name: bindparam(name) for name in _STATUS} | {"changed_in": position}),
        [
            {
                "of_message": status["message_id"],
                "of_recipient": status["recipient"],
                **{name: status[name] for name in _STATUS},
            }
            for status in statuses
        ],
    )
