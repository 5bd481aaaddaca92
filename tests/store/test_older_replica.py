"""A replica of the version before beside a new one: together they keep every report."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, func, select, update

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
    times: defaultdict[int, list[int]] = defaultdict(list)  # of receipt, by fingerprint
    is_edited = was_older = False
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
                    is_edited = True
                case (replica, meaning, at):
                    report = understood(message_id, NUMBER, meaning, at)
                    times[report.fingerprint].append(at)
                    record = older.record if replica == "old" else write.record
                    record(connection, [report])
                    was_older = was_older or replica == "old"

    if not is_edited:
        assert not _corrections(database, dry_run=True)
    # An old replica's report leaves its time as the first of one that the row holds.
    all_times = {at for of_report in times.values() for at in of_report}
    for found in (_history(database, message_id), *_after_rebuilding(database, message_id)):
        assert found.keys() == times.keys()
        for fingerprint, (count, first, last) in found.items():
            assert (count, last) == (len(times[fingerprint]), max(times[fingerprint]))
            if was_older:
                assert first in {at for at in all_times if at <= min(times[fingerprint])}
            else:
                assert first == min(times[fingerprint])


def _history(database: Database, message_id: str) -> dict[int, tuple[int, int, int]]:
    """How often each report came, and when first and last. One may stand in two rows."""
    count, first, last = (
        func.sum(HISTORY.c.times_received),
        func.min(HISTORY.c.received_at),
        func.max(HISTORY.c.last_received_at),
    )
    rows = select(HISTORY.c.fingerprint, count, first, last).group_by(HISTORY.c.fingerprint)
    with database.read.connect() as connection:
        found = connection.execute(rows.where(HISTORY.c.message_id == message_id)).all()
    return {fingerprint: (count, first, last) for fingerprint, count, first, last in found}


def _after_rebuilding(
    database: Database, message_id: str
) -> Iterator[dict[int, tuple[int, int, int]]]:
    _corrections(database, dry_run=False)
    yield _history(database, message_id)
    assert not _corrections(database, dry_run=True)
    with database.read.connect() as connection:
        of_message = select(HISTORY.c.fingerprint).where(HISTORY.c.message_id == message_id)
        rows = list(connection.scalars(of_message))
    assert len(rows) == len({*rows})


def _corrections(database: Database, *, dry_run: bool) -> list[rebuild.Correction]:
    batches = rebuild.rebuild(database, RULES, dry_run=dry_run)
    return [correction for batch in batches for correction in batch.corrections]


def test_no_report_of_either_is_lost(database: Database) -> None:
    check_side_by_side(database)
