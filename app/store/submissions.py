"""What was sent: its recipients are pending until a report comes, and expired when none does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, TextClause, delete, func, literal_column, text
from sqlalchemy.dialects import postgresql, sqlite

from app.reports import RANK, State
from app.store.changes import POSITION, begin_change
from app.store.tables import deliveries


@dataclass(frozen=True, slots=True)
class Submission:
    """One send call. Times in microseconds since 1970 UTC."""

    message_id: str
    recipients: Sequence[str]  # at least one, none twice
    reference: str | None
    submitted_at: int | None  # None keeps what is known, else it is now


def register(connection: Connection, submission: Submission, now: int) -> None:
    """Note what was sent. Whatever reports have said stays, and the same again changes nothing.

    The caller commits, unless the connection does by itself.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    begin_change(connection)
    submitted_at = now if submission.submitted_at is None else submission.submitted_at
    rows: list[dict[str, Any]] = [
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
            "changed_in": literal_column(POSITION[connection.dialect.name]),
        }
        # Sorted, as the writer's rows are, so that two never wait for each other.
        for recipient in sorted(submission.recipients)
    ]
    insert = (sqlite if is_sqlite else postgresql).insert(deliveries).values(rows)
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


def withdraw(connection: Connection, message_id: str) -> None:
    """As if it had never been registered: nothing has been reported of it."""
    connection.execute(delete(deliveries).where(deliveries.c.message_id == message_id))


# A sent message with no final report: since it was sent, or since its first report where nobody
# told us of the sending. Each has its index.
_OVERDUE = (
    "submitted_at < :cutoff",
    # The `+` keeps SQLite from looking for the former in the other's index.
    "+submitted_at IS NULL AND first_received_at < :cutoff",
)


def expire(connection: Connection, cutoff: int, now: int, limit: int) -> int:
    """Mark what has been open since before `cutoff` as expired, about `limit`; how many it was.

    Several replicas at once don't do it twice: a row that another has changed no longer qualifies.
    The caller commits, unless the connection does by itself.
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
    """The deciding "report" is our own mark, so nothing of the provider's is shown."""
    # Who holds a row is about to change it: it is looked at again the next time.
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
