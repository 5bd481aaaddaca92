"""Messages to ask PaaSoo about, and the time of the next question to each.

A question is claimed before it is asked: the time of the one after it is on disk first. So no
replica asks what another one asks, and a process that is killed asks less, never more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, bindparam, func, select, text, tuple_, update

from app.reports import LOWEST_FINAL_RANK
from app.store.clock import now_on
from app.store.inserting import insert_into
from app.store.submissions import UNKNOWN_ID
from app.store.tables import deliveries, pull_rate, pulls

# Between the last question and the expiry of the message; less with a short schedule.
LAST_BEFORE_EXPIRY_US: Final = 300_000_000
MAX_DOUBLINGS: Final = 32  # a longer wait would not fit into a column
# Turns are taken no further ahead: a process that is killed forgets its questions.
AHEAD_US: Final = 1_000_000
MAX_COUNTED: Final = 10_000
MAX_FORGOTTEN: Final = 1000
# Replicas that take turns at the same moment try again.
MAX_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to ask about a message. Microseconds since it was sent."""

    after: int
    expiry: int | None  # None: it never expires

    def first(self, sent_at: int, now: int) -> int:
        """The time of the first question: at once if it is late."""
        return max(now, min(sent_at + self.after, self._last(sent_at)))

    def following(self, sent_at: int, asked: int, now: int) -> int:
        """The time of the question after `asked` of them: each wait is twice the one before.

        After the last question it is the expiry, when there is nothing to ask any more.
        """
        if self.is_last(sent_at, now):
            return max(now, sent_at + (self.expiry or 0))
        return min(now + (self.after << min(asked, MAX_DOUBLINGS)), self._last(sent_at))

    def is_last(self, sent_at: int, now: int) -> bool:
        """True if a question now has none after it."""
        return now >= self._last(sent_at)

    def sent_after(self, now: int) -> int:
        """Messages that were sent until then have expired, or are about to."""
        return -1 if self.expiry is None else now - self.expiry

    def _last(self, sent_at: int) -> int:
        if self.expiry is None:
            return 2**62
        return sent_at + self.expiry - min(LAST_BEFORE_EXPIRY_US, self.after, self.expiry // 2)


@dataclass(frozen=True, slots=True)
class Question:
    """A message to ask about."""

    message_id: str
    number: int  # of the questions about this message, from 1
    is_last: bool


def add(connection: Connection, sent_at: dict[str, int], schedule: Schedule, now: int) -> None:
    """Ask about these messages, unless they are there already. The caller commits."""
    sent_after = schedule.sent_after(now)
    rows = [
        {"message_id": it, "sent_at": at, "due_at": schedule.first(at, now), "asked": 0}
        for it, at in sorted(sent_at.items())
        if at > sent_after and not it.startswith(UNKNOWN_ID)
    ]
    if rows:
        connection.execute(insert_into(connection, pulls).on_conflict_do_nothing(), rows)


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


def count_due(connection: Connection, limit: int = MAX_COUNTED) -> int:
    """The number of questions that are due, counted no further than `limit`. Takes no lock."""
    due = select(pulls.c.asked).where(pulls.c.due_at <= now_on(connection)).limit(limit)
    counted = select(func.count()).select_from(due.subquery())
    return int(connection.execute(counted).scalar_one())


def _is_open() -> ColumnElement[bool]:
    return (
        select(deliveries.c.rank)
        .where(deliveries.c.message_id == pulls.c.message_id, deliveries.c.rank < LOWEST_FINAL_RANK)
        .exists()
    )


def _due(connection: Connection, limit: int) -> Any:
    return (
        select(pulls)
        .where(pulls.c.due_at <= now_on(connection))
        .order_by(pulls.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True, of=pulls)
    )


def forget_closed(connection: Connection, schedule: Schedule) -> int:
    """Forget messages that are due, and final or expired by now. The caller commits.

    Returns their number, `MAX_FORGOTTEN` at most.
    """
    due = connection.execute(_due(connection, MAX_FORGOTTEN)).all()
    is_over = pulls.c.sent_at <= schedule.sent_after(now_on(connection))
    ids = [row.message_id for row in due]
    closed = pulls.delete().where(pulls.c.message_id.in_(ids), is_over | ~_is_open())
    return connection.execute(closed).rowcount if ids else 0


def claim(connection: Connection, schedule: Schedule, limit: int) -> list[Question]:
    """Claim at most `limit` questions that are due. The caller commits."""
    now = now_on(connection)
    is_alive = pulls.c.sent_at > schedule.sent_after(now)
    due = connection.execute(_due(connection, limit).where(is_alive, _is_open())).all()
    if due:
        connection.execute(
            update(pulls)
            .where(pulls.c.message_id == bindparam("of_message"))
            .values(due_at=bindparam("next"), asked=pulls.c.asked + 1),
            [
                {
                    "of_message": row.message_id,
                    "next": schedule.following(row.sent_at, row.asked + 1, now),
                }
                for row in due
            ],
        )
    return [
        Question(row.message_id, row.asked + 1, schedule.is_last(row.sent_at, now)) for row in due
    ]


def put_back(connection: Connection, question: Question, wait_us: int) -> None:
    """Take back a claim, unless a later question was claimed since. The caller commits.

    The question is due again after `wait_us`, with the same number.
    """
    connection.execute(
        update(pulls)
        .where(pulls.c.message_id == question.message_id, pulls.c.asked == question.number)
        .values(due_at=now_on(connection) + wait_us, asked=question.number - 1)
    )


def take_turns(connection: Connection, a_second: float, limit: int) -> list[float]:
    """Take at most `limit` turns to ask, and return the seconds until each.

    All replicas take them from one row, one after the other; none is locked, so that a replica
    which vanishes stops no other. The connection is in autocommit.
    """
    interval = 1_000_000 / a_second
    for _ in range(MAX_TRIES):
        known = connection.execute(select(pull_rate.c.next_at)).scalar_one()
        now = now_on(connection)
        # A turn further away than the longest sensible one was taken by a clock that was ahead.
        first_at = max(now, known) if known < now + 2 * AHEAD_US + 2 * interval else now
        if first_at > now + AHEAD_US:
            return []
        turns = min(limit, int((now + AHEAD_US - first_at) / interval) + 1)
        taken = connection.execute(
            update(pull_rate)
            .where(pull_rate.c.next_at == known)
            .values(next_at=first_at + round(turns * interval))
        )
        if taken.rowcount:
            return [(first_at - now + turn * interval) / 1_000_000 for turn in range(turns)]
    return []


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
