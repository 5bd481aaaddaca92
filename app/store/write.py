"""Recording reports: a batch goes into the statuses and the history, in one commit.

The statement itself holds the fold, so the rule holds whatever else writes at the same time. The
fold takes a maximum, so the order of arrival doesn't matter. The first report of a delivery is kept
in the delivery's row; the next one moves it to `reports`, by a trigger, and goes there, too.
"""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.engine.interfaces import DBAPICursor

from app.reports import (
    BEFORE_ALL_US,
    CALLBACK,
    CLOCK_TOLERANCE_US,
    LOWEST_REPORTED_FINAL_RANK,
    DeliveryReport,
)
from app.store import faults
from app.store.changes import NEXT_ON_SQLITE, POSITION
from app.store.engine import Database

# Column and PostgreSQL type, in the order of `DeliveryReport` and then of `_rounds`.
COLUMNS = {
    "message_id": "text",
    "recipient": "text",
    "fingerprint": "bigint",
    "query": "text",
    "source": "text",
    "received_at": "bigint",
    "rank": "smallint",
    "state": "text",
    "reason": "text",
    "status": "integer",
    "statuscode": "text",
    "errcode": "text",
    "mcc_mnc": "text",
    "last_received_at": "bigint",
    "times_received": "integer",
}

_CLAIM = "state, reason, status, statuscode, errcode, mcc_mnc"
_REPORTS_COLUMNS = f"""message_id, recipient, fingerprint, query, source, {_CLAIM},
    received_at, last_received_at, times_received"""
_REPORTS = f"INSERT INTO reports ({_REPORTS_COLUMNS})"
_STATUS = f"""INSERT INTO deliveries (message_id, recipient, fingerprint, rank, {_CLAIM},
    decided_at, first_received_at, last_received_at, conflicting, changed_in,
    times_received, source, query)"""
_STATUS_VALUES = f"""message_id, recipient, fingerprint, rank, {_CLAIM},
    last_received_at, received_at, last_received_at, false, POSITION,
    times_received, source, query"""


def _earlier(table: str, column: str) -> str:
    old, new = f"{table}.{column}", f"excluded.{column}"
    return f"{column} = CASE WHEN {old} IS NULL OR {new} < {old} THEN {new} ELSE {old} END"


# A time beyond this was taken from a wrong clock. It comes before every other, or its report
# would win for as long as the clock was ahead. In each database's SQL, for `HORIZON` below.
_HORIZON = {
    "postgresql": f"(extract(epoch FROM now()) * 1000000)::bigint + {CLOCK_TOLERANCE_US}",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
    f" + {CLOCK_TOLERANCE_US}",
}


def _order(time: str) -> str:
    """SQL for the place of a time among others (`reports.order_of`)."""
    return f"CASE WHEN {time} > HORIZON THEN {time} - {BEFORE_ALL_US} ELSE {time} END"


def _later(table: str, column: str) -> str:
    old, new = f"{table}.{column}", f"excluded.{column}"
    is_later = f"{old} = 0 OR {_order(new)} > {_order(old)}"
    return f"{column} = CASE WHEN {is_later} THEN {new} ELSE {old} END"


# Both databases understand these, but for `HORIZON` and `POSITION`. A repeated report only counts.
_ON_KNOWN_REPORT = f"""
ON CONFLICT (message_id, recipient, fingerprint) DO UPDATE SET
    times_received = reports.times_received + excluded.times_received,
    {_earlier("reports", "received_at")},
    {_later("reports", "last_received_at")}
"""

# The greatest decides: by rank, then the one received last, then the greater fingerprint.
_NEW_DECIDES = f"""
(excluded.rank, {_order("excluded.decided_at")}, excluded.fingerprint)
    > (deliveries.rank, {_order("deliveries.decided_at")}, deliveries.fingerprint)"""

# Two final reports of the provider's that disagree. Comparing with the deciding one is enough: it
# is final as soon as any is, and two others that disagree were noticed when the second one came.
_CONTRADICTS = f"""
(excluded.rank >= {LOWEST_REPORTED_FINAL_RANK} AND deliveries.rank >= {LOWEST_REPORTED_FINAL_RANK}
    AND excluded.state <> deliveries.state)"""

# A change that the feed shows: no repeat, and no report that decides nothing.
_CHANGES = f"""
({_NEW_DECIDES} AND (excluded.state <> deliveries.state
    OR excluded.fingerprint <> deliveries.fingerprint
    OR coalesce(excluded.reason, '') <> coalesce(deliveries.reason, ''))
    OR {_CONTRADICTS} AND NOT deliveries.conflicting)"""

_DECIDED = ",\n    ".join(
    f"{column} = CASE WHEN {_NEW_DECIDES} THEN excluded.{column} ELSE deliveries.{column} END"
    for column in ("fingerprint", "rank", *_CLAIM.split(", "))
)
# Of a repeat the later time counts, even if another version gave the first another rank.
_IS_LATER = f"{_order('excluded.decided_at')} > {_order('deliveries.decided_at')}"
_DECIDED_AT = f"""decided_at = CASE
        WHEN CASE WHEN excluded.fingerprint = deliveries.fingerprint THEN {_IS_LATER}
            ELSE {_NEW_DECIDES} END
        THEN excluded.decided_at
        ELSE deliveries.decided_at
    END"""
# The row holds the first report if that decides, and counts its repeats; else it holds none.
_TAKES_FIRST = f"deliveries.last_received_at = 0 AND {_NEW_DECIDES}"
_ONLY = f"""
    times_received = CASE
        WHEN {_TAKES_FIRST} THEN excluded.times_received
        WHEN excluded.fingerprint = deliveries.fingerprint
        THEN deliveries.times_received + excluded.times_received
    END,
    source = CASE WHEN {_TAKES_FIRST} THEN excluded.source ELSE deliveries.source END,
    query = CASE WHEN {_TAKES_FIRST} THEN excluded.query ELSE deliveries.query END"""

_ON_KNOWN_DELIVERY = f"""
ON CONFLICT (message_id, recipient) DO UPDATE SET
    {_DECIDED},
    {_DECIDED_AT},
    {_ONLY},
    conflicting = deliveries.conflicting OR {_CONTRADICTS},
    changed_in = CASE WHEN {_CHANGES} THEN excluded.changed_in ELSE deliveries.changed_in END,
    {_earlier("deliveries", "first_received_at")},
    {_later("deliveries", "last_received_at")}
"""

# NULL times: the row doesn't hold the report, so `reports` must.
_RETURNING = "RETURNING message_id, recipient, times_received"

_SPECIAL = re.compile(r'["\\]')
# The rows of the arrays. In `FROM` the server would first store what each `unnest` returns.
_BATCH = "SELECT " + ", ".join(
    f"unnest(${place}::{kind}[]) AS {column}"
    for place, (column, kind) in enumerate(COLUMNS.items(), start=1)
)


def _on_postgresql(statement: str) -> str:
    horizon, position = _HORIZON["postgresql"], POSITION["postgresql"]
    return statement.replace("HORIZON", horizon).replace("POSITION", position)


def _folding(on_known_delivery: str, on_known_report: str) -> str:
    """One statement: one round trip and one commit for a batch of any size."""
    # `IS TRUE` has the server look the keys up in a table in memory, whatever it expects of their
    # number.
    return _on_postgresql(f"""
WITH batch AS MATERIALIZED ({_BATCH}),
status AS (
    {_STATUS}
    SELECT {_STATUS_VALUES}
    FROM batch
    {on_known_delivery}
    {_RETURNING}
)
{_REPORTS}
SELECT {_REPORTS_COLUMNS}
FROM batch
WHERE ((message_id, recipient) IN (
    SELECT message_id, recipient FROM status WHERE times_received IS NULL
)) IS TRUE
{on_known_report}
""")


FOLD: Final = _folding(_ON_KNOWN_DELIVERY, _ON_KNOWN_REPORT)
# For a batch of new deliveries, as most are: without a fold it costs the server a quarter less.
NEW: Final = _on_postgresql(f"""
{_STATUS}
SELECT {_STATUS_VALUES}
FROM ({_BATCH}) AS batch
ON CONFLICT (message_id, recipient) DO NOTHING
""")
# Folds what `NEW` left out of the same batch. It knows its rows by fingerprint and time.
REST: Final = _folding(
    f"""{_ON_KNOWN_DELIVERY}
    WHERE (excluded.fingerprint, excluded.first_received_at)
        IS DISTINCT FROM (deliveries.fingerprint, deliveries.first_received_at)""",
    f"{_ON_KNOWN_REPORT} WHERE excluded.received_at <> reports.received_at",
)
_FOR_THE_DRIVER: Final = re.sub(r"\$\d+", "%s", FOLD)

# Rows share a statement: Python's lock is released and fought for at each, and not at each row.
_ROWS_AT_ONCE: Final = (64, 32, 16, 8, 4, 2, 1)


def _sqlite_statements(start: str, values: str, end: str) -> dict[int, str]:
    """A statement for each number of rows, whose fields it takes one after the other.

    SQLite wants a statement to use the last mark, so `values` have the last of `COLUMNS`.
    """
    place = {column: place for place, column in enumerate(COLUMNS, start=1)}
    names = re.split(r",\s+", values)

    def marks(row: int) -> str:
        before = row * len(COLUMNS)
        return ", ".join(f"?{before + place[it]}" if it in place else it for it in names)

    return {
        rows: f"{start} VALUES ({'), ('.join(map(marks, range(rows)))}) {end}".replace(
            "HORIZON", _HORIZON["sqlite"]
        ).replace("POSITION", POSITION["sqlite"])
        for rows in _ROWS_AT_ONCE
    }


_SQLITE_STATUS: Final = _sqlite_statements(
    _STATUS, _STATUS_VALUES, f"{_ON_KNOWN_DELIVERY} {_RETURNING}"
)
_SQLITE_REPORTS: Final = _sqlite_statements(_REPORTS, _REPORTS_COLUMNS, _ON_KNOWN_REPORT)


def commit(database: Database, batch: Sequence[DeliveryReport]) -> None:
    """Record a batch in a commit of its own. Raises as `Database.batch`."""
    if database.is_embedded:
        with database.embedded_batch() as cursor:
            _record_on_sqlite(cursor, batch)
    else:
        with database.batch() as connection:
            record(connection, batch)


def record(connection: Connection, batch: Sequence[DeliveryReport]) -> None:
    """Add the reports to the history and fold them into the statuses.

    `batch` has at least one report, in any order, repeats included. A second time, only
    `times_received` changes. The caller commits, unless the connection is in autocommit.
    """
    if connection.dialect.name == "sqlite":
        # Use the driver's cursor: SQLAlchemy would add the cost of a row to each of the statements.
        try:
            _record_on_sqlite(connection.connection.cursor(), batch)
        except sqlite3.Error as error:
            raise faults.of_driver(error) from error
        return
    # Call the driver directly: SQLAlchemy's work on each row costs more than the disk does.
    for rows in _rounds(batch):
        connection.exec_driver_sql(_FOR_THE_DRIVER, tuple(_arrays(rows)))


def parameters_of(batch: Sequence[DeliveryReport]) -> tuple[list[bytes], int] | None:
    """The parameters of `FOLD`, `NEW` or `REST`, and the number of rows.

    None if one statement doesn't do, or no encoding.
    """
    rounds = _rounds(batch)
    if len(rounds) > 1:
        return None
    try:
        return [array.encode() for array in _arrays(rounds[0])], len(rounds[0])
    except UnicodeEncodeError:
        return None


@lru_cache(maxsize=4096)
def _end_of_query(
    status: int, statuscode: str | None, errcode: str | None, mcc_mnc: str | None
) -> str:
    optional = {"statuscode": statuscode, "errcode": errcode, "network": mcc_mnc}
    given = (f"&{name}={value}" for name, value in optional.items() if value is not None)
    return f"&status={status}{''.join(given)}"


def kept_query(report: DeliveryReport) -> str:
    """The raw query, or nothing if it is as in PaaSoo's guide: `history.REPORT` makes it again."""
    end = _end_of_query(report.status, report.statuscode, report.errcode, report.mcc_mnc)
    usual = f"type=dlr&messageid={report.message_id}&to={report.recipient}{end}"
    return "" if report.query == usual else report.query


Row = tuple[object, ...]  # of `COLUMNS`


def _row(report: DeliveryReport) -> Row:
    source = "" if report.source == CALLBACK else report.source  # as `history.REPORT` reads it
    return (*report[:3], kept_query(report), source, *report[5:])


def _arrays(rows: Sequence[Row]) -> list[str]:
    return [_array(column) for column in zip(*rows, strict=True)]


def _record_on_sqlite(cursor: DBAPICursor, batch: Sequence[DeliveryReport]) -> None:
    cursor.execute(NEXT_ON_SQLITE)
    for rows in _rounds(batch):
        further: list[Row] = []
        for piece in _pieces(rows):
            cursor.execute(_SQLITE_STATUS[len(piece)], tuple(chain.from_iterable(piece)))
            if not_kept := {kept[:2] for kept in cursor.fetchall() if kept[2] is None}:
                further += (row for row in piece if row[:2] in not_kept)
        for piece in _pieces(further):
            cursor.execute(_SQLITE_REPORTS[len(piece)], tuple(chain.from_iterable(piece)))


def _pieces(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """The rows, in as few pieces as there are statements for."""
    done = 0
    for size in _ROWS_AT_ONCE:
        while len(rows) - done >= size:
            yield rows[done : done + size]
            done += size


def _array(values: tuple[object, ...]) -> str:
    """An array literal of PostgreSQL (manual, 8.15.6): the driver takes ten times as long."""
    elements = ["NULL" if value is None else f'"{value}"' for value in values]
    literal = f"{{{','.join(elements)}}}"
    if "\\" in literal or literal.count('"') != 2 * (len(values) - values.count(None)):
        # A value has one of the two characters that need an escape between quotes.
        elements = [
            "NULL" if value is None else '"' + _SPECIAL.sub(r"\\\g<0>", str(value)) + '"'
            for value in values
        ]
        literal = f"{{{','.join(elements)}}}"
    return literal


def _rounds(batch: Sequence[DeliveryReport]) -> list[list[Row]]:
    """Rounds of rows. A row adds `last_received_at` and `times_received`.

    PostgreSQL refuses to touch a row twice in a statement, and SQLite tells in no order what it
    kept. So identical reports become one row, and different ones of the same delivery, which are
    rare, go into different rounds. Rows are sorted, because replicas that lock rows in one order
    never deadlock.
    """
    if len({report[:2] for report in batch}) == len(batch):
        return [[(*_row(report), report.received_at, 1) for report in sorted(batch)]]
    tallies: dict[tuple[str, str, int], tuple[DeliveryReport, int, int]] = {}
    for report in batch:
        known = tallies.get(report[:3])
        if known is None:
            tallies[report[:3]] = (report, report.received_at, 1)
        else:
            first, last_received_at, times = known
            earlier = report if report.received_at < first.received_at else first
            later = max(last_received_at, report.received_at)
            tallies[report[:3]] = (earlier, later, times + 1)
    rounds: list[list[Row]] = []
    delivery, reports_before = ("", ""), 0
    for key in sorted(tallies):
        reports_before = reports_before + 1 if key[:2] == delivery else 0
        delivery = key[:2]
        if reports_before == len(rounds):
            rounds.append([])
        report, last_received_at, times = tallies[key]
        rounds[reports_before].append((*_row(report), last_received_at, times))
    return rounds
