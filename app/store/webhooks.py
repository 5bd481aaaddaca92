"""Addresses that changes are pushed to: who pushes to each, and how far it has come.

A process pushes to the addresses that it has leased. It renews its leases while it lives; those of
one that died run out, and any other takes them. The time is the server's, which all share.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, func, or_, select, update

from app.store import changes
from app.store.changes import Position
from app.store.clock import now_on
from app.store.inserting import insert_into
from app.store.tables import webhook_tries, webhooks

LEASE_S: Final = 6.0
LEASE_US: Final = int(LEASE_S * 1_000_000)
# All of them together open no more connections, as each has one at most.
MAX_WEBHOOKS: Final = 100
ADDING_LOCK: Final = 7_266_333
TAKEN_AT_ONCE: Final = 5
MAX_WAITING: Final = 1000
# Pushes to one address that are remembered.
MAX_TRIES_KEPT: Final = 50


@dataclass(slots=True)
class Webhook:
    """An address, as its owner sees it. Times in microseconds since 1970 UTC."""

    id: str
    url: str
    events: str  # `all` or `final`
    max_items: int
    secret: str = field(repr=False)
    created_at: int
    cursor: Position  # all changes up to it were taken
    caught_up_at: int  # all changes before this time were taken
    repeat_until: Position | None = None  # the end of a push that failed
    tries: int = 0
    failures: int = 0  # since the last success
    next_try_at: int = 0
    last_success_at: int | None = None
    last_error: str | None = None
    failing_since: int | None = None
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Try:
    """A push and its outcome."""

    webhook_id: str
    number: int  # of this push to the address, from 1
    at: int  # microseconds since 1970 UTC
    duration_ms: int
    items: int
    status: int | None  # HTTP's; None without an answer
    error: str | None  # None if it was taken


_CHANGING: Final = (
    "cursor",
    "caught_up_at",
    "repeat_until",
    "tries",
    "failures",
    "next_try_at",
    "last_success_at",
    "last_error",
    "failing_since",
    "disabled",
)
_ALL = select(webhooks).order_by(webhooks.c.created_at, webhooks.c.id)
_SAVE = (
    update(webhooks)
    .where(webhooks.c.id == bindparam("of_webhook"), webhooks.c.owner == bindparam("of_owner"))
    .values({name: bindparam(f"new_{name}") for name in (*_CHANGING, "leased_until")})
)


def all_of_them(connection: Connection) -> list[Webhook]:
    """Every address, oldest first."""
    return [_webhook(row) for row in connection.execute(_ALL)]


def find(connection: Connection, webhook_id: str) -> Webhook | None:
    row = connection.execute(_ALL.where(webhooks.c.id == webhook_id)).one_or_none()
    return None if row is None else _webhook(row)


def waiting_for(connection: Connection, known: Collection[Webhook]) -> dict[str, int]:
    """The changes that each of these hasn't got yet, by id; counted no further than `MAX_WAITING`.

    Most are equally far, and share a count.
    """
    cursors = {it.cursor for it in known}
    counts = {it: changes.count_after(connection, it, MAX_WAITING) for it in cursors}
    return {it.id: counts[it.cursor] for it in known}


def count_failing(connection: Connection) -> int:
    """The number of addresses whose last push failed, or that are disabled."""
    failing = or_(webhooks.c.failing_since.is_not(None), webhooks.c.disabled)
    counted = select(func.count()).select_from(webhooks).where(failing)
    return int(connection.execute(counted).scalar_one())


def add(connection: Connection, webhook: Webhook) -> bool:
    """Add an address. False if there are as many as there may be. The caller commits."""
    if connection.dialect.name != "sqlite":  # there, one transaction writes at a time
        connection.execute(select(func.pg_advisory_xact_lock(ADDING_LOCK)))
    if connection.execute(select(func.count()).select_from(webhooks)).scalar_one() >= MAX_WEBHOOKS:
        return False
    row = {**_row(webhook), "leased_until": 0}
    connection.execute(webhooks.insert().values(row))
    return True


def remove(connection: Connection, webhook_id: str) -> bool:
    """Remove an address with its history. False if there is none. The caller commits."""
    removed = connection.execute(delete(webhooks).where(webhooks.c.id == webhook_id)).rowcount
    connection.execute(delete(webhook_tries).where(webhook_tries.c.webhook_id == webhook_id))
    return bool(removed)


def enable(connection: Connection, webhook_id: str) -> bool:
    """Push to an address again, at once. False if there is none. The caller commits.

    It has no owner then, so that whoever takes it reads it anew.
    """
    enabled = (
        update(webhooks)
        .where(webhooks.c.id == webhook_id)
        .values(disabled=False, failures=0, next_try_at=0, owner=None, leased_until=0)
    )
    return bool(connection.execute(enabled).rowcount)


def tries_of(connection: Connection, webhook_id: str) -> Sequence[Row[Any]]:
    """The latest pushes to an address, the last one first."""
    latest = (
        select(webhook_tries)
        .where(webhook_tries.c.webhook_id == webhook_id)
        .order_by(webhook_tries.c.number.desc())
    )
    return connection.execute(latest).all()


def look(connection: Connection, owner: str, held: Collection[str]) -> tuple[set[str], bool]:
    """The ids of a process's addresses, and if there are any to take. Takes no lock.

    `held` are the ids of those that the process knows to be its own.
    """
    is_free = _is_free(connection, owner, held)
    known = select(webhooks.c.id, is_free.label("free")).where(
        or_(webhooks.c.owner == owner, is_free)
    )
    rows = connection.execute(known).all()
    return {row.id for row in rows if not row.free}, any(row.free for row in rows)


def renew(
    connection: Connection, owner: str, held: Collection[Webhook], tries: Collection[Try]
) -> None:
    """Renew the leases of what a process holds, and write down what happened there.

    It changes nothing of an address that the process has lost: another one has taken it, or it was
    enabled anew, or removed. The caller commits.
    """
    until = now_on(connection) + LEASE_US
    rows = [
        {"of_owner": owner, "new_leased_until": until, **_changing(it)}
        for it in sorted(held, key=lambda it: it.id)
    ]
    if rows:
        connection.execute(_SAVE, rows)
    if tries:
        is_mine = select(webhooks.c.id).where(webhooks.c.owner == owner)
        mine = set(connection.execute(is_mine).scalars())
        _write_down(connection, [it for it in tries if it.webhook_id in mine])


def take(connection: Connection, owner: str, held: Collection[str]) -> list[Webhook]:
    """Take addresses that nobody pushes to, a few at once: others may take the rest.

    The caller commits.
    """
    free = (
        select(webhooks.c.id)
        .where(_is_free(connection, owner, held))
        .limit(TAKEN_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    taken = (
        update(webhooks)
        .where(webhooks.c.id.in_(free))
        .values(owner=owner, leased_until=now_on(connection) + LEASE_US)
        .returning(webhooks)
    )
    return [_webhook(row) for row in connection.execute(taken)]


def release(connection: Connection, owner: str) -> None:
    """Let others take the addresses of a process at once. The caller commits."""
    connection.execute(
        update(webhooks).where(webhooks.c.owner == owner).values(owner=None, leased_until=0)
    )


def _is_free(connection: Connection, owner: str, held: Collection[str]) -> ColumnElement[bool]:
    """A condition: nobody pushes to it. On SQLite, that is for one process, nobody else can.

    A process may own what it doesn't hold: it took it, and was not told of the commit.
    """
    is_forgotten = (webhooks.c.owner == owner) & webhooks.c.id.not_in(held)
    if connection.dialect.name == "sqlite":
        nobodys = webhooks.c.owner.is_distinct_from(owner)
    else:
        now = now_on(connection)
        # A lease further away than the longest was given by a clock that was ahead.
        is_leased = webhooks.c.leased_until.between(now, now + 2 * LEASE_US)
        nobodys = or_(webhooks.c.owner.is_(None), ~is_leased)
    return ~webhooks.c.disabled & or_(nobodys, is_forgotten)


def _write_down(connection: Connection, tries: Collection[Try]) -> None:
    insert = insert_into(connection, webhook_tries)
    upsert = insert.on_conflict_do_update(
        index_elements=["webhook_id", "place"],
        set_={it.name: insert.excluded[it.name] for it in webhook_tries.c if not it.primary_key},
    )
    # A ring may go round within these: one statement takes a place only once.
    latest = {(it.webhook_id, it.number % MAX_TRIES_KEPT): it for it in tries}
    rows = [{**asdict(it), "place": place} for (_, place), it in latest.items()]
    if rows:
        connection.execute(upsert, rows)


def _changing(webhook: Webhook) -> dict[str, Any]:
    row = _row(webhook)
    return {"of_webhook": webhook.id, **{f"new_{name}": row[name] for name in _CHANGING}}


def _webhook(row: Row[Any]) -> Webhook:
    values = {name: getattr(row, name) for name in Webhook.__slots__}
    values["cursor"] = _position(row.cursor)
    values["repeat_until"] = None if row.repeat_until is None else _position(row.repeat_until)
    return Webhook(**values)


def _row(webhook: Webhook) -> dict[str, Any]:
    end = webhook.repeat_until
    return {
        **asdict(webhook),
        "cursor": json.dumps(webhook.cursor),
        "repeat_until": None if end is None else json.dumps(end),
    }


def _position(text: str) -> Position:
    changed_in, message_id, recipient = json.loads(text)
    return changed_in, message_id, recipient
