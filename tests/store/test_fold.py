"""Reports in any order, in any batches, repeated or contradictory, give one right status."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, Row, delete, insert, select

from app.callback.parse import InvalidReportError, parse
from app.reports import DeliveryReport, KnownReport, Status, fold
from app.store import direct, read, write
from app.store.engine import Database, open_database
from app.store.history import HISTORY, reports_of
from app.store.tables import deliveries as deliveries_table
from app.store.tables import reports as reports_table
from tests.directly import committing_directly
from tests.fold import expected_status, shown_status
from tests.service import Service, a_report
from tests.times import ago

RECIPIENTS = ("6588888881", "6588888882")

# Every state, ranks shared by two states, and reports that differ only in details.
MEANINGS: tuple[dict[str, Any], ...] = (
    {"status": 0, "statuscode": "delivered"},
    {"status": 0, "statuscode": "delivered", "errcode": "7"},
    {"status": 0, "statuscode": "accepted"},
    {"status": 0, "statuscode": "failed"},
    {"status": 777},
    {"status": 401},
    {"status": 404, "statuscode": "Unroutable"},
    {"status": 404, "statuscode": "failed", "errcode": "2"},
    {"status": 404, "statuscode": "failed", "errcode": "2", "network": "52501"},
)

some_reports = st.lists(
    st.tuples(
        st.sampled_from(RECIPIENTS),
        st.sampled_from(MEANINGS),
        st.integers(min_value=1, max_value=6),  # few moments, so that many are equal
    ),
    min_size=1,
    max_size=12,
)

fresh_numbers = itertools.count()

Commit = Callable[[Database, Sequence[DeliveryReport]], None]


@pytest.fixture
def database(database_url: URL) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()


_STATUSES = select(
    deliveries_table.c.recipient, *(deliveries_table.c[name] for name in Status._fields)
)


def _known(row: Row[Any]) -> KnownReport:
    return KnownReport(*(getattr(row, name) for name in KnownReport._fields))


def understood(message_id: str, recipient: str, meaning: dict[str, Any], at: int) -> DeliveryReport:
    changes = {"statuscode": None, "errcode": None, "network": None, **meaning}
    return parse(a_report(messageid=message_id, to=recipient, **changes).encode(), at)


@settings(max_examples=150)
@given(facts=some_reports, data=st.data())
def check_every_order(
    database: Database, commit: Commit, apart: bool, facts: list[Any], data: st.DataObject
) -> None:
    """With `apart` no two reports are of the same time."""
    message_id = f"fold-{next(fresh_numbers)}"
    reports = [
        understood(message_id, recipient, meaning, at * 100 + number if apart else at)
        for number, (recipient, meaning, at) in enumerate(facts)
    ]
    shuffled = data.draw(st.permutations(reports))
    while shuffled:
        size = data.draw(st.integers(min_value=1, max_value=len(shuffled)))
        commit(database, shuffled[:size])
        shuffled = shuffled[size:]

    with database.read.connect() as connection:
        deliveries = read.deliveries_of(connection, message_id)
        history = reports_of(connection, message_id)
        kept = connection.execute(_STATUSES.where(deliveries_table.c.message_id == message_id))
        statuses = {recipient: status for recipient, *status in kept}

    assert {recipient: Status(*status) for recipient, status in statuses.items()} == {
        recipient: fold(
            (_known(row) for row in history if row.recipient == recipient), expired_at=None
        )
        for recipient in {report.recipient for report in reports}
    }
    assert {row.recipient: shown_status(row) for row in deliveries} == {
        recipient: expected_status(row for row in history if row.recipient == recipient)
        for recipient in {report.recipient for report in reports}
    }
    assert {(row.recipient, row.fingerprint) for row in history} == {
        (report.recipient, report.fingerprint) for report in reports
    }
    assert sum(row.times_received for row in history) == len(reports)
    for row in history:
        times = [
            report.received_at
            for report in reports
            if (report.recipient, report.fingerprint) == (row.recipient, row.fingerprint)
        ]
        assert (row.received_at, row.last_received_at) == (min(times), max(times))


# Some as PaaSoo's guide shows them, with every optional parameter missing, empty or odd.
raw_queries = st.builds(
    lambda first, message_id, to, rest: f"{first}messageid={message_id}&to={to}&{'&'.join(rest)}",
    st.sampled_from(("type=dlr&", "type=dlr&x=&")),
    st.sampled_from(("052804b7368321", "a%2Db", "a=b")),
    st.sampled_from(("6588888881", "+6588888881")),
    st.lists(
        st.sampled_from(
            (
                *("status=0", "statuscode=delivered", "errcode=1", "network=52099", "errcode="),
                *("statuscode=Absent%20Subscriber", "statuscode=a b", "errcode=01", "errcode=x+y"),
                *("statuscode=%3Dx", "network=525%3099", "statuscode=x=y"),
            )
        ),
        max_size=5,
    ),
)


@settings(max_examples=200)
@given(raw_query=raw_queries)
def check_a_raw_query(database: Database, raw_query: str) -> None:
    try:
        report = parse(raw_query.encode(), 1)
    except InvalidReportError:
        return
    with database.write.begin() as connection:
        connection.execute(delete(reports_table))
        connection.execute(delete(deliveries_table))
        write.record(connection, [report])
        (kept,) = connection.execute(select(HISTORY.c.query)).scalars()
        (shown,) = reports_of(connection, report.message_id)

    assert shown.query == report.query
    assert kept in {"", report.query}


def test_every_raw_query_is_found_again_as_it_came(database: Database) -> None:
    check_a_raw_query(database)


@pytest.mark.parametrize("parts", [2, 3, 4, 5])
def test_the_guides_raw_query_takes_no_room(database: Database, parts: int) -> None:
    rest = ["status=0", "statuscode=delivered", "errcode=1", "network=52099"][: parts - 1]
    raw = "&".join(["type=dlr", "messageid=052804b7368321", "to=6588888888", *rest])
    with database.write.begin() as connection:
        write.record(connection, [parse(raw.encode(), 1)])
        (kept,) = connection.execute(select(HISTORY.c.query)).scalars()
        (shown,) = reports_of(connection, "052804b7368321")

    assert (kept, shown.query) == ("", raw)


def test_any_order_and_any_batches_give_the_fold_of_the_set(database: Database) -> None:
    check_every_order(database, write.commit, apart=False)


def test_the_event_loops_connection_gives_the_same(
    postgres_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes each batch for one of new deliveries first."""
    monkeypatch.setattr(direct, "_FOLDED_AT_ONCE", 0)
    opened = open_database(postgres_url)
    with committing_directly(opened) as commit:
        check_every_order(opened, commit, apart=True)
    opened.close()


def test_a_report_from_a_clock_that_was_ahead_does_not_win_for_ever(database: Database) -> None:
    def record_and_look(mcc_mnc: str, at: int) -> str | None:
        report = understood("ahead", "6588888888", {"status": "0", "network": mcc_mnc}, at)
        with database.batch() as connection:
            write.record(connection, [report])
        with database.read.connect() as connection:
            (delivery,) = read.deliveries_of(connection, "ahead")
            history = reports_of(connection, "ahead")
            kept = connection.execute(_STATUSES.where(deliveries_table.c.message_id == "ahead"))
            ((_, *status),) = kept
        assert Status(*status) == fold(map(_known, history), expired_at=None)
        network: str | None = delivery.mcc_mnc
        return network

    now = ago(days=0)
    assert record_and_look("52001", ago(days=-400)) == "52001"
    assert record_and_look("52002", now) == "52002"
    assert record_and_look("52001", now + 1) == "52001"
    assert record_and_look("52002", now + 2) == "52002"


def test_recording_twice_changes_nothing_but_the_count(database: Database) -> None:
    reports = [
        understood("twice", recipient, meaning, at)
        for at, (recipient, meaning) in enumerate(itertools.product(RECIPIENTS, MEANINGS))
    ]

    def record_and_look() -> tuple[Sequence[Row[Any]], Sequence[Row[Any]]]:
        with database.write.begin() as connection:
            write.record(connection, reports)
        with database.read.connect() as connection:
            return (
                read.deliveries_of(connection, "twice"),
                reports_of(connection, "twice"),
            )

    deliveries, history = record_and_look()
    deliveries_again, history_again = record_and_look()

    assert deliveries_again == deliveries
    assert [row.times_received for row in history] == [1] * len(reports)
    assert [row.times_received for row in history_again] == [2] * len(reports)


@pytest.mark.parametrize(
    "order", list(itertools.permutations(("accepted", "delivered", "failed", "404"))), ids="-".join
)
def test_every_order_over_http_gives_the_same_status(
    service: Service, order: tuple[str, ...]
) -> None:
    queries = {
        "accepted": a_report(statuscode="accepted"),
        "delivered": a_report(),
        "failed": a_report(statuscode="failed"),
        "404": a_report(status=404, statuscode="Unroutable"),
    }
    for name in order:
        assert service.call_back(queries[name]).status_code == 200

    delivery = service.delivery()

    assert delivery["state"] == "delivered"
    assert delivery["reason"] is None
    assert delivery["conflicting"]
    assert len(service.reports()) == 4


def test_a_delivery_that_was_registered_first_gets_its_times_from_the_report(
    database: Database,
) -> None:
    registered = insert(deliveries_table).values(
        message_id="registered",
        recipient=RECIPIENTS[0],
        rank=0,
        decided_at=1,
        fingerprint=0,
        state="pending",
        conflicting=False,
        reference="order 17",
    )
    report = understood("registered", RECIPIENTS[0], {"status": 0}, 7)
    with database.write.begin() as connection:
        connection.execute(registered)
        write.record(connection, [report])

    with database.read.connect() as connection:
        (row,) = read.deliveries_of(connection, "registered")

    assert (row.state, row.first_received_at, row.last_received_at) == ("delivered", 7, 7)
    assert row.reference == "order 17"


@pytest.mark.parametrize("times", [(1, 9, 7), (9, 1, 7), (7, 9, 1)])
@pytest.mark.parametrize("ranks", [(5, 1, 1), (1, 5, 1), (1, 1, 5)])
def test_a_repeat_counts_in_time_though_another_version_gave_it_another_rank(
    database: Database, times: tuple[int, ...], ranks: tuple[int, ...]
) -> None:
    report = understood("m", RECIPIENTS[0], {"status": 0, "statuscode": "accepted"}, 1)
    for at, rank in zip(times, ranks, strict=True):
        with database.write.begin() as connection:
            write.record(connection, [report._replace(received_at=at, rank=rank)])

    with database.read.connect() as connection:
        (row,) = reports_of(connection, "m")
    assert (row.received_at, row.last_received_at, row.times_received) == (1, 9, 3)
