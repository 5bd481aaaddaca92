"""The send API as the guide has it, and the reports that follow a send."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import httpx2
import pytest

from tests.process import run, until
from tests.service import Service
from tests.simulator.simulating import SendApi, callback_of, check_of, events, only, send_api

NOBODY = "http://127.0.0.1:1/"


def numbers(count: int) -> str:
    return ",".join(f"65880000{n:02}" for n in range(count))


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SendApi]:
    """A send API with an unlimited balance, whose reports nobody takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("account"))
        with send_api(NOBODY) as running:
            yield running


def test_a_send_is_answered_with_its_id(account: SendApi) -> None:
    answer = account.send(to=numbers(50), text="Grüße, 世界")

    assert answer.keys() == {"status", "messageid"}
    assert answer["status"] == "0"


def test_each_send_has_an_id_of_its_own(account: SendApi) -> None:
    assert account.send()["messageid"] != account.send()["messageid"]


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        ("400", {"to": numbers(51)}),
        ("400", {"to": None}),
        ("400", {"to": ""}),
        ("400", {"to": "6588888888,"}),
        ("400", {"to": "+6588888888"}),
        ("400", {"to": "nobody"}),
        ("400", {"text": None}),
        ("400", {"text": ""}),
        ("400", {"key": None}),
        ("400", {"secret": None}),
        ("401", {"key": "another"}),
        ("401", {"secret": "wrong"}),
    ],
    ids=str,
)
def test_a_wrong_send_is_refused(account: SendApi, status: str, changes: dict[str, Any]) -> None:
    answer = account.send(**changes)

    assert answer.keys() == {"status", "status_code"}
    assert answer["status"] == status


@pytest.mark.parametrize("ending", ["text=%ff", "text=a&text=b"])
def test_a_send_that_is_wrongly_encoded_is_refused(account: SendApi, ending: str) -> None:
    target = f"/json?key=simulator&secret=simulator&to=6588888888&{ending}".encode()

    answer = account.http.get("/json", extensions={"target": target})

    assert answer.json()["status"] == "400"


def test_a_wrong_secret_is_answered_as_in_the_guide(account: SendApi) -> None:
    assert account.send(secret="wrong") == {"status_code": "illegal secret.,", "status": "401"}


def test_a_balance_that_is_gone_refuses_and_takes_nothing() -> None:
    with send_api(NOBODY, "--balance", "3") as running:
        answers = [running.send(to=numbers(count))["status"] for count in (2, 2, 1, 1)]
        ended = running.end()

    assert answers == ["0", "403", "0", "403"]
    assert len(events("send-api.jsonl", "refused")) == 2
    assert "2 sends were refused" in ended.stdout


def test_what_was_sent_is_reported_and_agrees(service: Service) -> None:
    with send_api(callback_of(service), "--seed", "1", *check_of(service)) as running:
        ids = {running.send(to=numbers(size))["messageid"] for size in (1, 7, 50, 20)}
        until(lambda: is_reported(running, "delivered"))
        ended = running.end()

    assert ended.code == 0, ended
    assert ended.stdout.endswith(": all agree\n")
    assert {event["messageid"] for event in events("send-api.jsonl", "sent")} == ids


def is_reported(running: SendApi, behaviour: str) -> bool:
    sent = {
        (event["messageid"], event["to"])
        for event in running.events("sent")
        if event["behaviour"] == behaviour
    }
    return sent <= {(event["messageid"], event["to"]) for event in running.events("report")}


def test_an_early_report_is_stored_before_its_send_is_answered(service: Service) -> None:
    with send_api(callback_of(service), *only("early")) as running:
        message_id = running.send(to=numbers(3))["messageid"]
        message = service.message(message_id)

    assert [delivery["state"] for delivery in message["deliveries"]] == ["delivered"] * 3


def test_a_lost_answer_loses_no_report(service: Service) -> None:
    with send_api(callback_of(service), "--lose-answers", "1", *only("delivered")) as running:
        with pytest.raises(httpx2.RemoteProtocolError):
            running.send()
        until(lambda: bool(running.events("report")))
        (sent,) = running.events("sent")

    assert (sent["to"], sent["text"], sent["answer"]) == ("6588888888", "Hello world", "lost")
    assert service.delivery(sent["messageid"])["state"] == "delivered"


def test_a_share_of_the_answers_is_lost() -> None:
    lost = 0
    with send_api(NOBODY, "--lose-answers", "0.5", "--seed", "1", *only("never")) as running:
        for _ in range(20):
            try:
                running.send()
            except httpx2.RemoteProtocolError:
                lost += 1
        sent = running.events("sent")

    assert 0 < lost < 20
    assert [event["answer"] for event in sent].count("lost") == lost


def test_a_send_is_accepted_though_its_answer_is_late() -> None:
    with send_api(NOBODY, "--answer-delay-s", "60") as running:
        with pytest.raises(httpx2.ReadTimeout):
            running.http.get("/json", params=LATE, timeout=0.2)
        sent = running.events("sent")
        ended = running.end()

    assert [event["to"] for event in sent] == ["6588888888"]
    assert ended.code == 0


LATE = {"key": "simulator", "secret": "simulator", "to": "6588888888", "text": "Hello"}


def test_sigterm_ends_it_before_what_is_late_is_due(service: Service) -> None:
    waiting = ("--late-s", "3600", *only("late"), *check_of(service))
    with send_api(callback_of(service), *waiting) as running:
        running.send(to=numbers(5))
        ended = running.end()

    assert ended.code == 0, ended
    assert "stopped before 5 reports were due" in ended.stdout
    assert ended.stdout.endswith(": all agree\n")


class Busy(BaseHTTPRequestHandler):
    """Takes reports, each at the second attempt."""

    seen: set[str] = set()  # noqa: RUF012 - of the one server that has this class
    is_seen = Event()

    def do_GET(self) -> None:
        self.send_response(200 if self.path in self.seen else 503)
        self.seen.add(self.path)
        self.send_header("Retry-After", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("retries", "answers"), [("0", [503]), ("3", [503, 200])])
def test_a_report_is_repeated_as_often_as_asked(retries: str, answers: list[int]) -> None:
    Busy.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as receiver:
        thread = Thread(target=receiver.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{receiver.server_port}/dlr?client=7"
        given = ("--seed", "1", "--messages", "1", "--ledger", "it", "--delay-s", "0")
        ended = run("simulate", "--callback", url, "--retries", retries, *given, *only("delivered"))
        receiver.shutdown()
        thread.join()

    assert ended.code == 0, ended
    for sent in events("it", "sent"):
        attempts = [event for event in events("it", "report") if event["to"] == sent["to"]]
        assert [event["answer"] for event in attempts] == answers
        assert [event["attempt"] for event in attempts] == [1, 2][: len(answers)]
    assert all(path.startswith("/dlr?client=7&type=dlr&") for path in Busy.seen)
