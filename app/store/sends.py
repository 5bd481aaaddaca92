"""Calls of the send API: each is written down before it leaves, and concluded with its answer.

The caller of each function commits, unless the connection is in autocommit.
"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, select, update

from app.store.inserting import insert_into
from app.store.tables import sends

FEW: Final = 20


@dataclass(frozen=True, slots=True)
class Send:
    """One call. It holds digests alone: no text, key or phone number."""

    key_digest: str
    body_digest: str
    attempt: str  # random: only the process that wrote the call down may conclude it
    started_at: int  # microseconds since 1970 UTC


def start(connection: Connection, send: Send) -> bool:
    """Write the call down. True if it may leave now: of several with one key, only one may."""
    values = {
        "key_digest": send.key_digest,
        "body_digest": send.body_digest,
        "attempt": send.attempt,
        "started_at": send.started_at,
    }
    added = (
        insert_into(connection, sends)
        .values(values)
        .on_conflict_do_nothing()
        .returning(sends.c.attempt)
    )
    return connection.execute(added).one_or_none() is not None


def find(connection: Connection, key_digest: str) -> Row[Any] | None:
    """The send with this key, under way or concluded."""
    return connection.execute(select(sends).where(sends.c.key_digest == key_digest)).one_or_none()


def take(connection: Connection, send: Send) -> bool:
    """Lock the send until the commit, so that no other process concludes it. False if one has."""
    taken = update(sends).where(*_under_way(send)).values(started_at=sends.c.started_at)
    return connection.execute(taken).rowcount == 1


def conclude(connection: Connection, send: Send, status: int, answer: str) -> None:
    """Keep the answer for a repeat."""
    connection.execute(update(sends).where(*_attempt(send)).values(status=status, answer=answer))


def forget(connection: Connection, send: Send) -> None:
    """Delete a send that has no key of the caller's, and so no repeat."""
    connection.execute(delete(sends).where(*_attempt(send)))


def withdraw(connection: Connection, send: Send) -> None:
    """Delete a send that PaaSoo refused, so that its key is free again."""
    connection.execute(delete(sends).where(*_under_way(send)))


def are_mostly_before(connection: Connection, cutoff: int) -> bool:
    """True if most sends, of more than a few, were started before `cutoff`: never in normal use."""
    old, total = connection.execute(
        select(func.count().filter(sends.c.started_at < cutoff), func.count()).select_from(sends)
    ).one()
    return bool(old > FEW and old > total / 2)


def forget_before(connection: Connection, cutoff: int, limit: int) -> int:
    """Delete at most `limit` sends that were started before `cutoff`, and return their number."""
    old = select(sends.c.key_digest).where(sends.c.started_at < cutoff).limit(limit)
    return connection.execute(delete(sends).where(sends.c.key_digest.in_(old))).rowcount


def _attempt(send: Send) -> tuple[Any, ...]:
    return (sends.c.key_digest == send.key_digest, sends.c.attempt == send.attempt)


def _under_way(send: Send) -> tuple[Any, ...]:
    return (*_attempt(send), sends.c.status.is_(None))
