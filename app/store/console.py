"""What only the console asks: its secret, ended sessions, what decides a delivery, networks."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, func, select, text

from app.reports import is_digits
from app.store.inserting import insert_into
from app.store.read import IS_CONFLICTING
from app.store.tables import console_secret, deliveries, ended_sessions, pulls

THE_ONLY_ROW: Final = 1

_MARKS = select(
    *deliveries.c["recipient", "fingerprint", "rank", "decided_at", "expired_at"]
).where(deliveries.c.message_id == bindparam("message_id"))
_QUESTIONS = select(pulls.c.asked, pulls.c.due_at, pulls.c.sent_at).where(
    pulls.c.message_id == bindparam("message_id")
)
# From one network to the next by the index: to read all rows of a country would take long.
_NETWORKS_BETWEEN = text("""
WITH RECURSIVE found (network) AS (
    SELECT * FROM (
        SELECT mcc_mnc FROM deliveries WHERE mcc_mnc >= :first AND mcc_mnc < :end
        ORDER BY mcc_mnc LIMIT 1
    ) AS first
    UNION ALL
    SELECT (
        SELECT mcc_mnc FROM deliveries WHERE mcc_mnc > found.network AND mcc_mnc < :end
        ORDER BY mcc_mnc LIMIT 1
    ) FROM found WHERE found.network IS NOT NULL
)
SELECT network FROM found WHERE network IS NOT NULL LIMIT :limit
""")


def secret(connection: Connection) -> str | None:
    """The signing secret; None until a replica has made it."""
    found: str | None = connection.scalar(select(console_secret.c.secret))
    return found


def keep_secret(connection: Connection, made: str) -> None:
    """Keep a new secret, unless another replica was quicker. The caller commits."""
    row = {"id": THE_ONLY_ROW, "secret": made}
    connection.execute(insert_into(connection, console_secret).values(row).on_conflict_do_nothing())


def has_ended(connection: Connection, session_id: str) -> bool:
    """True if somebody signed out of this session."""
    ended = select(ended_sessions.c.id).where(ended_sessions.c.id == session_id)
    return connection.scalar(ended) is not None


def end(connection: Connection, session_id: str, expires_at: int, now: int) -> None:
    """End a session, and forget those whose cookies are void by now. The caller commits."""
    connection.execute(delete(ended_sessions).where(ended_sessions.c.expires_at < now))
    row = {"id": session_id, "expires_at": expires_at}
    connection.execute(insert_into(connection, ended_sessions).values(row).on_conflict_do_nothing())


def marks_of(connection: Connection, message_id: str) -> dict[str, Row[Any]]:
    """Each recipient's deciding fingerprint, its rank and time, and when it was given up."""
    rows: Sequence[Row[Any]] = connection.execute(_MARKS, {"message_id": message_id}).all()
    return {row.recipient: row for row in rows}


def questions_of(connection: Connection, message_id: str) -> Row[Any, Any, Any] | None:
    """The number of questions asked of PaaSoo, and the time of the next; None if none is due.

    A row stays until its time has come, even if the message is final by then.
    """
    return connection.execute(_QUESTIONS, {"message_id": message_id}).one_or_none()


def count_conflicting(connection: Connection, since: int, limit: int) -> int:
    """The number of contradictory deliveries reported since then, counted up to `limit`."""
    some = (
        select(deliveries.c.last_received_at)
        .where(IS_CONFLICTING, deliveries.c.last_received_at >= since)
        .limit(limit)
        .subquery()
    )
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def networks_of(connection: Connection, mcc: str, limit: int) -> list[str]:
    """At most `limit` networks that deliveries have, by their mobile country code."""
    between = {"first": mcc, "end": str(int(mcc) + 1), "limit": limit}
    found = connection.execute(_NETWORKS_BETWEEN, between).scalars()
    # A database may sort other texts between numbers.
    return [network for network in found if network.startswith(mcc) and is_digits(network)]
