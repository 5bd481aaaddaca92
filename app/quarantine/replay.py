"""Replay: what was refused is read again, under today's rules, and stored if it is valid now."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row
from sqlalchemy.exc import SQLAlchemyError

from app.callback.parse import InvalidReportError, parse
from app.reports import DeliveryReport
from app.store import faults, quarantine, write
from app.store.engine import Database

# Rows a transaction: the writer waits for no more of them.
BATCH: Final = 100
SOURCE: Final = "replay"


class Replayed(NamedTuple):
    """How many rows are in the history now, and how many are still in the quarantine."""

    replayed: int
    still_rejected: int


class Reread(NamedTuple):
    """A row that is a valid report by now: as it came first and, if it came again, last."""

    row: Row[Any]
    reports: list[DeliveryReport]


def replay(database: Database, ids: Collection[str] | None = None) -> Iterator[Replayed]:
    """Replay the rows with these ids, or all; what came of each batch, as soon as it is on disk.

    An id that isn't there counts as nothing. A report keeps the times when it came, and how often.
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
    """Those of the rows that the database takes: it refuses some that we would not."""
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
