"""Statistics equal a recount of all deliveries at every moment."""

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, Connection, Table, delete, insert, select, update

from app.store import stats, write
from app.store.engine import Database, open_database
from app.store.tables import count_deltas, deliveries, delivery_counts, reports, state_totals
from tests.conftest import migrated_database
from tests.recount import KEYS, counted, recount
from tests.store.test_fold import MEANINGS, understood

HOUR = stats.HOUR
FIRST_HOUR = 480_000
NETWORKS = (None, "52099", "52001", "40410", "ID-UNKNOWN", "520AIS", "5")

# Times on the hour, just beside it, and in between: few, so that many deliveries share one.
moments = st.builds(
    lambda hour, beside: (FIRST_HOUR + hour) * HOUR + beside,
    st.integers(0, 26),
    st.sampled_from((0, 1, HOUR - 1, HOUR // 2, -1)),
)
message_ids = st.sampled_from([f"m-{number}" for number in range(8)])
recorded = st.lists(
    st.tuples(message_ids, st.sampled_from(MEANINGS), st.sampled_from(NETWORKS), moments),
    min_size=1,
    max_size=8,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("record"), recorded),
        st.tuples(st.just("register"), st.tuples(message_ids, moments)),
        st.tuples(st.just("expire"), st.tuples(message_ids, moments)),
        st.tuples(st.just("purge"), message_ids),
        st.tuples(st.just("compact"), st.none()),
    ),
    min_size=1,
    max_size=10,
)
spans = st.tuples(
    st.lists(st.sampled_from(KEYS), unique=True),
    st.none() | moments,
    st.none() | moments,
)


@pytest.fixture
def database(database_url: URL) -> Iterator[Database]:
    opened = open_database(database_url, hurried=False)
    yield opened
    opened.close()


def take(connection: Connection, step: tuple[str, Any]) -> None:
    kind, what = step
    match kind:
        case "record":
            batch = [
                understood(message_id, "6588888888", {"network": network, **meaning}, at)
                for message_id, meaning, network, at in what
            ]
            write.record(connection, batch)
        case "register":
            message_id, at = what
            known = select(deliveries).where(deliveries.c.message_id == message_id)
            if connection.execute(known).first() is None:
                connection.execute(insert(deliveries).values(registered(message_id, at)))
        case "expire":
            message_id, at = what
            is_open = (deliveries.c.message_id == message_id, deliveries.c.rank < 3)
            expired = {"rank": 3, "state": "expired", "expired_at": at}
            nothing = {"mcc_mnc": None, "reason": None}
            connection.execute(update(deliveries).where(*is_open).values({**expired, **nothing}))
        case "purge":
            connection.execute(delete(deliveries).where(deliveries.c.message_id == what))
        case "compact":
            stats.compact(connection)


def registered(message_id: str, at: int) -> dict[str, Any]:
    pending = {"rank": 0, "state": "pending", "conflicting": False}
    whose = {"message_id": message_id, "recipient": "6588888888", "fingerprint": 0}
    return {**whose, **pending, "decided_at": at, "submitted_at": at}


@settings(max_examples=60)
@given(steps=steps, spans=st.lists(spans, min_size=1, max_size=6))
def check_any_history(database: Database, steps: list[Any], spans: list[Any]) -> None:
    for step in steps:
        with database.transaction() as connection:
            take(connection, step)

    with database.transaction() as connection:
        for span in spans:
            assert counted(connection, *span) == recount(connection, *span)
        for table in (reports, deliveries):
            connection.execute(delete(table))
        assert counted(connection, KEYS) == counted(connection, ["state"]) == {}


def test_any_history_and_any_span_are_counted_right(database: Database) -> None:
    check_any_history(database)


@pytest.fixture
def server_database(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Database]:
    """PostgreSQL, where each transaction leaves deltas of its own."""
    with migrated_database("postgresql", tmp_path, request) as url:
        opened = open_database(url, hurried=False)
        yield opened
        opened.close()


def rows_of(connection: Connection, table: Table) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(select(table).order_by(table.c.hour))]


def test_compaction_leaves_one_row_a_group_and_what_is_empty_is_forgotten(
    database: Database,
) -> None:
    with database.transaction() as connection:
        for number in range(5):
            take(connection, ("record", [(f"m-{number}", {"status": 0}, "52099", HOUR)]))
    for number in range(5):
        with database.transaction() as connection:  # all deliveries leave their group
            take(connection, ("record", [(f"m-{number}", {"status": 0}, "52099", 3 * HOUR)]))

    with database.transaction() as connection:
        deltas_left = len(rows_of(connection, count_deltas))
        assert rows_of(connection, delivery_counts) == rows_of(connection, state_totals) == []
        assert stats.compact(connection) == deltas_left > 0
        assert stats.compact(connection) == 0

        group, state = ("52099", "delivered", "", 0), ("delivered",)
        assert rows_of(connection, delivery_counts) == [(1, *group, 0), (3, *group, 5)]
        assert rows_of(connection, state_totals) == [(1, *state, 0), (3, *state, 5)]

        stats.forget_empty(connection, before_hour=4)
        assert rows_of(connection, delivery_counts) == [(3, *group, 5)]
        assert rows_of(connection, state_totals) == [(3, *state, 5)]


def test_compaction_takes_turns(server_database: Database) -> None:
    with server_database.transaction() as connection:
        take(connection, ("record", [("m-1", {"status": 0}, None, HOUR)]))

    with server_database.transaction() as one, server_database.transaction() as other:
        added_up = [stats.compact(one), stats.compact(other)]

    assert added_up == [1, 0]


def test_compaction_is_bounded_and_goes_on_where_it_ended(
    server_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "MAX_DELTAS", 3)
    for number in range(5):
        with server_database.transaction() as connection:
            take(connection, ("record", [(f"m-{number}", {"status": 0}, None, HOUR)]))

    added_up = []
    for _ in range(3):
        with server_database.transaction() as connection:
            added_up.append(stats.compact(connection))

    assert added_up == [3, 2, 0]
    with server_database.transaction() as connection:
        assert counted(connection, KEYS) == recount(connection, KEYS)
        assert counted(connection, ["hour"]) == recount(connection, ["hour"])


def test_statistics_stay_exact_while_replicas_write_and_compact(
    server_database: Database,
) -> None:
    stop = threading.Event()
    numbers = itertools.count()

    def write_on(seed: int) -> None:
        chosen = random.Random(seed)
        while not stop.is_set():
            batch = [
                understood(
                    f"m-{chosen.randrange(40)}",
                    "6588888888",
                    {"network": chosen.choice(NETWORKS), **chosen.choice(MEANINGS)},
                    (FIRST_HOUR + chosen.randrange(4)) * HOUR + next(numbers),
                )
                for _ in range(8)
            ]
            with server_database.write.begin() as connection:
                write.record(connection, batch)
            if chosen.random() < 0.2:
                with server_database.write.begin() as connection:
                    take(connection, ("purge", f"m-{chosen.randrange(40)}"))

    def compact() -> None:
        while not stop.is_set():
            with server_database.transaction() as connection:
                stats.compact(connection)

    at_once = server_database.read.execution_options(isolation_level="REPEATABLE READ")
    with ThreadPoolExecutor() as threads:
        done = [threads.submit(write_on, seed) for seed in range(3)]
        done += [threads.submit(compact) for _ in range(2)]
        try:
            for _ in range(40):
                with at_once.begin() as connection:
                    span = (FIRST_HOUR * HOUR + 100, (FIRST_HOUR + 3) * HOUR + 300)
                    for keys in (KEYS, ["hour"]):  # of either table
                        assert counted(connection, keys, *span) == recount(connection, keys, *span)
        finally:
            stop.set()
    for one in done:
        one.result()
    with server_database.transaction() as connection:
        while stats.compact(connection):
            pass
        assert counted(connection, KEYS) == recount(connection, KEYS)
        assert counted(connection, ["hour"]) == recount(connection, ["hour"])
