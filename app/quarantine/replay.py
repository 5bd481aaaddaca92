"""Replay: parse refused callbacks again under today's rules, and store those that are valid now."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row
from sqlalchemy.exc import SQLAlchemyError

from app.callback.parse import InvalidReportError, parse
from app.reports import DeliveryReport
from app.store import faults, quarantine, write
from app.store.engine import Database

# Rows in a transaction: the writer must wait for it.
BATCH: Final = 100
SOURCE: Final = "replay"


class Replayed(NamedTuple):
    """The number of rows that went into the history, and of those that stay in the quarantine."""

    replayed: int
    still_rejected: int


class Reread(NamedTuple):
    """A row that is a valid report now: one report for its first time and one for its last."""

    row: Row[Any]
    reports: list[DeliveryReport]


def replay(database: Database, ids: Collection[str] | None = None) -> Iterator[Replayed]:
    """Replay the rows with these ids, or all. Yields each batch's result once it is on disk.

    Unknown ids are ignored. A report keeps its original times and the number of its repeats.
    """
    after_id = ""
    while True:
        with database.transaction() as connection:
            rows = quarantine.take(connection, after_id, BATCH, ids)
            stored = _store(connection, [reread for row in rows if (reread := _reread(row))])
            quarantine.count_more(
                connection,
                [
                    (reports[0], row.times_received - len(reports))
                    for row, reports in stored
                    if row.times_received > len(reports)
                ],
            )
            quarantine.remove(connection, [row.id for row, _ in stored])
        if not rows:
            return
        yield Replayed(len(stored), len(rows) - len(stored))
        after_id = rows[-1].id


def _reread(row: Row[Any]) -> Reread | None:
    query = row.query.encode()
    try:
        first = parse(query, row.received_at, SOURCE)
    except InvalidReportError:
        return None
    if row.times_received == 1:
        return Reread(row, [first])
    return Reread(row, [first, first._replace(received_at=row.last_received_at)])


def _store(connection: Connection, rows: Sequence[Reread]) -> list[Reread]:
    """Store the rows and return those that the database took: it may refuse some that we don't."""
    if not rows:
        return []
    try:
        with connection.begin_nested():
            write.record(connection, [report for row in rows for report in row.reports])
    except SQLAlchemyError as error:
        if not faults.is_fault_of_data(error):
            raise
        middle = len(rows) // 2
        return [
            stored
            for part in (rows[:middle], rows[middle:])
            if len(part) < len(rows)
            for stored in _store(connection, part)
        ]
    return list(rows)
