"""The simulator as an account of PaaSoo's public pages, and the odd forms of its answers."""

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.process import run, until
from tests.simulator.simulating import SendApi, only, send_api

NOBODY = "http://127.0.0.1:1/"
PUBLIC = ("--account-kind", "public")


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SendApi]:
    """A public account with an unlimited balance, whose reports nobody takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("account"))
        with send_api(NOBODY, *PUBLIC) as running:
            yield running


def send(account: SendApi, **changes: object) -> Any:
    return account.send(**{"from": "My Shop", **changes})


def test_a_send_needs_a_sender_id(account: SendApi) -> None:
    assert send(account, text="with it")["status"] == "0"
    assert send(account, **{"from": None}) == {"status_code": "Missing params.", "status": "2"}
    assert account.events("sent")[-1]["from"] == "My Shop"


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        ("2", {"from": ""}),
        ("2", {"to": None}),
        ("2", {"text": ""}),
        ("2", {"key": None}),
        ("4", {"key": "another"}),
        ("4", {"secret": "wrong"}),
        ("6", {"to": "nobody"}),
        ("6", {"to": ",".join(f"65880000{n:02}" for n in range(51))}),
        ("7", {"from": "much too long a name"}),
        ("7", {"from": "Shöp"}),
    ],
    ids=str,
)
def test_a_wrong_send_is_refused_with_the_public_pages_status(
    account: SendApi, status: str, changes: dict[str, Any]
) -> None:
    answer = send(account, **changes)

    assert answer.keys() == {"status", "status_code"}
    assert answer["status"] == status


def test_the_same_text_to_the_same_number_is_refused_for_three_seconds(account: SendApi) -> None:
    message = {"to": "6588888888,6588888889", "text": "again"}

    answers = [
        send(account, **message),
        send(account, **message),
        send(account, **message, **{"from": "Other"}),
        send(account, to="6588888889,6588888890", text="again"),
        send(account, to="6588888890", text="again"),
        send(account, to="6588888888", text="another"),
    ]

    assert [answer["status"] for answer in answers] == ["0", "8", "8", "8", "0", "0"]
    until(lambda: send(account, **message)["status"] == "0")


def test_a_guides_account_knows_no_sender_id_and_no_repeats() -> None:
    with send_api(NOBODY) as running:
        answers = [running.send(**{"from": given})["status"] for given in (None, "x" * 20, None)]

    assert answers == ["0"] * 3


def test_too_many_sends_a_second_are_refused() -> None:
    with send_api(NOBODY, *PUBLIC, "--send-rate", "3") as running:
        answers = [send(running, text=f"text {n}")["status"] for n in range(20)]
        until(lambda: send(running, text="later")["status"] == "0")

    assert answers[:3] == ["0"] * 3
    assert set(answers[3:]) <= {"0", "10"}
    assert answers.count("10") > 0


@pytest.mark.parametrize(("kind", "status"), [("guide", "404"), ("public", "5")])
def test_only_the_allowed_network_may_send(kind: str, status: str) -> None:
    refused: list[Any] = []
    taken: list[Any] = []
    for network, answers in (("192.0.2.0/24", refused), ("127.0.0.0/8", taken)):
        options = ("--account-kind", kind, "--allowed-network", network, "--force")
        with send_api(NOBODY, *options) as running:
            answers += [send(running)["status"], balance_of(running).get("status")]

    assert refused == [status, status]
    assert taken == ["0", None]


def balance_of(running: SendApi, **changes: str) -> Any:
    asked = {"key": "simulator", "secret": "simulator", **changes}
    return running.http.get("/balance", params=asked).json()


@pytest.mark.parametrize(("kind", "gone"), [("guide", "403"), ("public", "9")])
def test_the_balance_runs_out(kind: str, gone: str) -> None:
    with send_api(NOBODY, "--account-kind", kind, "--balance", "3") as running:
        told = [balance_of(running)]
        statuses = []
        for number, to in enumerate(
            ("6588888881,6588888882", "6588888881,6588888882", "6588888881")
        ):
            statuses.append(send(running, to=to, text=f"text {number}")["status"])
            told.append(balance_of(running))

    assert statuses == ["0", gone, "0"]
    assert [answer["balance"] for answer in told] == ["0.15", "0.05", "0.05", "0.00"]
    assert {answer["currency"] for answer in told} == {"EUR"}


def test_the_balance_of_an_account_without_limit_is_the_sample(account: SendApi) -> None:
    assert balance_of(account) == {"balance": "0.972", "currency": "EUR"}
    assert balance_of(account, secret="wrong")["status"] == "4"
    assert balance_of(account, secret="")["status"] == "2"


def test_a_system_error_tells_nothing_of_a_message_that_was_sent() -> None:
    options = ("--system-errors", "1", *only("never"))
    with send_api(NOBODY, *PUBLIC, *options) as running:
        answer = send(running)
        (sent,) = running.events("sent")

    assert (answer["status"], "messageid" in answer) == ("11", False)
    assert (sent["to"], sent["answer"]) == ("6588888888", "system error")


@pytest.mark.parametrize(
    ("option", "value"), [("--send-rate", "5"), ("--system-errors", "0.5")], ids=str
)
def test_a_guides_account_has_no_status_for_some_options(option: str, value: str) -> None:
    ended = run("simulate", "--callback", NOBODY, "--listen", "127.0.0.1:0", option, value)

    assert (ended.code, ended.errors) == (2, [f"paasoo-dlr: {option}: needs --account-kind public"])


@pytest.mark.parametrize(
    ("option", "value"), [("--allowed-network", "here"), ("--account-kind", "private")], ids=str
)
def test_a_wrong_option_is_named(option: str, value: str) -> None:
    ended = run("simulate", "--callback", NOBODY, "--listen", "127.0.0.1:0", option, value)

    assert ended.code == 2
    assert len(ended.errors) == 1
    assert option in ended.stderr


def raw_answers(running: SendApi, count: int) -> list[tuple[str, bytes]]:
    """The encoding and the body of each answer, as they came."""
    asked = {"key": "simulator", "secret": "simulator"}
    found = []
    for _ in range(count):
        with running.http.stream("GET", "/balance", params=asked) as response:
            body = b"".join(response.iter_raw())
            found.append((response.headers.get("Content-Encoding", ""), body))
    return found


def test_odd_answers_come_in_every_form_and_are_json_all_the_same() -> None:
    with send_api(NOBODY, "--odd-answers", "1", "--seed", "1") as running:
        answers = raw_answers(running, 60)

    plain = [body for encoding, body in answers if not encoding]
    packed = [body for encoding, body in answers if encoding]
    assert {encoding for encoding, _ in answers} == {"", "gzip", "deflate"}
    unpacked = [zlib.decompress(body, window_of(body)) for body in packed]
    assert {json.loads(body)["balance"] for body in unpacked} == {"0.972"}
    assert any(body.startswith(b"\xef\xbb\xbf") for body in plain)
    assert any(body.startswith(b"\r\n") for body in plain)
    assert any(b'"balance": 0.972' in body for body in plain)
    assert any("成功".encode("gbk") in body for body in plain)


def window_of(body: bytes) -> int:
    """The form that a compressed answer has, for zlib."""
    if body.startswith(gzip.compress(b"")[:2]):
        return zlib.MAX_WBITS | 16
    return zlib.MAX_WBITS if body.startswith(b"\x78") else -zlib.MAX_WBITS


def test_the_same_seed_gives_the_same_odd_answers() -> None:
    found = []
    for _ in range(2):
        with send_api(NOBODY, "--odd-answers", "0.5", "--seed", "7", "--force") as running:
            found.append([encoding for encoding, _ in raw_answers(running, 20)])

    assert found[0] == found[1]


def test_another_path_is_not_found(account: SendApi) -> None:
    answer: httpx2.Response = account.http.get("/nothing")

    assert answer.status_code == 404
