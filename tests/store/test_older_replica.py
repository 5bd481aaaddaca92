"""A replica of the version before beside a new one: together they keep every report."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, select, update

from app.commands.rebuild import RULES
from app.store import rebuild, submissions, write
from app.store.engine import Database, open_database
from app.store.history import HISTORY
from app.store.submissions import Submission
from app.store.tables import deliveries
from tests import older
from tests.store.test_fold import MEANINGS, understood

NUMBER = "6588888888"
fresh_numbers = itertools.count()

reports = st.tuples(
    st.sampled_from(["old", "new"]), st.sampled_from(MEANINGS[:6]), st.integers(1, 4)
)
marks = st.sampled_from([("register",), ("expire",), ("by hand",)])
some_steps = st.lists(st.one_of(reports, reports, marks), min_size=1, max_size=10)


@pytest.fixture
def database(postgres_url: URL) -> Iterator[Database]:
    opened = open_database(postgres_url, hurried=False)
    yield opened
    opened.close()


@settings(max_examples=150)
@given(steps=some_steps)
def check_side_by_side(database: Database, steps: list[Any]) -> None:
    message_id = f"beside-{next(fresh_numbers)}"
    expected: Counter[int] = Counter()
    for step in steps:
        with database.transaction() as connection:
            match step:
                case ("register",):
                    sent = Submission(message_id, [NUMBER], None, submitted_at=1)
                    submissions.register(connection, sent, now=1)
                case ("expire",):
                    submissions.expire(connection, cutoff=100, now=100, limit=1000)
                case ("by hand",):
                    whose = deliveries.c.message_id == message_id
                    connection.execute(update(deliveries).where(whose).values(errcode="wrong"))
                case (replica, meaning, at):
                    report = understood(message_id, NUMBER, meaning, at)
                    expected[report.fingerprint] += 1
                    record = older.record if replica == "old" else write.record
                    record(connection, [report])

    of_message = select(HISTORY.c.fingerprint, HISTORY.c.times_received).where(
        HISTORY.c.message_id == message_id
    )
    for _ in range(2):
        with database.read.connect() as connection:
            kept: Counter[int] = Counter()
            for fingerprint, times in connection.execute(of_message):
                kept[fingerprint] += times
        assert kept == expected
        list(rebuild.rebuild(database, RULES, dry_run=False))
    assert not any(it.corrections for it in rebuild.rebuild(database, RULES, dry_run=True))


def test_no_report_of_either_is_lost(database: Database) -> None:
    check_side_by_side(database)
