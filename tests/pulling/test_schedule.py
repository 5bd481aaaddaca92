"""The questions that are due: claimed once, at the rate of all replicas, and never too many."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL, select, update

from app.store import pulls, submissions, tables
from app.store.engine import Database, open_database
from app.store.pulls import Question, Schedule
from app.store.submissions import Submission
from app.store.tables import pull_rate

MINUTE = 60_000_000
HOUR = 60 * MINUTE
USUAL = Schedule(after=30 * MINUTE, expiry=72 * HOUR)


@pytest.fixture
def database(database_url: URL) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()


def now_us() -> int:
    return time.time_ns() // 1000


def register(database: Database, *message_ids: str, sent_at: int) -> None:
    with database.transaction() as connection:
        for message_id in message_ids:
            submission = Submission(message_id, ["6588888888"], None, sent_at)
            submissions.register(connection, submission, sent_at)
        pulls.add(connection, dict.fromkeys(message_ids, sent_at), USUAL, sent_at)


def claim(database: Database, limit: int = 20) -> list[Question]:
    with database.transaction() as connection:
        return pulls.claim(connection, USUAL, limit)


def forget_closed(database: Database) -> int:
    with database.transaction() as connection:
        return pulls.forget_closed(connection, USUAL)


def test_each_wait_is_twice_the_one_before_and_the_last_comes_before_the_expiry() -> None:
    asked_at = [USUAL.first(0, 0)]
    while not USUAL.is_last(0, asked_at[-1]):
        asked_at.append(USUAL.following(0, len(asked_at), asked_at[-1]))

    hours = [at / HOUR for at in asked_at]
    assert hours == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 63.5, 72 - 5 / 60]
    assert USUAL.following(0, len(asked_at), asked_at[-1]) == 72 * HOUR


def test_a_schedule_longer_than_the_expiry_has_one_question_before_it() -> None:
    schedule = Schedule(after=2 * HOUR, expiry=HOUR)

    only = schedule.first(0, 0)

    assert only == HOUR - 5 * MINUTE
    assert schedule.is_last(0, only)


@given(
    st.builds(Schedule, st.integers(1, 10**12), st.none() | st.integers(1, 10**13)),
    st.lists(st.integers(0, 10**11), max_size=40),
)
def test_late_questions_are_never_closer_than_the_schedule(
    schedule: Schedule, delays: list[int]
) -> None:
    asked_at = [schedule.first(0, 0)]
    for delay in delays:
        if schedule.is_last(0, asked_at[-1]):
            break
        due = schedule.following(0, len(asked_at), asked_at[-1])
        assert due > asked_at[-1]
        asked_at.append(due + delay)

    for asked, (earlier, later) in enumerate(pairwise(asked_at), start=1):
        wait = schedule.after << min(asked, pulls.MAX_DOUBLINGS)
        assert later - earlier >= wait or schedule.is_last(0, later)


def test_a_question_is_claimed_once(database: Database) -> None:
    register(database, "a", "b", "c", sent_at=now_us() - HOUR)

    first, second = claim(database, 2), claim(database)

    claimed = [question.message_id for question in (*first, *second)]
    assert sorted(claimed) == ["a", "b", "c"]
    assert claim(database) == []


def test_two_replicas_never_claim_the_same(postgres_url: URL) -> None:
    one, other = open_database(postgres_url), open_database(postgres_url)
    register(one, *(f"m{n}" for n in range(10)), sent_at=now_us() - HOUR)
    claimed: list[str] = []
    for _ in range(10):
        for database in (one, other):
            claimed += [question.message_id for question in claim(database, 1)]
    one.close()
    other.close()

    assert sorted(claimed) == [f"m{n}" for n in range(10)]


def turns_of(take: Callable[[], list[float]]) -> list[tuple[float, float]]:
    """Each turn's earliest and latest time: the database's clock is read at some moment between."""
    began = time.time()
    waits = take()
    ended = time.time()
    return [(began + wait, ended + wait) for wait in waits]


def test_the_rate_is_that_of_all_replicas_together(database: Database) -> None:
    turns: list[tuple[float, float]] = []
    while len(turns) < 25:
        with database.statement() as connection:
            turns += turns_of(lambda: pulls.take_turns(connection, 10, 7))

    for (earliest, _), (_, latest) in zip(turns, turns[10:], strict=False):
        assert latest - earliest > 0.99


def test_replicas_that_take_turns_at_once_never_get_the_same(postgres_url: URL) -> None:
    opened = [open_database(postgres_url) for _ in range(4)]

    def take(database: Database) -> list[tuple[float, float]]:
        with database.statement() as connection:
            return turns_of(lambda: pulls.take_turns(connection, 1000, 100))

    with ThreadPoolExecutor(4) as threads:
        turns = [turn for taken in threads.map(take, opened) for turn in taken]
    with opened[0].read.connect() as connection:
        next_at = connection.execute(select(pull_rate.c.next_at)).scalar_one()
    for database in opened:
        database.close()
    assert len(turns) == 400
    first, last = min(earliest for earliest, _ in turns), max(latest for _, latest in turns)
    assert last - first > 0.39
    assert next_at / 1_000_000 - first > 0.39


def test_a_message_that_is_final_or_expired_is_forgotten(database: Database) -> None:
    register(database, "expired", sent_at=now_us() - 71 * HOUR)
    with database.transaction() as connection:
        submissions.expire(connection, now_us(), now_us(), 10)

    assert claim(database) == []
    assert forget_closed(database) == 1
    with database.read.connect() as connection:
        assert pulls.count_due(connection) == 0


def test_many_closed_messages_don_t_hold_up_the_open_ones(database: Database) -> None:
    hour_ago = now_us() - HOUR
    closed = [f"m{number}" for number in range(1500)]
    with database.transaction() as connection:
        pulls.add(connection, dict.fromkeys(closed, hour_ago), USUAL, hour_ago)
    register(database, "open", sent_at=hour_ago + MINUTE)

    forgotten = [forget_closed(database), forget_closed(database)]

    assert forgotten == [1000, 500]
    assert [question.message_id for question in claim(database)] == ["open"]


def test_a_recipient_that_comes_while_its_message_is_forgotten_is_asked_about(
    database: Database,
) -> None:
    register(database, "a", sent_at=now_us() - HOUR)
    with database.transaction() as connection:
        submissions.expire(connection, now_us(), now_us(), 10)
        late = Submission("a", ["6588888889"], None, now_us())
        submissions.register(connection, late, now_us())

    assert forget_closed(database) == 0
    assert [question.message_id for question in claim(database)] == ["a"]


def put_back(database: Database, question: Question) -> None:
    with database.transaction() as connection:
        pulls.put_back(connection, question, 0)


def test_a_question_that_never_left_is_due_again(database: Database) -> None:
    register(database, "a", sent_at=now_us() - HOUR)
    (question,) = claim(database)

    put_back(database, question)

    assert claim(database) == [question]


def test_a_question_is_not_put_back_if_a_later_one_was_claimed(database: Database) -> None:
    register(database, "a", sent_at=now_us() - HOUR)
    (first,) = claim(database)
    put_back(database, first)
    claim(database)
    with database.transaction() as connection:
        connection.execute(update(tables.pulls).values(due_at=0))
    (second,) = claim(database)

    put_back(database, first)

    assert (first.number, second.number) == (1, 2)
    assert claim(database) == []
