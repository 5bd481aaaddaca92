"""The questions that are due: claimed once, at the rate of all replicas, and never too many."""

import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL

from app.store import pulls, submissions
from app.store.engine import Database, open_database
from app.store.pulls import Question, Schedule
from app.store.submissions import Submission

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


def claim(database: Database, limit: int = 20, a_second: float = 1000) -> list[Question]:
    with database.transaction() as connection:
        return pulls.claim(connection, USUAL, a_second, limit)


def test_each_wait_is_twice_the_one_before_and_the_last_comes_before_the_expiry() -> None:
    asked_at = [USUAL.first(0, 0)]
    while not USUAL.is_over(0, following := USUAL.following(0, len(asked_at), asked_at[-1])):
        asked_at.append(following)

    hours = [at / HOUR for at in asked_at]
    assert hours == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 63.5, 72 - 5 / 60]
    assert following == 72 * HOUR


@given(
    st.builds(Schedule, st.integers(1, 10**12), st.none() | st.integers(1, 10**13)),
    st.lists(st.integers(0, 10**11), max_size=40),
)
def test_late_questions_are_never_closer_than_the_schedule(
    schedule: Schedule, delays: list[int]
) -> None:
    asked_at, due = [], schedule.first(0, 0)
    for delay in delays:
        now = due + delay
        if schedule.is_over(0, now):
            break
        asked_at.append(now)
        due = schedule.following(0, len(asked_at), now)
        assert due > now
    waits = [later - earlier for earlier, later in pairwise(asked_at)]
    last = None if schedule.expiry is None else schedule.expiry - schedule.after
    for asked, wait in enumerate(waits, start=1):
        is_last = last is not None and asked_at[asked] >= min(last, asked_at[-1])
        assert wait >= schedule.after << asked or is_last


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


def test_the_rate_is_that_of_all_replicas_together(database: Database) -> None:
    register(database, *(f"m{n}" for n in range(40)), sent_at=now_us() - HOUR)
    began = time.monotonic()

    asked_at: list[float] = []
    while len(asked_at) < 25:
        questions = claim(database, 20, a_second=10)
        claimed_at = time.monotonic() - began
        asked_at += [claimed_at + question.wait_s for question in questions]

    for first, eleventh in zip(asked_at, asked_at[10:], strict=False):
        assert eleventh - first > 0.9  # the clock goes on between the claim and our look at it


def test_a_message_that_is_final_or_expired_is_forgotten(database: Database) -> None:
    register(database, "expired", sent_at=now_us() - 71 * HOUR)
    with database.transaction() as connection:
        submissions.expire(connection, now_us(), now_us(), 10)

    assert claim(database) == []
    with database.read.connect() as connection:
        assert pulls.count_due(connection) == 0


def test_a_question_that_never_left_is_due_again(database: Database) -> None:
    register(database, "a", sent_at=now_us() - HOUR)
    claim(database)

    with database.transaction() as connection:
        pulls.put_back(connection, "a", 0)

    assert [question.message_id for question in claim(database)] == ["a"]
