"""The console's signing secret, the sessions that were ended, and what decides a delivery."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, select

from app.store.inserting import insert_into
from app.store.tables import console_secret, deliveries, ended_sessions, pulls

THE_ONLY_ROW: Final = 1

_MARKS = select(
    *deliveries.c["recipient", "fingerprint", "rank", "decided_at", "expired_at"]
).where(deliveries.c.message_id == bindparam("message_id"))
_QUESTIONS = select(pulls.c.asked, pulls.c.due_at).where(
    pulls.c.message_id == bindparam("message_id")
)


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


def questions_of(connection: Connection, message_id: str) -> Row[Any, Any] | None:
    """The number of questions asked of PaaSoo, and the time of the next; None if none is due."""
    return connection.execute(_QUESTIONS, {"message_id": message_id}).one_or_none()
