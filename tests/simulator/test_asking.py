"""The simulator tells of a message when it is asked, and knows what it has told to whom."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import URL

from simulator.inquiries import ODD, Kind, parts_of
from simulator.oracle import claim_of, claim_of_answer
from tests.process import free_port, run, until
from tests.service import Service, running_service
from tests.simulator.simulating import (
    SendApi,
    asking_on,
    callback_of,
    check_of,
    events,
    only,
    send_api,
    simulate,
)

PATIENT_S = 60
NOBODY = "http://127.0.0.1:1/"
AT_ONCE = ("--delay-s", "0", "--late-s", "3600", "--rate", "50000")
ONE_REPORT = (
    *("delivered", "absent-permanent", "old-rejected", "new-word", "new-label", "malformed"),
    *("gbk-label", "unreadable-label", "unreadable-code", "white-space", "two-words"),
)


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SendApi]:
    """A simulator that never calls back, and tells at once when it is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("silent"))
        with send_api(NOBODY, *AT_ONCE, *only("never-called-back")) as running:
            yield running


def told_of(running: SendApi, message_id: str) -> Any:
    answer = running.ask(message_id)
    assert answer.status_code == 200
    return answer.json()


def test_a_report_that_is_never_called_back_is_told_when_asked(silent: SendApi) -> None:
    message_id = silent.send(to="8613800138000,8613800138001", text="x" * 200)["messageid"]

    told = told_of(silent, message_id)

    assert [item["to"] for item in told] == ["8613800138000", "8613800138001"]
    for item in told:
        assert (item["type"], item["messageid"], item["status"]) == ("dlr", message_id, 0)
        assert isinstance(item["drStatus"], int)
        assert (item["price"], item["counts"]) == (0.1, 2)
    assert silent.events("report") == []


def test_each_question_is_in_the_ledger_with_what_it_was_told(silent: SendApi) -> None:
    message_id = silent.send()["messageid"]

    told = told_of(silent, message_id)
    unknown = told_of(silent, "nobody-knows-it")
    refused = [silent.ask(message_id, secret="wrong"), silent.ask("")]

    assert unknown == []
    assert [answer.json()["status"] for answer in refused] == ["401", "400"]
    *_, first, second, third, fourth = silent.events("asked")
    assert (first["messageid"], first["answer"], first["told"]) == (message_id, "told", told)
    assert (second["messageid"], second["answer"]) == ("nobody-knows-it", "unknown id")
    assert [third["answer"], fourth["answer"]] == ["refused"] * 2
    assert not first["odd"]


@pytest.mark.parametrize("behaviour", ["late", "never"])
def test_while_there_is_no_report_no_status_is_told(behaviour: str) -> None:
    with send_api(NOBODY, *AT_ONCE, *only(behaviour)) as running:
        message_id = running.send()["messageid"]
        answers = [told_of(running, message_id) for _ in range(10)]
        asked = running.events("asked")

    assert all(item["to"] == "6588888888" for (item,) in answers)
    assert all(item.get("drStatus") is None for (item,) in answers)
    assert {"drStatus" in item for (item,) in answers} == {True, False}
    assert {(event["answer"], event["odd"]) for event in asked} == {("no report yet", False)}


def test_what_is_told_has_the_values_of_the_callback(service: Service) -> None:
    options = ("--messages", "40", "--seed", "1", *AT_ONCE, *only(*ONE_REPORT))
    with send_api(callback_of(service), *options) as running:
        until(lambda: len(message_ids(running)) == 40 and is_reported(running), PATIENT_S)
        reports = {(it["messageid"], it["to"]): it for it in running.events("report")}
        told = [
            item
            for message_id in {message_id for message_id, _ in reports}
            for item in told_of(running, message_id)
        ]

    assert len(told) == len(reports)
    for item in told:
        report = reports[item["messageid"], item["to"]]
        if report["malformed"]:
            assert (item["drStatus"], item["drStatuscode"]) == (0, "delivered")
        else:
            assert claim_of_answer(item) == claim_of(report["query"])


def sent(running: SendApi) -> list[Any]:
    return running.events("sent")


def message_ids(running: SendApi) -> set[str]:
    return {event["messageid"] for event in sent(running)}


def is_reported(running: SendApi) -> bool:
    return len(running.events("report")) == len(sent(running))


def test_of_several_reports_the_one_that_decides_is_told() -> None:
    behaviours = only("accepted-last", "failed-first", "failed-last", "at-once")
    with send_api(NOBODY, *AT_ONCE, *behaviours) as running:
        numbers = ",".join(f"65880000{n:02}" for n in range(30))
        told = told_of(running, running.send(to=numbers)["messageid"])

    assert {(item["drStatus"], item["drStatuscode"]) for item in told} == {(0, "delivered")}


def test_a_share_of_the_questions_is_answered_in_every_odd_way() -> None:
    odd = ("--odd-pulls", "1", "--seed", "1", *AT_ONCE, *only("never-called-back"))
    with send_api(NOBODY, *odd) as running:
        message_id = running.send()["messageid"]
        seen = {ask_anyhow(running, message_id) for _ in range(60)}
        asked = running.events("asked")

    assert {event["answer"] for event in asked} == set(ODD)
    assert all(event["odd"] for event in asked)
    assert seen == {"empty", "without a report", "page 200", "page 500", "slow", "hangs up", "half"}
    for event in asked:
        assert bool(event["told"]) == (event["answer"] in {Kind.SLOW, Kind.CUT_OFF})


def ask_anyhow(running: SendApi, message_id: str) -> str:
    """Ask, and name the way of the answer."""
    try:
        answer = running.ask(message_id)
    except httpx2.ReadTimeout:
        return "slow"
    except httpx2.HTTPError:
        return "hangs up"
    if answer.headers["Content-Type"].startswith("text/html"):
        return f"page {answer.status_code}"
    try:
        items = answer.json()
    except ValueError:
        return "half"
    if not items:
        return "empty"
    return "told" if items[0].get("drStatus") is not None else "without a report"


def test_what_it_makes_up_can_be_asked_about() -> None:
    with send_api(NOBODY, *AT_ONCE, "--messages", "5", *only("never-called-back")) as running:
        until(lambda: len(message_ids(running)) == 5)
        recipients = {(event["messageid"], event["to"]) for event in sent(running)}
        told = [item for it in {it for it, _ in recipients} for item in told_of(running, it)]

    assert {(item["messageid"], item["to"]) for item in told} == recipients
    assert all(isinstance(item["drStatus"], int) for item in told)
    assert {item["counts"] for item in told} <= {1, 2, 3}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("x" * 160, 1),
        ("x" * 161, 2),
        ("界" * 70, 1),
        ("界" * 71, 2),
        ("😀" * 36, 2),
        ("x" * 460, 4),
    ],
)
def test_a_text_has_as_many_parts_as_sms_are_sent(text: str, parts: int) -> None:
    assert parts_of(text) == parts


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def asking(database_url: URL, port: int) -> Iterator[Service]:
    """A service that soon asks the simulator on this port."""
    with running_service(database_url, **asking_on(port)) as running:
        yield running


def test_reports_of_both_sources_agree(asking: Service, port: int) -> None:
    shares = ("never-called-back", "delivered", "malformed", "accepted-first", "late", "never")
    faults = ("--odd-pulls", "0.2", "--odd-answers", "0.5", "--seed", "3")
    judged = (*check_of(asking), "--settle-s", "20", *only(*shares), *faults)
    with send_api(callback_of(asking), *judged, port=port) as running:
        for size in (1, 7, 50):
            numbers = [f"65880000{n:02}" for n in range(size)]
            assert asking.send(to=numbers, text=f"to {size}").status_code == 201
        until(lambda: not missing(asking, running), PATIENT_S)
        ended = running.end()

    assert ended.code == 0, ended
    assert ended.stdout.endswith(" questions: all agree\n")
    assert " told only when asked" in ended.stdout
    assert {item["state"] for item in shown(asking, running)} > {"delivered", "pending"}
    assert any(item["price"] == "0.05" for item in shown(asking, running))


def shown(service: Service, running: SendApi) -> list[Any]:
    ids = message_ids(running)
    return [delivery for it in ids for delivery in service.message(it)["deliveries"]]


def missing(service: Service, running: SendApi) -> set[str]:
    """The recipients that the service shows no report of, and that have one."""
    never = {event["to"] for event in sent(running) if event["behaviour"] == "never"}
    open_ = {item["to"] for item in shown(service, running) if item["state"] == "pending"}
    return open_ - never


def test_an_answer_that_the_service_does_not_store_is_a_difference(service: Service) -> None:
    options = ("--messages", "3", "--seed", "2", *AT_ONCE, *only("never-called-back"))
    with send_api(callback_of(service), *options) as running:
        until(lambda: len(message_ids(running)) == 3)
        event = sent(running)[0]
        service.register(event["messageid"], to=[event["to"]])
        before = run("simulate", "--ledger", str(running.ledger), *check_of(service))
        told_of(running, event["messageid"])  # in the service's place
        after = run("simulate", "--ledger", str(running.ledger), *check_of(service))

    assert before.code == 0, before
    assert after.code == 1
    assert f"{event['messageid']} to " in after.stdout
    assert " (never-called-back): state is 'pending', must be " in after.stdout


def test_a_wrong_price_is_a_difference(asking: Service, port: int) -> None:
    options = ("--messages", "1", "--seed", "2", *AT_ONCE, *only("never-called-back"))
    with send_api(callback_of(asking), *options, port=port) as running:
        until(lambda: bool(sent(running)))
        event = sent(running)[0]
        asking.register(event["messageid"], to=[event["to"]])
        until(lambda: asking.message(event["messageid"])["final"])
    line = next(
        line for line in Path("send-api.jsonl").read_text().splitlines() if '"told"' in line
    )
    price = events("send-api.jsonl", "asked")[0]["told"][0]["price"]
    forged = Path("send-api.jsonl").read_text().replace(f'"price": {price}', '"price": 7')
    Path("forged.jsonl").write_text(forged)

    right = run("simulate", "--ledger", "send-api.jsonl", *check_of(asking))
    wrong = run("simulate", "--ledger", "forged.jsonl", *check_of(asking))

    assert json.loads(line)["answer"] == "told"
    assert right.code == 0, right
    assert wrong.code == 1
    assert f"price, parts are ('{price}', " in wrong.stdout


def test_the_deliveries_of_a_check_add_up(service: Service) -> None:
    ended = simulate(service, "--messages", "150", "--seed", "6", *check_of(service))

    *_, deliveries, conclusion = ended.stdout.splitlines()
    total, _, counts = deliveries.partition(" deliveries: ")
    numbers = [int(part.split()[0]) for part in counts.split(", ")]
    assert ended.code == 0, ended
    assert sum(numbers) == int(total)
    assert f" {total} deliveries, " in conclusion
    assert counts.endswith(" not known to the service")
