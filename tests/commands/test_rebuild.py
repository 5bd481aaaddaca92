"""`paasoo-dlr rebuild`: it makes every status from its history, and changes nothing else."""

import random
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from app.callback.parse import parse
from app.commands.rebuild import RULES
from app.reports import fingerprint_of
from app.store import rebuild, write
from app.store.history import REPORT
from app.store.tables import deliveries, reports
from tests.commands.conftest import Stored, many
from tests.fold import expected_status, shown_status
from tests.process import run, serving
from tests.recount import KEYS, counted, recount
from tests.service import READ_KEY, TOKEN, a_report
from tests.store.test_fold import MEANINGS
from tests.times import YESTERDAY

UNTOUCHED = (deliveries, reports)


@pytest.fixture
def eventful(stored: Stored) -> Stored:
    """Deliveries with every kind of history: reports in any order, sent, expired, late."""
    chosen = random.Random(7)
    stored.register("m-00003", "6588888888", "6588888889", at=YESTERDAY - 9)
    for _ in range(60):
        at = YESTERDAY + chosen.randrange(20)
        changes = {"statuscode": None, "errcode": None, **chosen.choice(MEANINGS)}
        number = chosen.randrange(30)
        stored.record(a_report(messageid=f"m-{number:05}", **changes), at=at)
    stored.register("sent", "6588888888", at=YESTERDAY + 50)
    stored.register("given-up", "6588888888", at=YESTERDAY - 9)
    stored.expire(YESTERDAY, now=YESTERDAY + 100)
    stored.expire(YESTERDAY + 10, now=YESTERDAY + 101)  # accepted ones among them
    for number in range(0, 30, 3):
        stored.record(
            a_report(messageid=f"m-{number:05}", statuscode="accepted"), at=YESTERDAY + 200
        )
    stored.register("m-00004", "6588888888", at=YESTERDAY + 300)
    return stored


def change(stored: Stored, message_id: str, **values: Any) -> None:
    with stored.database.write.begin() as connection:
        of_message = deliveries.c.message_id == message_id
        connection.execute(update(deliveries).where(of_message).values(**values))


OF_ONLY_REPORT = frozenset({"times_received", "source", "query"})


def without_only_report(
    stored: Stored, others: frozenset[str] = OF_ONLY_REPORT
) -> list[tuple[Any, ...]]:
    """Every status, but for a report that it holds."""
    named = (row._asdict() for row in stored.rows(deliveries))
    return [tuple(value for name, value in it.items() if name not in others) for it in named]


def without_position(stored: Stored) -> list[tuple[Any, ...]]:
    """The same without the positions in the change feed."""
    return without_only_report(stored, OF_ONLY_REPORT | {"changed_in"})


def test_rebuild_changes_nothing(eventful: Stored) -> None:
    before = [eventful.rows(table) for table in UNTOUCHED]

    rehearsed = eventful.run("rebuild", "--dry-run")
    ended = eventful.run("rebuild")

    assert rehearsed.code == ended.code == 0, ended.stderr
    count = eventful.count(deliveries)
    rest = "0; reports read anew: 0\n"
    assert rehearsed.stdout == f"deliveries: {count}, would be changed: {rest}"
    assert ended.stdout == f"deliveries: {count}, changed: {rest}"
    assert f"{count}/{count}" in ended.stderr
    assert [eventful.rows(table) for table in UNTOUCHED] == before


def test_every_status_is_the_fold_of_its_history(eventful: Stored) -> None:
    history: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    with eventful.database.read.connect() as connection:
        for row in connection.execute(select(*REPORT)):
            history[row.message_id, row.recipient].append(row)
    stored = eventful.rows(deliveries)

    assert {row.state for row in stored} >= {"pending", "expired", "delivered"}
    for row in stored:
        key = row.message_id, row.recipient
        assert shown_status(row) == expected_status(history[key], row.expired_at), key


def test_rebuild_mends_every_part_of_a_status(eventful: Stored) -> None:
    before = without_position(eventful)
    positions = {row.message_id: row.changed_in for row in eventful.rows(deliveries)}
    change(eventful, "m-00001", state="unknown", rank=2, reason="contradictory")
    change(eventful, "m-00002", conflicting=True, errcode="x", decided_at=1, fingerprint=2)
    change(eventful, "m-00004", first_received_at=1, last_received_at=YESTERDAY + 10_000)
    change(eventful, "sent", state="delivered", rank=5)
    change(eventful, "given-up", state="pending", rank=0)
    damaged = without_position(eventful)

    rehearsed = eventful.run("rebuild", "--dry-run")
    after_rehearsal = without_position(eventful)
    ended = eventful.run("rebuild")

    assert "would be changed: 5;" in rehearsed.stdout
    assert "sent 6588****88: delivered -> pending\n" in rehearsed.stdout
    assert "given-up 6588****88: pending -> expired\n" in rehearsed.stdout
    assert "6588888888" not in rehearsed.stdout
    assert after_rehearsal == damaged
    assert "changed: 5;" in ended.stdout
    assert without_position(eventful) == before
    for row in eventful.rows(deliveries):
        is_mended = row.message_id in {"m-00001", "m-00002", "m-00004", "sent", "given-up"}
        assert (row.changed_in > positions[row.message_id]) is is_mended
    with eventful.database.read.connect() as connection:
        assert counted(connection, KEYS) == recount(connection, KEYS)


def test_a_history_without_a_status_gets_one(stored: Stored) -> None:
    stored.record(*many(3, statuscode="accepted"))
    stored.record(*many(3))
    before = without_position(stored)
    with stored.database.write.begin() as connection:
        connection.execute(delete(deliveries).where(deliveries.c.message_id == "m-00001"))

    ended = stored.run("rebuild")

    assert "m-00001 6588****88: nothing -> delivered\n" in ended.stdout
    assert without_position(stored) == before


def test_reports_are_read_by_todays_rules(stored: Stored) -> None:
    query = a_report(status=404, statuscode="Unroutable")
    stored.record(query, a_report(messageid="other"))
    right = stored.reports(), without_position(stored)
    # As an earlier version might have understood it.
    change(stored, "052804b7368321", rank=2, state="unknown", reason="unrecognised_status")
    older_rows = stored.reports()

    rehearsed = stored.run("rebuild", "--dry-run")
    after_rehearsal = stored.reports()
    ended = stored.run("rebuild")

    assert "unknown -> undelivered" in rehearsed.stdout
    assert rehearsed.stdout.endswith("would be changed: 1; reports read anew: 1\n")
    assert after_rehearsal == older_rows
    assert ended.stdout.endswith(", changed: 1; reports read anew: 1\n")
    assert (stored.reports(), without_position(stored)) == right


def record_as_before(stored: Stored, query: str, at: int = YESTERDAY, **values: Any) -> None:
    """Store a report with the values, and the meaning, that an earlier version gave it."""
    report = parse(query.encode(), at)._replace(**values)
    fingerprint = fingerprint_of(report.status, report.statuscode, report.errcode, report.mcc_mnc)
    with stored.database.write.begin() as connection:
        write.record(connection, [report._replace(fingerprint=fingerprint)])


OLDER_MEANING: dict[str, Any] = {"state": "undelivered", "rank": 4, "reason": "unspecified"}


def test_words_that_are_new_are_understood_in_old_reports(stored: Stored) -> None:
    delivered: dict[str, Any] = {"state": "delivered", "rank": 5, "reason": None}
    for message_id, status, word, older in (
        ("enroute", 0, "ENROUTE", delivered),
        ("expired", 0, "EXPIRED", delivered),
        ("failed", 404, "EXPIRED", OLDER_MEANING),
        ("none", 404, "空号", OLDER_MEANING),
    ):
        query = a_report(messageid=message_id, status=status, statuscode=word, errcode=None)
        record_as_before(stored, query, YESTERDAY, **older)
    before = stored.reports(), stored.rows(deliveries)

    rehearsed = stored.run("rebuild", "--dry-run")
    after_rehearsal = stored.reports(), stored.rows(deliveries)
    ended = stored.run("rebuild")

    for line in ("enroute 6588****88: delivered -> accepted", "expired 6588****88: delivered ->"):
        assert line in rehearsed.stdout
        assert line in ended.stdout
    assert rehearsed.stdout.endswith("would be changed: 4; reports read anew: 4\n")
    assert after_rehearsal == before
    assert {row.message_id: (row.state, row.reason) for row in stored.rows(deliveries)} == {
        "enroute": ("accepted", None),
        "expired": ("unknown", "contradictory"),
        "failed": ("undelivered", "validity_expired"),
        "none": ("undelivered", "absent_permanent"),
    }


def test_old_values_lose_their_white_space_and_control_characters(stored: Stored) -> None:
    query = f"{a_report(network=None, statuscode=None)}&network=52099%0D%0A&statuscode=a%01b"
    record_as_before(stored, query, mcc_mnc="52099\r\n", statuscode="a\x01b")
    before = stored.reports(), stored.rows(deliveries)

    rehearsed = stored.run("rebuild", "--dry-run")
    after_rehearsal = stored.reports(), stored.rows(deliveries)
    ended = stored.run("rebuild")

    assert "052804b7368321 6588****88: delivered, in its details\n" in rehearsed.stdout
    assert rehearsed.stdout.endswith("would be changed: 1; reports read anew: 1\n")
    assert after_rehearsal == before
    assert ended.stdout.endswith(", changed: 1; reports read anew: 1\n")
    (report,), (delivery,) = stored.reports(), stored.rows(deliveries)
    today = parse(query.encode(), YESTERDAY)
    assert report.fingerprint == delivery.fingerprint == today.fingerprint
    assert (report.mcc_mnc, report.statuscode) == ("52099", "a%01b")
    assert (delivery.mcc_mnc, delivery.statuscode) == ("52099", "a%01b")
    assert report.query == query
    with stored.database.read.connect() as connection:
        assert counted(connection, KEYS) == recount(connection, KEYS)
    assert "changed: 0;" in stored.run("rebuild").stdout


def test_reports_that_become_equal_are_counted_as_one(stored: Stored) -> None:
    spaced = f"{a_report(network=None)}&network=52099"
    record_as_before(stored, f"{spaced}%0A", YESTERDAY, mcc_mnc="52099\n")
    record_as_before(stored, f"{spaced}%0A", YESTERDAY + 5, mcc_mnc="52099\n")
    record_as_before(stored, f"{spaced}+", YESTERDAY + 9, mcc_mnc="52099 ")
    stored.record(a_report(), at=YESTERDAY + 2)
    stored.record(a_report(status=404, statuscode="failed"), at=YESTERDAY + 3)

    ended = stored.run("rebuild")

    assert ended.stdout.endswith(", changed: 1; reports read anew: 2\n")
    failure, success = sorted(stored.reports(), key=lambda row: row.state, reverse=True)
    assert failure.times_received == 1
    assert (success.times_received, success.mcc_mnc) == (4, "52099")
    assert (success.received_at, success.last_received_at) == (YESTERDAY, YESTERDAY + 9)
    (delivery,) = stored.rows(deliveries)
    assert (delivery.state, delivery.mcc_mnc, delivery.conflicting) == ("delivered", "52099", True)
    assert "changed: 0;" in stored.run("rebuild").stdout


def test_a_row_whose_query_says_something_else_keeps_its_values(stored: Stored) -> None:
    record_as_before(stored, a_report(), mcc_mnc="52099\n")
    with stored.database.write.begin() as connection:
        connection.execute(update(deliveries).values(query="type=dlr&messageid=another&to=1"))
    before = stored.reports(), without_only_report(stored)

    ended = stored.run("rebuild")

    assert ended.stdout.endswith(", changed: 0; reports read anew: 0\n")
    assert (stored.reports(), without_only_report(stored)) == before


def test_twenty_examples_are_enough(stored: Stored) -> None:
    stored.record(*many(30))
    with stored.database.write.begin() as connection:
        connection.execute(update(deliveries).values(reason="unknown"))

    ended = stored.run("rebuild")

    assert ended.stdout.count("delivered, in its details\n") == 20
    assert "and 10 more\n" in ended.stdout


def test_a_correction_leaves_other_rows_alone(stored: Stored) -> None:
    stored.record(*many(30))
    change(stored, "m-00007", conflicting=True)
    others = [row for row in stored.rows(deliveries) if row.message_id != "m-00007"]

    ended = stored.run("rebuild")

    assert "changed: 1;" in ended.stdout
    assert [row for row in stored.rows(deliveries) if row.message_id != "m-00007"] == others
    assert stored.rows(reports) == []


def test_a_report_that_stands_twice_is_one_again(stored: Stored) -> None:
    stored.record(a_report(statuscode="accepted"))
    stored.record(a_report(), at=YESTERDAY + 1)
    with stored.database.write.begin() as connection:
        connection.execute(delete(deliveries))
    stored.record(a_report(), at=YESTERDAY + 2)

    ended = stored.run("rebuild")

    assert ended.stdout.endswith("changed: 1; reports read anew: 0\n")
    accepted, delivered = sorted(stored.reports(), key=lambda row: str(row.state))
    assert accepted.times_received == 1
    assert delivered.times_received == 2
    assert (delivered.received_at, delivered.last_received_at) == (YESTERDAY + 1, YESTERDAY + 2)
    assert "changed: 0; reports read anew: 0" in stored.run("rebuild").stdout


def test_a_report_after_its_delivery_was_deleted_keeps_its_times(stored: Stored) -> None:
    stored.record(a_report(statuscode="accepted"))
    stored.record(a_report(status=404), at=YESTERDAY + 1)
    with stored.database.write.begin() as connection:
        connection.execute(delete(deliveries))
    stored.record(a_report(), at=YESTERDAY + 5)

    ended = stored.run("rebuild")

    assert "changed: 1;" in ended.stdout
    (delivered,) = (it for it in stored.reports() if it.state == "delivered")
    assert (delivered.received_at, delivered.last_received_at) == (YESTERDAY + 5, YESTERDAY + 5)
    (delivery,) = stored.rows(deliveries)
    assert delivery.first_received_at == YESTERDAY
    assert "changed: 0; reports read anew: 0" in stored.run("rebuild").stdout


def test_a_time_that_was_deleted_by_hand_stops_nothing(stored: Stored) -> None:
    stored.record(a_report(statuscode="accepted"), a_report(messageid="other", status=777))
    change(stored, "052804b7368321", first_received_at=None)

    assert stored.reports()[0].received_at == YESTERDAY
    stored.expire(YESTERDAY + 1, now=YESTERDAY + 2)
    stored.record(a_report(), at=YESTERDAY + 3)

    accepted, delivered = sorted(stored.reports(), key=lambda row: str(row.state))[:2]
    assert (accepted.received_at, accepted.times_received) == (YESTERDAY, 1)
    assert delivered.received_at == YESTERDAY + 3


def test_a_first_time_that_was_deleted_by_hand_is_the_reports(stored: Stored) -> None:
    stored.record(a_report())
    change(stored, "052804b7368321", first_received_at=None)

    ended = stored.run("rebuild")

    assert "changed: 1;" in ended.stdout
    (report,), (delivery,) = stored.reports(), stored.rows(deliveries)
    assert report.received_at == delivery.first_received_at == YESTERDAY
    assert "changed: 0;" in stored.run("rebuild").stdout


OF_TRIGGER = "SELECT sql FROM sqlite_master WHERE name = 'move_only_report'"


def test_what_a_missing_trigger_left_is_mended(stored: Stored) -> None:
    """Its first report is lost. PostgreSQL has a constraint against it."""
    with stored.database.write.begin() as connection:
        if stored.database.is_embedded:
            again = connection.exec_driver_sql(OF_TRIGGER).scalar_one()
            connection.exec_driver_sql("DROP TRIGGER move_only_report")
        else:
            for change in ("DROP CONSTRAINT ck_deliveries_only_report", "DISABLE TRIGGER USER"):
                connection.exec_driver_sql(f"ALTER TABLE deliveries {change}")
            again = "ALTER TABLE deliveries ENABLE TRIGGER USER"
    stored.record(a_report(statuscode="accepted"))
    stored.record(a_report(), at=YESTERDAY + 1)
    with stored.database.write.begin() as connection:
        connection.exec_driver_sql(again)

    ended = stored.run("rebuild")

    assert "changed: 1;" in ended.stdout
    (delivery,) = stored.rows(deliveries)
    assert (delivery.times_received, delivery.source, delivery.query) == (None, None, None)
    assert "changed: 0;" in stored.run("rebuild").stdout


def test_a_row_that_the_database_refuses_is_not_quoted(stored: Stored) -> None:
    stored.record(a_report())
    change(stored, "052804b7368321", state="unknown")
    with stored.database.write.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE UPDATE ON deliveries"
            " BEGIN SELECT raise(ABORT, 'refused'); END"
            if stored.database.is_embedded
            else "ALTER TABLE deliveries ADD CONSTRAINT refused CHECK (state = 'unknown')"
        )

    ended = stored.run("rebuild")

    assert ended.code != 0
    assert "refused" in ended.stderr
    assert "6588888888" not in ended.stdout + ended.stderr


def test_more_than_a_batch_is_rebuilt(stored: Stored) -> None:
    stored.record(*many(2500))
    change(stored, "m-02345", state="unknown", rank=2)

    ended = stored.run("rebuild")

    assert "m-02345 6588****88: unknown -> delivered\n" in ended.stdout
    assert "deliveries: 2500, changed: 1;" in ended.stdout


def test_a_history_longer_than_fits_in_memory_at_once_is_folded_as_one(
    eventful: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "REPORTS_AT_ONCE", 2)
    change(eventful, "m-00002", conflicting=True, errcode="x", decided_at=1, fingerprint=2)

    found = list(rebuild.rebuild(eventful.database, RULES, dry_run=False))

    assert sum(len(batch.corrections) for batch in found) == 1
    again = list(rebuild.rebuild(eventful.database, RULES, dry_run=True))
    assert not any(batch.corrections for batch in again)


def test_rebuild_beside_writers_changes_nothing_that_is_right(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "BATCH", 20)
    stored.record(*many(100))
    done = threading.Event()

    def write_on(seed: int) -> None:
        chosen = random.Random(seed)
        at = YESTERDAY
        while not done.is_set():
            at += 1
            changes = {"statuscode": None, "errcode": None, **chosen.choice(MEANINGS)}
            numbers = {chosen.randrange(120) for _ in range(10)}
            stored.record(
                *(a_report(messageid=f"m-{number:05}", **changes) for number in numbers), at=at
            )

    with ThreadPoolExecutor() as threads:
        writers = [threads.submit(write_on, seed) for seed in range(2)]
        wrong = 0
        try:
            for number in range(20):
                change(stored, f"m-{number:05}", conflicting=True, errcode="wrong")
                old = f"{a_report(messageid=f'm-{number + 50:05}', network=None)}&network=1%0A"
                record_as_before(stored, old, mcc_mnc="1\n")
                for found in rebuild.rebuild(stored.database, RULES, dry_run=False):
                    wrong += len(found.corrections)
        finally:
            done.set()
        for writer in writers:
            writer.result()

    assert wrong <= 40
    assert {row.mcc_mnc for row in stored.reports()} <= {"1", "52099", "52501", None}
    assert "changed: 0;" in stored.run("rebuild", "--dry-run").stdout


def test_rebuild_on_an_embedded_database_that_is_served_is_refused(stored: Stored) -> None:
    stored.record(a_report())
    stored.database.close()
    given = {"DLR_CALLBACK_TOKENS": TOKEN, "DLR_API_KEYS": f"reader:read:{READ_KEY}"}
    with serving(**stored.environment, **given):
        ended = run("rebuild", **stored.environment)

    if stored.database.is_embedded:
        assert ended.code == 2
        assert len(ended.errors) == 1
        assert "stop it" in ended.stderr
    else:
        assert ended.code == 0
