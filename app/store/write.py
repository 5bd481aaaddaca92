"""Recording reports: a batch goes into the history and the statuses, in one commit.

The fold stands in the statement itself, so it holds whatever else writes at the same time.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from app.reports import (
    LOWEST_REPORTED_FINAL_RANK,
    DeliveryReport,
    DeliveryStatus,
    ReportTally,
    fold,
    tally,
)

# Column and PostgreSQL type, in the order of `_history_row` and `_status_row`.
HISTORY_COLUMNS = {
    "message_id": "text",
    "recipient": "text",
    "fingerprint": "bigint",
    "received_at": "bigint",
    "last_received_at": "bigint",
    "times_received": "integer",
    "state": "text",
    "reason": "text",
    "status": "integer",
    "statuscode": "text",
    "errcode": "text",
    "mcc_mnc": "text",
    "source": "text",
    "query": "text",
}
DECIDING_COLUMNS = {
    "rank": "smallint",
    "decided_at": "bigint",
    "fingerprint": "bigint",
    "state": "text",
    "reason": "text",
    "status": "integer",
    "statuscode": "text",
    "errcode": "text",
    "mcc_mnc": "text",
}
STATUS_COLUMNS = {
    "message_id": "text",
    "recipient": "text",
    **DECIDING_COLUMNS,
    "conflicting": "boolean",
    "first_received_at": "bigint",
    "last_received_at": "bigint",
}

Row = tuple[object, ...]


def _history_row(known: ReportTally) -> Row:
    report = known.report
    return (
        report.message_id,
        report.recipient,
        report.fingerprint,
        report.received_at,
        known.last_received_at,
        known.times_received,
        report.state,
        report.reason,
        report.status,
        report.statuscode,
        report.errcode,
        report.mcc_mnc,
        report.source,
        report.query,
    )


def _status_row(status: DeliveryStatus) -> Row:
    deciding = status.deciding
    return (
        deciding.message_id,
        deciding.recipient,
        deciding.rank,
        deciding.received_at,
        deciding.fingerprint,
        deciding.state,
        deciding.reason,
        deciding.status,
        deciding.statuscode,
        deciding.errcode,
        deciding.mcc_mnc,
        status.conflicting,
        status.first_received_at,
        status.last_received_at,
    )


def _earlier(table: str, column: str) -> str:
    old, new = f"{table}.{column}", f"excluded.{column}"
    return f"{column} = CASE WHEN {old} IS NULL OR {new} < {old} THEN {new} ELSE {old} END"


def _later(table: str, column: str) -> str:
    old, new = f"{table}.{column}", f"excluded.{column}"
    return f"{column} = CASE WHEN {old} IS NULL OR {new} > {old} THEN {new} ELSE {old} END"


# Both databases understand these to the letter. A report that came again only counts.
_ON_KNOWN_REPORT = f"""
ON CONFLICT (message_id, recipient, fingerprint) DO UPDATE SET
    times_received = reports.times_received + excluded.times_received,
    {_earlier("reports", "received_at")},
    {_later("reports", "last_received_at")}
"""

# The same rule as `reports.precedence`: the greatest decides, whichever came first.
_NEW_DECIDES = """
(excluded.rank, excluded.decided_at, excluded.fingerprint)
    > (deliveries.rank, deliveries.decided_at, deliveries.fingerprint)"""

# The same rule as `reports.contradict`.
_CONTRADICTS = f"""
(excluded.rank >= {LOWEST_REPORTED_FINAL_RANK} AND deliveries.rank >= {LOWEST_REPORTED_FINAL_RANK}
    AND excluded.state <> deliveries.state)"""

_DECIDED = ",\n    ".join(
    f"{column} = CASE WHEN {_NEW_DECIDES} THEN excluded.{column} ELSE deliveries.{column} END"
    for column in DECIDING_COLUMNS
)
_ON_KNOWN_DELIVERY = f"""
ON CONFLICT (message_id, recipient) DO UPDATE SET
    {_DECIDED},
    conflicting = deliveries.conflicting OR excluded.conflicting OR {_CONTRADICTS},
    {_earlier("deliveries", "first_received_at")},
    {_later("deliveries", "last_received_at")}
"""


def _names(columns: dict[str, str]) -> str:
    return ", ".join(columns)


def _arrays(columns: dict[str, str]) -> str:
    return ", ".join(f"%s::{kind}[]" for kind in columns.values())


def _marks(columns: dict[str, str]) -> str:
    return ", ".join("?" for _ in columns)


# One statement, so one round trip and one commit for a batch of any size.
_POSTGRESQL = f"""
WITH history AS (
    INSERT INTO reports ({_names(HISTORY_COLUMNS)})
    SELECT * FROM unnest({_arrays(HISTORY_COLUMNS)})
    {_ON_KNOWN_REPORT}
)
INSERT INTO deliveries ({_names(STATUS_COLUMNS)})
SELECT * FROM unnest({_arrays(STATUS_COLUMNS)})
{_ON_KNOWN_DELIVERY}
"""

_SQLITE_HISTORY = f"""
INSERT INTO reports ({_names(HISTORY_COLUMNS)}) VALUES ({_marks(HISTORY_COLUMNS)})
{_ON_KNOWN_REPORT}
"""
_SQLITE_STATUS = f"""
INSERT INTO deliveries ({_names(STATUS_COLUMNS)}) VALUES ({_marks(STATUS_COLUMNS)})
{_ON_KNOWN_DELIVERY}
"""


def record(connection: Connection, batch: Sequence[DeliveryReport]) -> None:
    """Add the reports to the history and fold them into the statuses.

    `batch` has at least one report, in any order, repeats included. Doing it twice changes
    nothing but `times_received`. The caller commits, unless the connection does by itself.
    """
    # Folded by key first: PostgreSQL refuses a statement that upserts one row twice.
    history = [_history_row(known) for known in tally(batch)]
    statuses = [_status_row(status) for status in fold(batch)]
    # Straight to the driver: per-row work in between costs more than the disk does.
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_SQLITE_HISTORY, history)
        connection.exec_driver_sql(_SQLITE_STATUS, statuses)
    else:
        columns = [*zip(*history, strict=True), *zip(*statuses, strict=True)]
        connection.exec_driver_sql(_POSTGRESQL, tuple(list(values) for values in columns))
