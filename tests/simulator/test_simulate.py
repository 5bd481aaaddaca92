"""Traffic that the simulator makes up, and its check of the service that took it."""

import os
import pty
from collections import Counter
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE
from tempfile import TemporaryFile
from typing import Any

import pytest

from simulator.behaviours import BEHAVIOURS
from tests.feed import all_changes, wait_until_settled
from tests.process import STARTER, Ended, free_port, run
from tests.service import READ_KEY, Service, a_report
from tests.simulator.simulating import QUICK, callback_of, check_of, events, only, simulate

CHANGING = ("at", "took_s", "body", "answer")


def a_ledger(name: str, *options: str) -> Counter[str]:
    """The ledger of a run that nobody answers, without times and order."""
    nobody = f"http://127.0.0.1:{free_port()}/"
    quick = ("--rate", "50000", "--delay-s", "0.01", "--late-s", "0.02", "--messages", "40")
    assert run("simulate", "--callback", nobody, "--ledger", name, *quick, *options).code == 0
    return Counter(
        str({key: value for key, value in event.items() if key not in CHANGING})
        for event in events(name, "sent", "report")
    )


def assert_one_difference(ended: Ended, *told: str) -> None:
    assert ended.code == 1, ended
    *_, difference, conclusion = ended.stdout.splitlines()
    assert conclusion.endswith(": 1 difference")
    for text in told:
        assert text in difference


def test_every_behaviour_is_shown_as_the_simulator_expects(service: Service) -> None:
    each = (word for name in BEHAVIOURS for word in ("--share", f"{name}=1"))

    ended = simulate(
        service, "--messages", "300", "--seed", "1", "--ledger", "it", *each, *check_of(service)
    )

    assert ended.code == 0, ended
    assert "300 messages, " in ended.stdout
    assert ended.stdout.endswith(": all agree\n")
    assert {event["behaviour"] for event in events("it", "sent")} == BEHAVIOURS.keys()
    assert {event["answer"] for event in events("it", "report")} == {200, 400}
    assert service.quarantine()


def test_lookups_changes_and_statistics_agree_with_the_ledger(service: Service) -> None:
    ended = simulate(
        service, "--messages", "200", "--seed", "5", "--ledger", "it", *check_of(service)
    )
    assert ended.code == 0, ended
    reported = {
        (event["messageid"], event["to"])
        for event in events("it", "report")
        if event["answer"] == 200
    }

    wait_until_settled(service.database_url)
    changed = {(item["messageid"], item["to"]): item for item in all_changes(service.http)}
    looked_up = {
        (message_id, delivery["to"]): delivery
        for message_id in {message_id for message_id, _ in reported}
        for delivery in service.message(message_id)["deliveries"]
    }
    totals = service.get("/v1/stats").json()["totals"]

    assert looked_up.keys() == reported
    assert {key: visible(item) for key, item in changed.items()} == {
        key: visible(item) for key, item in looked_up.items()
    }
    assert +Counter(totals["by_state"]) == Counter(item["state"] for item in looked_up.values())


def visible(delivery: dict[str, Any]) -> dict[str, Any]:
    """The delivery without the time that a repeat changes, which is no change in the feed."""
    return {name: value for name, value in delivery.items() if name != "last_received_at"}


def test_a_report_behind_its_back_is_a_difference(service: Service) -> None:
    simulate(service, *only("delivered"), "--messages", "3", "--seed", "2", "--ledger", "it")
    sent = events("it", "sent")[0]
    late_failure = a_report(
        messageid=sent["messageid"], to=sent["to"], status=404, statuscode="failed"
    )
    assert service.call_back(late_failure).status_code == 200

    ended = run("simulate", "--ledger", "it", *check_of(service))

    assert_one_difference(
        ended, sent["messageid"], "(delivered)", "conflicting is True, must be False"
    )
    assert sent["to"] not in ended.stdout + ended.stderr


def test_a_recipient_that_nobody_sent_to_is_a_difference(service: Service) -> None:
    simulate(service, *only("delivered"), "--messages", "3", "--seed", "2", "--ledger", "it")
    message_id = events("it", "sent")[0]["messageid"]
    assert service.call_back(a_report(messageid=message_id, to="6599999999")).status_code == 200

    ended = run("simulate", "--ledger", "it", *check_of(service))

    assert_one_difference(ended, message_id, "to 6599****99: is shown, and was never sent")


@pytest.mark.parametrize("behaviour", ["never", "malformed"])
def test_a_message_without_valid_reports_is_not_known(service: Service, behaviour: str) -> None:
    simulate(service, *only(behaviour), "--messages", "2", "--seed", "3", "--ledger", "it")
    sent = events("it", "sent")[0]
    assert service.call_back(a_report(**{name: sent[name] for name in ("messageid", "to")}))

    ended = run("simulate", "--ledger", "it", *check_of(service))

    assert_one_difference(ended, sent["messageid"], "is delivered, must be not known")


def test_a_report_that_is_lost_is_a_difference(service: Service) -> None:
    simulate(service, *only("delivered"), "--messages", "2", "--seed", "4", "--ledger", "it")
    with Path("it").open("a") as ledger:
        line = Path("it").read_text().splitlines()[1]
        assert '"sent"' in line
        ledger.write(line.replace(events("it", "sent")[0]["messageid"], "nobody-knows-it") + "\n")
        reported = Path("it").read_text().splitlines()[-1]
        message_id = events("it", "report")[-1]["messageid"]
        to, other = events("it", "sent")[0]["to"], events("it", "report")[-1]["to"]
        lost = reported.replace(message_id, "nobody-knows-it").replace(other, to)
        ledger.write(lost + "\n")

    ended = run("simulate", "--ledger", "it", *check_of(service))

    assert_one_difference(ended, "nobody-knows-it", "is not known, must be delivered")


def test_a_wrong_token_is_found_out(service: Service) -> None:
    ended = run(
        *("simulate", "--callback", f"{callback_of(service)}-not", "--messages", "2"),
        *(*only("delivered"), "--delay-s", "0", *check_of(service)),
    )

    assert ended.code == 1
    assert "does it end with the service's token?" in ended.stdout
    assert "a good report was answered 404" in ended.stdout


def test_a_run_that_nobody_answered_agrees_with_nothing(service: Service) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/"

    ended = run(
        *("simulate", "--callback", nobody, "--messages", "2", *only("delivered")),
        *("--delay-s", "0", *check_of(service)),
    )

    assert_one_difference(ended, "no report was answered at all")


def test_a_key_that_reads_compares_all_but_the_quarantine(service: Service) -> None:
    options = ("--messages", "30", "--seed", "5", *only("malformed", "delivered"))

    ended = simulate(service, *options, *check_of(service, READ_KEY))

    assert ended.code == 0
    assert "the quarantine was not compared" in ended.stdout
    assert ended.stdout.endswith(": all agree\n")


def test_the_same_seed_does_the_same_again() -> None:
    first, second, other = (a_ledger(f"{n}", "--seed", seed) for n, seed in enumerate("778"))

    assert first == second
    assert not first & other


def test_a_ledger_is_for_its_owner_and_not_overwritten() -> None:
    a_ledger("it", "--seed", "1")
    before = Path("it").read_text()
    nobody = ("--callback", f"http://127.0.0.1:{free_port()}/", "--messages", "0")

    refused = run("simulate", *nobody, "--ledger", "it")
    kept = Path("it").read_text()
    forced = run("simulate", *nobody, "--ledger", "it", "--force")

    assert S_IMODE(Path("it").stat().st_mode) == 0o600
    assert (refused.code, kept) == (2, before)
    assert "--ledger" in refused.stderr
    assert forced.code == 0
    assert not events("it", "sent")


def test_a_ledger_that_was_cut_off_can_be_compared(service: Service) -> None:
    simulate(service, *only("delivered"), "--messages", "3", "--seed", "2", "--ledger", "it")
    whole = Path("it").read_text()
    Path("it").write_text(f'{whole}{{"event": "sen')

    assert run("simulate", "--ledger", "it", *check_of(service)).code == 0


def test_time_ends_a_run_that_has_no_number_of_messages(service: Service) -> None:
    ended = simulate(service, "--seconds", "0.3", "--ledger", "it", "--check", *check_of(service))

    assert ended.code == 0, ended
    assert events("it", "sent")


def test_time_ends_a_run_whose_rate_is_out_of_reach() -> None:
    nobody = ("--callback", f"http://127.0.0.1:{free_port()}/")

    ended = run("simulate", *nobody, *QUICK, "--rate", "100000", "--seconds", "0.5")

    assert ended.code == 0, ended.stderr


def test_a_terminal_shows_a_live_line(service: Service) -> None:
    ours, theirs = pty.openpty()
    arguments = ("simulate", "--callback", callback_of(service), *QUICK, "--seconds", "0.5")
    screen = {"TERM": "xterm", "COLUMNS": "200"}
    with TemporaryFile() as stdout:
        with os.fdopen(theirs, "wb", buffering=0) as terminal:
            process = STARTER.start("app.cli", arguments, screen, stdout, terminal)
        shown = read_terminal(ours)
        code = process.wait(60)
        stdout.seek(0)
        written = stdout.read()

    assert code == 0
    assert " outstanding" in shown
    assert " x 200" in shown
    assert written.startswith(b"sent ")


def read_terminal(terminal: int) -> str:
    """Read a terminal until its last writer has closed it: unread, it would block them."""
    shown = b""
    with suppress(OSError):  # Linux's end of a terminal
        while chunk := os.read(terminal, 65536):
            shown += chunk
    os.close(terminal)
    return shown.decode()


WRONG: list[tuple[str, list[str]]] = [
    ("--callback", []),
    ("--callback", ["--callback", "ftp://hush-hush/"]),
    ("--callback", ["--callback", "http://hush-hush:no-port/"]),
    ("--callback", ["--callback"]),
    ("--messages", ["--messages", "-1"]),
    ("--seconds", ["--seconds", "0"]),
    ("--rate", ["--rate", "0"]),
    ("--rate", ["--rate", "nan"]),
    ("--seed", ["--seed", "one"]),
    ("--share", ["--share", "nonsense=1"]),
    ("--share", ["--share", "late"]),
    ("--share", ["--share", "late=-1"]),
    ("--share", ["--share", "late=nan"]),
    ("--share", ["--share", "all=0"]),
    ("--connections", ["--connections", "0"]),
    ("--lose-answers", ["--lose-answers", "1.1"]),
    ("--listen", ["--listen", "8055"]),
    ("--listen", ["--listen", "127.0.0.1:port"]),
    ("--listen", ["--listen", "127.0.0.1:65536"]),
    ("--listen", ["--listen", "192.0.2.1:8055"]),  # somebody else's
    ("--ledger", ["--ledger", "/proc/nowhere/it"]),
    ("--api", ["--check", "--key", "hush-hush"]),
    ("--api", ["--check", "--key", "hush-hush", "--api", "127.0.0.1:8000"]),
    ("--key", ["--check", "--api", "http://127.0.0.1:1"]),
    ("--nonsense", ["--nonsense"]),
]


@pytest.mark.parametrize(("named", "given"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_a_wrong_option_is_one_line_that_names_it(named: str, given: list[str]) -> None:
    callback = [] if named == "--callback" else ["--callback", "http://127.0.0.1:1/hush-hush"]

    ended = run("simulate", *callback, *given)

    assert ended.code == 2, ended
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert named in ended.stderr
    assert "hush-hush" not in ended.stderr


@pytest.mark.parametrize(
    ("named", "changed"),
    [("--api", {"--api": "http://127.0.0.1:1"}), ("--key", {"--key": "wrong"})],
)
def test_an_api_that_does_not_answer_is_one_line(
    named: str, changed: dict[str, Any], service: Service
) -> None:
    given = {"--api": str(service.http.base_url), "--key": READ_KEY, **changed}
    simulate(service, *only("delivered"), "--messages", "1", "--ledger", "it")

    ended = run(
        "simulate", "--check", "--ledger", "it", *(w for item in given.items() for w in item)
    )

    assert ended.code == 2, ended
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert named in ended.stderr
