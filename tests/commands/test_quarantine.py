"""`paasoo-dlr quarantine`: list, replay and delete, as on the API."""

import json

import pytest
from sqlalchemy import delete

from app.store.tables import deliveries, quarantine
from tests.commands.conftest import Stored, many
from tests.process import run, serving
from tests.service import ADMIN_KEY, TOKEN, a_report
from tests.times import YESTERDAY, written

GIVEN = {"DLR_CALLBACK_TOKENS": TOKEN, "DLR_API_KEYS": f"boss:admin:{ADMIN_KEY}"}


def test_list_shows_the_latest_first(stored: Stored) -> None:
    stored.refuse("type=mo&x=1", at=YESTERDAY)
    stored.refuse("type=mo&x=2", at=YESTERDAY + 1)
    stored.refuse("type=mo&x=1", at=YESTERDAY + 2)

    lines = stored.run("quarantine", "list").stdout.splitlines()
    objects = stored.run("quarantine", "list", "--json").stdout.splitlines()
    short = stored.run("quarantine", "list", "--limit", "1")

    assert [line.split("  ")[1:] for line in lines] == [
        [written(YESTERDAY + at), times, "invalid_parameter", "not understood", query]
        for at, times, query in ((1, "1", "type=mo&x=2"), (2, "2", "type=mo&x=1"))
    ]
    assert [json.loads(line)["query"] for line in objects] == ["type=mo&x=2", "type=mo&x=1"]
    assert short.stdout.splitlines() == lines[:1]
    assert "--limit 0 shows all" in short.stderr


def test_list_says_the_same_as_the_api_beside_a_running_service(stored: Stored) -> None:
    stored.refuse(*(f"type={number}" for number in range(1100)))
    stored.database.close()
    with serving(**stored.environment, **GIVEN) as service:
        listed = run("quarantine", "list", "--json", "--limit", "0", **stored.environment)
        first_page = service.http.get(
            "/v1/quarantine?limit=1000", headers={"Authorization": f"Bearer {ADMIN_KEY}"}
        ).json()["items"]

    objects = [json.loads(line) for line in listed.stdout.splitlines()]
    assert len(objects) == 1100
    assert objects[:1000] == first_page
    assert listed.stderr == ""


def test_replay_stores_what_is_valid_now(stored: Stored) -> None:
    stored.refuse(*many(120), at=YESTERDAY)
    stored.refuse("type=mo")

    ended = stored.run("quarantine", "replay")

    assert (ended.code, ended.stdout) == (0, "replayed: 120, still rejected: 1\n"), ended.stderr
    assert "121/121" in ended.stderr
    assert [row.query for row in stored.rows(quarantine)] == ["type=mo"]
    assert {(row.received_at, row.source) for row in stored.reports()} == {(YESTERDAY, "replay")}
    assert {row.state for row in stored.rows(deliveries)} == {"delivered"}


def test_repeats_of_a_replayed_report_are_counted_once(stored: Stored) -> None:
    stored.record(a_report(statuscode="accepted"))
    stored.record(a_report())
    with stored.database.write.begin() as connection:
        connection.execute(delete(deliveries))
    stored.record(a_report())  # stands in `reports` and in the delivery now
    stored.refuse(*[a_report()] * 5)

    ended = stored.run("quarantine", "replay")

    assert ended.stdout == "replayed: 1, still rejected: 0\n"
    assert sum(row.times_received for row in stored.reports() if row.state == "delivered") == 7


def test_replay_stores_what_an_unreadable_word_had_refused(stored: Stored) -> None:
    words = ("%BF%D5%BA%C5", "a%00b", "%ff", "x" * 300, "100%", "a&statuscode=b")
    for number, word in enumerate(words):
        message = {"messageid": f"m-{number}", "status": 404, "statuscode": None, "errcode": None}
        stored.refuse(f"{a_report(**message)}&statuscode={word}")
        stored.register(f"m-{number}", "6588888888", at=YESTERDAY - 1)
    stored.expire(YESTERDAY, now=YESTERDAY + 1)
    assert {row.state for row in stored.rows(deliveries)} == {"expired"}

    ended = stored.run("quarantine", "replay")

    assert (ended.code, ended.stdout) == (0, "replayed: 6, still rejected: 0\n"), ended.stderr
    assert [(row.state, row.reason, row.statuscode) for row in stored.rows(deliveries)] == [
        ("undelivered", "absent_permanent", "空号"),
        ("undelivered", "unspecified", "a%00b"),
        ("undelivered", "unspecified", "%ff"),
        ("undelivered", "unspecified", "x" * 255),
        ("undelivered", "unspecified", "100%"),
        ("undelivered", "unspecified", "a"),
    ]


def test_replay_and_delete_of_chosen_rows(stored: Stored) -> None:
    stored.refuse(*many(4))
    first, second, *others = (row.id for row in stored.rows(quarantine))

    replayed = stored.run("quarantine", "replay", first, "0" * 32)
    deleted = stored.run("quarantine", "delete", "--yes", second)
    again = stored.run("quarantine", "delete", "--yes", second)

    assert replayed.stdout == "replayed: 1, still rejected: 0\n"
    assert (deleted.code, deleted.stdout) == (0, "deleted: 1\n")
    assert (again.code, again.stdout) == (1, "deleted: 0\n")
    assert second in again.stderr
    assert [row.id for row in stored.rows(quarantine)] == others


def test_nothing_is_deleted_unasked(stored: Stored) -> None:
    stored.refuse(a_report())
    (row,) = stored.rows(quarantine)

    ended = stored.run("quarantine", "delete", row.id, "0" * 32)

    assert ended.code == 2
    assert "would be deleted: 1 refused" in ended.stderr
    assert "--yes" in ended.stderr
    assert stored.count(quarantine) == 1


@pytest.mark.parametrize(
    ("command", "instead"),
    [("replay", "POST /v1/quarantine/replay"), ("delete", "DELETE /v1/quarantine/ID")],
)
def test_beside_a_service_on_sqlite_commands_point_to_the_api(
    stored: Stored, command: str, instead: str
) -> None:
    stored.refuse(a_report())
    (row,) = stored.rows(quarantine)
    stored.database.close()
    with serving(**stored.environment, **GIVEN):
        consent = ["--yes"] if command == "delete" else []
        ended = run("quarantine", command, *consent, row.id, **stored.environment)

    if stored.database.is_embedded:
        assert ended.code == 2
        assert len(ended.stderr.splitlines()) == 1
        assert instead in ended.stderr
        assert stored.count(quarantine) == 1
    else:
        assert ended.code == 0, ended.stderr
        assert stored.count(quarantine) == 0
