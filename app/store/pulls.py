"""Messages to ask PaaSoo about, and the time of the next question to each.

A question is claimed before it is asked: the time of the one after it is on disk first. So no
replica asks what another one asks, and a process that is killed asks less, never more.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, select, text, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from app.reports import LOWEST_FINAL_RANK
from app.store.submissions import UNKNOWN_ID
from app.store.tables import deliveries, pull_rate, pulls

# The last question comes so long before the message expires, or sooner for a short schedule.
LAST_BEFORE_EXPIRY_US: Final = 300_000_000
# Questions are claimed at most so long ahead: a process that is killed forgets those.
AHEAD_US: Final = 1_000_000
MAX_COUNTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to ask about a message. Microseconds since it was sent."""

    after: int
    expiry: int | None  # None: it never expires

    def first(self, sent_at: int, now: int) -> int:
        """The time of the first question: at once if it is late."""
        return max(now, sent_at + self.after)

    def following(self, sent_at: int, asked: int, now: int) -> int:
        """The time of the question after `asked` of them: each wait is twice the one before.

        After the last question it is the expiry, when there is nothing to ask any more.
        """
        wait = self.after << min(asked, 32)
        if self.expiry is None:
            return now + wait
        expires_at = sent_at + self.expiry
        last = expires_at - min(LAST_BEFORE_EXPIRY_US, self.after)
        return min(now + wait, last) if now < last else max(now, expires_at)

    def is_over(self, sent_at: int, now: int) -> bool:
        return self.expiry is not None and now >= sent_at + self.expiry

    def sent_after(self, now: int) -> int:
        """Messages that were sent until then have expired, or are about to."""
        return -1 if self.expiry is None else now - self.expiry


@dataclass(frozen=True, slots=True)
class Question:
    """A message to ask about, and the seconds until it is its turn."""

    message_id: str
    wait_s: float


def add(connection: Connection, sent_at: dict[str, int], schedule: Schedule, now: int) -> None:
    """Ask about these messages, unless they are there already. The caller commits."""
    rows = [
        {"message_id": it, "sent_at": at, "due_at": schedule.first(at, now), "asked": 0}
        for it, at in sorted(sent_at.items())
        if not schedule.is_over(at, now) and not it.startswith(UNKNOWN_ID)
    ]
    if rows:
        insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert
        connection.execute(insert(pulls).on_conflict_do_nothing(), rows)


# The place of an open delivery among all, by the time of sending.
Place = tuple[int, str, str]
BEFORE_ALL: Final[Place] = (-1, "", "")
_PLACE = (deliveries.c.submitted_at, deliveries.c.message_id, deliveries.c.recipient)


def open_after(
    connection: Connection, place: Place, sent_after: int, limit: int
) -> Sequence[Place]:
    """At most `limit` deliveries without a final report, in the order of sending."""
    found = (
        select(*_PLACE)
        .where(
            text("rank < 3"),  # as the index has it
            deliveries.c.submitted_at > sent_after,
            deliveries.c.submitted_at >= place[0],
            tuple_(*_PLACE) > tuple_(*place),
        )
        .order_by(*_PLACE)
        .limit(limit)
    )
    return [(row.submitted_at, row.message_id, row.recipient) for row in connection.execute(found)]


def are_due(connection: Connection) -> bool:
    """True if there is a question to claim. Takes no lock."""
    due = select(pulls.c.asked).where(pulls.c.due_at <= _now(connection)).limit(1)
    return connection.execute(due).first() is not None


def claim(
    connection: Connection, schedule: Schedule, a_second: float, limit: int
) -> list[Question]:
    """Claim at most `limit` questions that are due, at the rate that all replicas share.

    Forgets those about messages that are final or expired by now. The caller commits.
    """
    turns = _turns(connection, a_second, limit)
    now = _now(connection)
    due = connection.execute(
        select(pulls)
        .where(pulls.c.due_at <= now)
        .order_by(pulls.c.due_at)
        .limit(turns.free)
        .with_for_update(skip_locked=True)
    ).all()
    still_open = _open_among(connection, [row.message_id for row in due])
    to_ask = [
        row
        for row in due
        if row.message_id in still_open and not schedule.is_over(row.sent_at, now)
    ]
    asked = {row.message_id for row in to_ask}
    _forget(connection, [row.message_id for row in due if row.message_id not in asked])
    if not to_ask:
        return []
    connection.execute(
        update(pulls)
        .where(pulls.c.message_id == bindparam("of_message"))
        .values(due_at=bindparam("next"), asked=pulls.c.asked + 1),
        [
            {
                "of_message": row.message_id,
                "next": schedule.following(row.sent_at, row.asked + 1, now),
            }
            for row in to_ask
        ],
    )
    waits_s = turns.take(connection, len(to_ask))
    return [Question(row.message_id, wait) for row, wait in zip(to_ask, waits_s, strict=True)]


def take_turn(connection: Connection, a_second: float) -> float | None:
    """The seconds until one more question may be asked; None if it is too long. Caller commits."""
    turns = _turns(connection, a_second, 1)
    return turns.take(connection, 1)[0] if turns.free else None


def put_back(connection: Connection, message_id: str, wait_us: int) -> None:
    """Take back a question that never left. It is due again after `wait_us`. The caller commits."""
    connection.execute(
        update(pulls)
        .where(pulls.c.message_id == message_id, pulls.c.asked > 0)
        .values(due_at=_now(connection) + wait_us, asked=pulls.c.asked - 1)
    )


def count_due(connection: Connection) -> int:
    """The number of questions that are due, counted no further than `MAX_COUNTED`."""
    due = select(pulls.c.asked).where(pulls.c.due_at <= _now(connection)).limit(MAX_COUNTED)
    counted = select(func.count()).select_from(due.subquery())
    return int(connection.execute(counted).scalar_one())


Cost = tuple[str, str | None, int | None]  # recipient, price, parts


def note_costs(connection: Connection, message_id: str, costs: Iterable[Cost]) -> bool:
    """Keep at least one recipient's price and parts. The caller commits.

    False if one of the recipients has no delivery yet.
    """
    rows = [
        {"of_recipient": recipient, "of_price": price, "of_parts": parts}
        for recipient, price, parts in sorted(costs, key=itemgetter(0))
    ]
    noted = connection.execute(
        update(deliveries)
        .where(
            deliveries.c.message_id == message_id,
            deliveries.c.recipient == bindparam("of_recipient"),
        )
        .values(
            price=func.coalesce(bindparam("of_price"), deliveries.c.price),
            parts=func.coalesce(bindparam("of_parts"), deliveries.c.parts),
        ),
        rows,
    )
    return noted.rowcount == len(rows)


@dataclass(frozen=True, slots=True)
class _Turns:
    """The turns to ask that are free now. The row with the next one is locked."""

    first_at: int
    interval: float
    free: int
    now: int

    def take(self, connection: Connection, number: int) -> list[float]:
        """Take turns, and return the seconds until each."""
        next_at = self.first_at + round(number * self.interval)
        connection.execute(update(pull_rate).values(next_at=next_at))
        first_s = (self.first_at - self.now) / 1_000_000
        return [first_s + turn * self.interval / 1_000_000 for turn in range(number)]


def _turns(connection: Connection, a_second: float, limit: int) -> _Turns:
    next_at = connection.execute(select(pull_rate.c.next_at).with_for_update()).scalar_one()
    now = _now(connection)
    interval = 1_000_000 / a_second
    # A turn further away than the longest sensible one was taken by a clock that was ahead.
    first_at = max(now, next_at) if next_at < now + 2 * AHEAD_US + 2 * interval else now
    free = int((now + AHEAD_US - first_at) / interval) + 1 if first_at <= now + AHEAD_US else 0
    return _Turns(first_at, interval, min(limit, free), now)


def _open_among(connection: Connection, message_ids: Sequence[str]) -> set[str]:
    found = (
        select(deliveries.c.message_id)
        .where(deliveries.c.message_id.in_(message_ids), deliveries.c.rank < LOWEST_FINAL_RANK)
        .distinct()
    )
    return set(connection.execute(found).scalars())


def _forget(connection: Connection, message_ids: Sequence[str]) -> None:
    if message_ids:
        connection.execute(pulls.delete().where(pulls.c.message_id.in_(message_ids)))


def _now(connection: Connection) -> int:
    """The time that all replicas share: the server's; microseconds since 1970 UTC."""
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1000
    now: Any = connection.exec_driver_sql(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    ).scalar_one()
    return int(now)
