"""`paasoo-dlr purge`, and the purge that `serve` does by itself: old final messages go."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import URL

from app.ops import upkeep
from app.store import retention, sends, tables
from app.store.retention import Purged
from app.store.sends import Send
from app.store.tables import deliveries, quarantine
from tests.commands.conftest import Stored, many
from tests.process import run, run_afresh, serving, until
from tests.recount import KEYS, counted, recount
from tests.service import READ_KEY, TOKEN, a_report, running_service
from tests.times import ago

GIVEN = {"DLR_CALLBACK_TOKENS": TOKEN, "DLR_API_KEYS": f"reader:read:{READ_KEY}"}


def test_old_final_messages_go_with_their_history_and_all_else_stays(stored: Stored) -> None:
    old, new = ago(days=40), ago(days=20)
    stored.register("given-up", "6588888888", at=old)
    stored.expire(old + 1, now=old)
    stored.register("given-up-lately", "6588888888", at=old)
    stored.expire(old + 1, now=new)
    stored.register("sent", "6588888888", at=old)
    stored.record(a_report(messageid="old", statuscode="accepted"), at=old)
    stored.record(a_report(messageid="old"), at=old)
    stored.record(a_report(messageid="old-with-news"), at=old)
    stored.record(a_report(messageid="old-with-news"), at=new)
    stored.record(a_report(messageid="open", statuscode="accepted"), at=old)
    stored.record(a_report(messageid="unclear", status=777), at=old)
    stored.record(a_report(messageid="new"), at=new)
    stored.refuse("type=old", at=old)
    stored.refuse("type=new", at=new)

    only_counted = stored.run("purge", "--days", "30", "--dry-run")
    after_dry_run = stored.count(deliveries)
    ended = stored.run("purge", "--yes", DLR_RETENTION_DAYS="30")

    summary = "2 deliveries, 2 reports of theirs, 1 refused callbacks\n"
    assert (only_counted.code, only_counted.stdout) == (0, f"would be purged: {summary}")
    assert after_dry_run == 8
    assert (ended.code, ended.stdout) == (0, f"purged: {summary}"), ended.stderr
    assert "purging" in ended.stderr
    assert "3/3" in ended.stderr
    assert [row.message_id for row in stored.rows(deliveries)] == [
        *("given-up-lately", "new", "old-with-news", "open", "sent", "unclear")
    ]
    assert {row.message_id for row in stored.reports()} == {
        *("new", "old-with-news", "open", "unclear")
    }
    assert [row.query for row in stored.rows(quarantine)] == ["type=new"]


def test_messages_without_a_report_go_page_by_page(stored: Stored) -> None:
    old = ago(days=40)
    for number in range(2 * retention.BATCH + 1):
        stored.register(f"sent-{number}", "6588888888", at=old)
    stored.expire(old + 1, now=old)
    stored.register("still-open", "6588888888", at=old)
    stored.record(a_report(messageid="reported"), at=old)

    ended = stored.run("purge", "--yes", DLR_RETENTION_DAYS="30")

    assert ended.code == 0, ended.stderr
    assert [row.message_id for row in stored.rows(deliveries)] == ["still-open"]


def test_a_message_goes_whole_or_stays_whole(stored: Stored) -> None:
    for recipient in ("6588888881", "6588888882"):
        stored.register("half-open", recipient, at=ago(days=40))
    stored.record(a_report(messageid="half-open", to="6588888881"), at=ago(days=40))
    stored.record(a_report(messageid="half-new", to="6588888881"), at=ago(days=40))
    stored.record(a_report(messageid="half-new", to="6588888882"), at=ago(days=1))
    for recipient in ("6588888881", "6588888882"):
        stored.record(a_report(messageid="old", to=recipient), at=ago(days=40))

    ended = stored.run("purge", "--yes", "--days", "30")

    assert "2 deliveries, 2 reports of theirs" in ended.stdout, ended
    assert [row.message_id for row in stored.rows(deliveries)] == [
        *("half-new", "half-new", "half-open", "half-open")
    ]


def test_empty_days_are_those_of_the_setting(stored: Stored) -> None:
    of_the_setting = stored.run("purge", "--days", "", "--yes", DLR_RETENTION_DAYS="30")
    without = stored.run("purge", "--days", "", "--yes")

    assert of_the_setting.code == 0, of_the_setting.stderr
    assert without.code == 2
    assert "DLR_RETENTION_DAYS" in without.stderr


def test_more_days_than_there_were_are_refused(stored: Stored) -> None:
    ended = stored.run("purge", "--days", "999999999")

    assert ended.code == 2
    assert "--days" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_more_than_a_batch_goes_and_statistics_follow(stored: Stored) -> None:
    stored.record(*many(1300), at=ago(days=40))
    stored.record(*many(20, network="40410"), at=ago(days=1))
    stored.refuse(*(f"type={number}" for number in range(600)), at=ago(days=40))

    ended = stored.run("purge", "--yes", "--days", "7")

    assert "1280 deliveries, 1280 reports of theirs, 600 refused" in ended.stdout, ended
    with stored.database.read.connect() as connection:
        assert counted(connection, KEYS) == recount(connection, KEYS)


def test_a_report_after_the_purge_begins_a_new_delivery(stored: Stored) -> None:
    stored.record(a_report(), at=ago(days=40))
    stored.run("purge", "--yes", "--days", "30")

    now = ago(days=0)
    stored.record(a_report(status=404, statuscode="Unroutable"), at=now)

    (delivery,) = stored.rows(deliveries)
    assert (delivery.state, delivery.first_received_at) == ("undelivered", now)
    assert not delivery.conflicting


def test_without_a_retention_nothing_is_purged(stored: Stored) -> None:
    stored.record(a_report(), at=ago(days=40))

    ended = stored.run("purge")

    assert ended.code == 2
    assert len(ended.errors) == 1
    assert "DLR_RETENTION_DAYS" in ended.stderr
    assert stored.count(deliveries) == 1


def test_zero_days_are_refused(stored: Stored) -> None:
    stored.record(a_report(), at=ago(days=0.001))

    ended = stored.run("purge", "--yes", "--days", "0")

    assert ended.code == 2
    assert "--days" in ended.stderr
    assert stored.count(deliveries) == 1


def test_nothing_is_purged_unasked(stored: Stored) -> None:
    stored.record(a_report(), at=ago(days=40))

    ended = stored.run("purge", "--days", "30")

    assert ended.code == 2
    assert "would be purged: 1 deliveries" in ended.stderr
    assert "--yes" in ended.stderr
    assert stored.count(deliveries) == 1


def test_two_purges_at_once_and_a_writer_do_not_get_in_each_others_way(stored: Stored) -> None:
    stored.record(*many(3000), at=ago(days=40))
    done = threading.Event()

    def purge() -> Purged:
        purged = Purged()
        for batch in retention.purge(stored.database, ago(days=30)):
            purged = purged.and_also(batch)
        return purged

    def write_on() -> None:
        while not done.is_set():
            stored.record(*many(200, status=404, statuscode="Unroutable")[::5], at=ago(days=0))

    with ThreadPoolExecutor() as threads:
        writing = threads.submit(write_on)
        purges = [threads.submit(purge) for _ in range(2)]
        purged = sum(future.result().deliveries for future in purges)
        done.set()
        writing.result()

    # A delivery that was written first kept its history; one that was purged first began anew.
    assert 2960 <= purged <= 3000
    assert stored.count(deliveries) == 40
    assert sum(row.conflicting for row in stored.rows(deliveries)) == 3000 - purged
    assert "changed: 0" in stored.run("rebuild", "--dry-run").stdout
    with stored.database.read.connect() as connection:
        assert counted(connection, KEYS) == recount(connection, KEYS)


def test_serve_purges_by_itself(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "PURGE_AFTER_S", 0)
    stored.record(a_report(messageid="old"), at=ago(days=40))
    stored.record(a_report(messageid="new"), at=ago(days=20))

    with running_service(stored.url, retention_days=30) as service:
        until(lambda: service.get("/v1/messages/old").status_code == 404)

        assert service.message("new")["final"]


@pytest.mark.parametrize("lately", [0, 2], ids=["all is old", "nearly all is old"])
def test_serve_purges_nothing_if_the_clock_seems_wrong(
    stored: Stored,
    lately: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(upkeep, "PURGE_AFTER_S", 0)
    stored.record(*many(52), at=ago(days=400))  # as if the clock were so far ahead
    for number in range(lately):
        stored.record(a_report(messageid=f"new-{number}"), at=ago(days=0))

    with running_service(stored.url, retention_days=90):
        until(lambda: "nothing was purged" in caplog.text)

    assert stored.count(deliveries) == 52 + lately
    ended = stored.run("purge", "--yes", "--days", "90")
    assert "unusual" in ended.stderr
    assert ended.stdout.startswith("purged: 52 deliveries")


def test_a_quarantine_of_old_rows_alone_is_not_purged_either(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upkeep, "PURGE_AFTER_S", 0)
    stored.refuse("type=dlr", at=ago(days=400))

    with running_service(stored.url, retention_days=90):
        until(lambda: "nothing was purged" in caplog.text)

    assert stored.count(quarantine) == 1


def test_no_idempotency_key_is_forgotten_if_the_clock_seems_wrong(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upkeep, "PURGE_AFTER_S", 0)
    with stored.database.write.begin() as connection:
        for number in range(30):  # as if the clock were so far ahead
            started = ago(days=400) if number else ago(days=0)
            assert sends.start(connection, Send(f"key-{number}", "body", "attempt", started))

    with running_service(stored.url):
        until(lambda: "no idempotency key was forgotten" in caplog.text)

    assert stored.count(tables.sends) == 30


def test_serve_waits_with_the_purge_after_its_start(stored: Stored) -> None:
    stored.record(a_report(messageid="old"), at=ago(days=40))
    stored.record(a_report(messageid="new"), at=ago(days=20))

    with running_service(stored.url, retention_days=30) as service:
        periodic = service.app.parts.periodic
        until(lambda: periodic.has_run("compaction"))
        assert not periodic.has_run("purge")
        assert service.message("old")["final"]


def test_the_command_beside_a_running_serve(stored: Stored, database_url: URL) -> None:
    stored.record(a_report(), at=ago(days=40))
    stored.database.close()
    with serving(**stored.environment, **GIVEN):
        ended = run("purge", "--yes", "--days", "30", **stored.environment)
        only_counted = run("purge", "--days", "30", "--dry-run", **stored.environment)

    if database_url.get_backend_name() == "sqlite":
        assert ended.code == 2
        assert len(ended.errors) == 1
        assert "DLR_RETENTION_DAYS" in ended.stderr
        assert only_counted.stdout.startswith("would be purged: 1 deliveries")
    else:
        assert ended.stdout.startswith("purged: 1 deliveries"), ended
        assert only_counted.stdout.startswith("would be purged: 0 deliveries")


@pytest.mark.parametrize(
    "command", [("purge", "--days", "1"), ("rebuild",), ("quarantine", "list")]
)
def test_commands_need_a_database_of_this_version(
    empty_database_url: URL, command: tuple[str, ...]
) -> None:
    url = empty_database_url.render_as_string(hide_password=False)
    # Once afresh: nothing but the command itself may load what it needs.
    run_it = run_afresh if empty_database_url.get_backend_name() == "sqlite" else run

    ended = run_it(*command, DLR_DATABASE_URL=url)

    assert ended.code == 2
    assert len(ended.errors) == 1
    assert "DLR_DATABASE_URL" in ended.stderr
