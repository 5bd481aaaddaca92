"""Sent messages: a recipient is pending until a report comes, and expired if none does in time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, TextClause, delete, func, literal_column, text

from app.reports import RANK, State
from app.store.changes import POSITION, begin_change
from app.store.inserting import insert_into
from app.store.tables import deliveries

# Before an id of ours: that of a send whose outcome is unknown, and which has none of PaaSoo's.
UNKNOWN_ID: Final = "outcome-unknown:"


@dataclass(frozen=True, slots=True)
class Submission:
    """One send call. Times in microseconds since 1970 UTC."""

    message_id: str
    recipients: Sequence[str]  # at least one, none twice
    reference: str | None
    submitted_at: int | None  # None keeps a known time, else it is now


def register(connection: Connection, submission: Submission, now: int) -> None:
    """Register a sent message. The status by its reports stays; a repeat changes nothing.

    The caller commits, unless the connection is in autocommit.
    """
    begin_change(connection)
    rows = _pending_rows(submission, now, POSITION[connection.dialect.name])
    insert = insert_into(connection, deliveries).values(rows)
    known, new = deliveries.c, insert.excluded
    first_known = func.coalesce(known.submitted_at, new.submitted_at)
    submitted = first_known if submission.submitted_at is None else new.submitted_at
    reference = func.coalesce(new.reference, known.reference)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["message_id", "recipient"],
            set_={
                "submitted_at": submitted,
                "reference": reference,
                "changed_in": new.changed_in,
            },
            where=known.submitted_at.is_distinct_from(submitted)
            | known.reference.is_distinct_from(reference),
        )
    )


def _pending_rows(submission: Submission, now: int, position: str) -> list[dict[str, Any]]:
    submitted_at = now if submission.submitted_at is None else submission.submitted_at
    return [
        {
            "message_id": submission.message_id,
            "recipient": recipient,
            "rank": RANK[State.PENDING],
            "decided_at": 0,
            "fingerprint": 0,
            "state": State.PENDING.value,
            "conflicting": False,
            "submitted_at": submitted_at,
            "reference": submission.reference,
            "changed_in": literal_column(position),
        }
        # Sorted like the writer's rows, so that two transactions never wait for each other.
        for recipient in sorted(submission.recipients)
    ]


def withdraw(connection: Connection, message_id: str) -> None:
    """Delete a message that was registered under an id of ours: no report of it can have come."""
    connection.execute(delete(deliveries).where(deliveries.c.message_id == message_id))


# The age of a delivery without a final report counts from its sending or, if that is not known,
# from its first report. Each condition has its own index.
_OVERDUE = (
    "submitted_at < :cutoff",
    # The `+` keeps SQLite from taking the index of the first condition.
    "+submitted_at IS NULL AND first_received_at < :cutoff",
)


def expire(connection: Connection, cutoff: int, now: int, limit: int) -> int:
    """Mark deliveries that are open since before `cutoff` as expired, and return their number.

    It takes about `limit` at once. Replicas never mark one twice: a row that another has changed no
    longer qualifies. The caller commits, unless the connection is in autocommit.
    """
    parameters = {"cutoff": cutoff, "now": now, "limit": limit}
    expired = 0
    for overdue in _OVERDUE:
        # Most of the time there is nothing to write.
        if connection.execute(_first(overdue), parameters).first():
            begin_change(connection)
            update = _expiry(connection.dialect.name, overdue)
            expired += connection.execute(update, parameters).rowcount
    return expired


_IS_OPEN = f"rank < {RANK[State.EXPIRED]}"


def _first(overdue: str) -> TextClause:
    return text(f"SELECT 1 FROM deliveries WHERE {_IS_OPEN} AND {overdue} LIMIT 1")


def _expiry(dialect: str, overdue: str) -> TextClause:
    """The update to `expired`. Our own mark decides, so no field of the provider's is shown."""
    # Skip a locked row: its holder is about to change it, and the next sweep looks again.
    for_update = "FOR UPDATE SKIP LOCKED" if dialect == "postgresql" else ""
    return text(f"""
        UPDATE deliveries SET
            rank = {RANK[State.EXPIRED]}, state = '{State.EXPIRED}',
            decided_at = :now, expired_at = :now, fingerprint = 0,
            reason = NULL, status = NULL, statuscode = NULL, errcode = NULL, mcc_mnc = NULL,
            changed_in = {POSITION[dialect]}
        WHERE {_IS_OPEN} AND (message_id, recipient) IN (
            SELECT message_id, recipient FROM deliveries
            WHERE {_IS_OPEN} AND {overdue} LIMIT :limit {for_update}
        )
    """)
