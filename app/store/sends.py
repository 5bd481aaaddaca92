"""Calls of the send API: each is written down before it leaves, and concluded with its answer.

Every function's caller commits, unless the connection does by itself.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from app.store.tables import sends


@dataclass(frozen=True, slots=True)
class Send:
    """One call. Only digests of what was asked: neither text, key nor number is kept here."""

    key_digest: str
    body_digest: str
    attempt: str  # random: who wrote it down, and nobody else, may conclude it
    started_at: int  # microseconds since 1970 UTC


def start(connection: Connection, send: Send) -> bool:
    """Write it down; whether that is done now, so that it may leave. Of several, one may."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    values = {
        "key_digest": send.key_digest,
        "body_digest": send.body_digest,
        "attempt": send.attempt,
        "started_at": send.started_at,
    }
    added = insert(sends).values(values).on_conflict_do_nothing().returning(sends.c.attempt)
    return connection.execute(added).one_or_none() is not None


def find(connection: Connection, key_digest: str) -> Row[Any] | None:
    """The send with this key, under way or concluded."""
    return connection.execute(select(sends).where(sends.c.key_digest == key_digest)).one_or_none()


def take(connection: Connection, send: Send) -> bool:
    """Keep all others from concluding it, until the commit; whether it is still under way."""
    taken = update(sends).where(*_under_way(send)).values(started_at=sends.c.started_at)
    return connection.execute(taken).rowcount == 1


def conclude(connection: Connection, send: Send, status: int, answer: str) -> None:
    """Keep its answer for whoever asks again."""
    connection.execute(update(sends).where(*_attempt(send)).values(status=status, answer=answer))


def forget(connection: Connection, send: Send) -> None:
    """Nobody can ask again."""
    connection.execute(delete(sends).where(*_attempt(send)))


def withdraw(connection: Connection, send: Send) -> None:
    """Nothing was sent: as if it had never been written down."""
    connection.execute(delete(sends).where(*_under_way(send)))


def forget_before(connection: Connection, cutoff: int, limit: int) -> int:
    """Forget sends that were started before `cutoff`, and with them their keys; how many."""
    old = select(sends.c.key_digest).where(sends.c.started_at < cutoff).limit(limit)
    return connection.execute(delete(sends).where(sends.c.key_digest.in_(old))).rowcount


def _attempt(send: Send) -> tuple[Any, ...]:
    return (sends.c.key_digest == send.key_digest, sends.c.attempt == send.attempt)


def _under_way(send: Send) -> tuple[Any, ...]:
    return (*_attempt(send), sends.c.status.is_(None))
