"""The simulator as a system that changes are pushed to. The official library signs the pushes."""

import json
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook

from tests.process import Ended, free_port, is_listening, run, until
from tests.service import READ_KEY, Service, a_report
from tests.simulator.simulating import Receiver, check_of, events, receiver

SECRET, OTHER_SECRET, WRONG_SECRET = (
    f"whsec_{b64encode(letter * 32).decode()}" for letter in (b"a", b"b", b"c")
)
SECRETS = ("--receive-secret", SECRET, "--receive-secret", OTHER_SECRET)
NUMBERS = count(1)
LOOKUPS = 'dlr_http_request_seconds_count{method="POST",route="/v1/messages/lookup",status="2xx"}'

DELIVERED = {
    "messageid": "052804b7368321",
    "to": "6588888888",
    "state": "delivered",
    "final": True,
    "reason": None,
    "retryable": False,
    "conflicting": False,
    "status": 0,
    "statuscode": "delivered",
    "errcode": "1",
    "network": "52099",
    "first_received_at": "2026-11-22T08:00:00.000000Z",
    "last_received_at": "2026-11-22T08:00:02.000000Z",
    "submitted_at": None,
    "reference": None,
    "price": None,
    "parts": None,
}
ACCEPTED = {
    **DELIVERED,
    "state": "accepted",
    "final": False,
    "statuscode": "accepted",
    "last_received_at": DELIVERED["first_received_at"],
}


def signed(
    body: str, secret: str = SECRET, push_id: str | None = None, age: timedelta = timedelta()
) -> dict[str, str]:
    """The headers of a push."""
    push_id = push_id or f"msg_{next(NUMBERS)}"
    timestamp = datetime.now(UTC) - age
    return {
        "webhook-id": push_id,
        "webhook-timestamp": str(int(timestamp.timestamp())),
        "webhook-signature": Webhook(secret).sign(push_id, timestamp, body),
    }


def body_of(*items: Any) -> str:
    timestamp = datetime.now(UTC).isoformat()
    return json.dumps(
        {"type": "deliveries.changed", "timestamp": timestamp, "data": {"items": items}}
    )


def push(running: Receiver, *items: Any, path: str = "/hook", **how: Any) -> httpx2.Response:
    body = body_of(*items)
    return running.http.post(path, content=body, headers=signed(body, **how))


def changed(delivery: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**delivery, **changes}


def differences(ended: Ended) -> list[str]:
    """The lines that say what is wrong."""
    *lines, conclusion = ended.stdout.splitlines()
    number = (
        0
        if conclusion.endswith((": all agree", ": no differences"))
        else int(conclusion.split()[-2])
    )
    assert ended.code == (1 if number else 0), ended
    return lines[len(lines) - number :]


def test_a_push_is_verified_with_any_of_the_secrets() -> None:
    with receiver(*SECRETS) as running:
        first = push(running, DELIVERED)
        second = push(running, DELIVERED, secret=OTHER_SECRET)
        body = body_of(DELIVERED)
        headers = signed(body, WRONG_SECRET, "msg_rotated")
        headers["webhook-signature"] += (
            f" v1a,x {signed(body, SECRET, 'msg_rotated')['webhook-signature']}"
        )
        third = running.http.post("/hook", content=body, headers=headers)
        ended = running.end()

    assert [it.status_code for it in (first, second, third)] == [204] * 3
    assert [event["secret"] for event in events(running.ledger, "pushed")] == [1, 2, 1]
    assert differences(ended) == []
    assert "received 3 pushes of 3 items " in ended.stdout


def test_the_secrets_may_be_in_the_environment_and_are_never_shown() -> None:
    secrets = f"{SECRET} {OTHER_SECRET}"
    with receiver(DLR_SIMULATOR_RECEIVE_SECRET=secrets) as running:
        assert push(running, DELIVERED, secret=OTHER_SECRET).status_code == 204
        ended = running.end()

    shown = ended.stdout + ended.stderr + running.ledger.read_text()
    assert ended.code == 0
    assert all(secret.removeprefix("whsec_") not in shown for secret in secrets.split())


def unverified() -> dict[str, tuple[str, dict[str, str]]]:
    """A body and the headers that don't fit it, by what is wrong."""
    body = body_of(DELIVERED)
    right = signed(body)
    return {
        "no signature is right": (body, signed(body, WRONG_SECRET)),
        "no signature is right ": (body_of(ACCEPTED), right),
        "no signature is right  ": (body, {**right, "webhook-id": "msg_another"}),
        "webhook-timestamp is more": (body, signed(body, age=timedelta(minutes=6))),
        "webhook-timestamp is more ": (body, signed(body, age=timedelta(minutes=-6))),
        "webhook-timestamp is no number": (body, {**right, "webhook-timestamp": "today"}),
        "webhook-id is missing": (body, {**right, "webhook-id": ""}),
        "webhook-signature is missing": (body, {**right, "webhook-signature": ""}),
        "no signature is right   ": (body, {**right, "webhook-signature": "nonsense"}),
    }


def test_a_push_that_is_not_verified_is_a_difference() -> None:
    cases = unverified()
    with receiver(*SECRETS) as running:
        answers = [
            running.http.post("/hook", content=body, headers=headers)
            for body, headers in cases.values()
        ]
        ended = running.end()

    found = differences(ended)
    assert [answer.status_code for answer in answers] == [401] * len(cases)
    assert len(found) == len(cases)
    for why, difference in zip(cases, found, strict=True):
        assert difference.startswith(f"/hook: a push failed verification: {why.strip()}")


UNREADABLE = {
    "{": "is no JSON of the right form",
    "[]": "is no JSON of the right form",
    '{"type": "deliveries.changed"}': "lacks 'data'",
    body_of(changed(DELIVERED, state="lost")): "has a state that no document names",
    body_of(DELIVERED, ACCEPTED): "has a delivery twice",
    body_of({"messageid": "1", "to": "6588888888"}): "lacks 'state'",
}


def test_a_push_that_can_not_be_read_is_a_difference() -> None:
    with receiver(*SECRETS) as running:
        answers = [
            running.http.post("/hook", content=body, headers=signed(body)) for body in UNREADABLE
        ]
        ended = running.end()

    assert [answer.status_code for answer in answers] == [400] * len(UNREADABLE)
    assert differences(ended) == [
        f"/hook: a push is malformed: {why}" for why in UNREADABLE.values()
    ]


def test_a_push_of_another_type_is_counted_apart() -> None:
    body = json.dumps({"type": "webhook.test", "timestamp": "now", "data": {}})
    with receiver(*SECRETS) as running:
        answer = running.http.post("/hook", content=body, headers=signed(body))
        ended = running.end()

    assert answer.status_code == 204
    assert differences(ended) == []
    assert "1 pushes were of another type" in ended.stdout


def test_pushes_and_items_that_come_again_are_counted() -> None:
    with receiver(*SECRETS) as running:
        for _ in range(3):
            push(running, ACCEPTED, push_id="msg_again")
        push(running, ACCEPTED)
        push(running, DELIVERED)
        ended = running.end()

    assert differences(ended) == []
    assert "came again: 2 pushes (2 already taken), 3 items in the same form" in ended.stdout


def test_a_retry_may_have_fewer_items_and_nothing_new() -> None:
    other = changed(DELIVERED, messageid="another")
    # A repeat is no change.
    heard_again = changed(DELIVERED, last_received_at="2026-11-22T08:00:03.000000Z")
    with receiver(*SECRETS, "--receive-share", "fails=1") as running:
        push(running, ACCEPTED, other, push_id="msg_fewer")
        push(running, other, push_id="msg_fewer")
        push(running, DELIVERED, push_id="msg_new")
        push(running, heard_again, push_id="msg_new")
        push(running, DELIVERED, other, push_id="msg_new")
        ended = running.end()

    assert differences(ended) == [
        "/hook: msg_new came again with 1 item that its first push had not"
    ]
    assert "came again: 3 pushes (0 already taken), 0 items" in ended.stdout


@pytest.mark.parametrize(
    "older", [ACCEPTED, changed(DELIVERED, last_received_at=None)], ids=["state", "time"]
)
def test_an_older_state_after_a_newer_one_is_a_difference(older: dict[str, Any]) -> None:
    with receiver(*SECRETS) as running:
        push(running, DELIVERED)
        push(running, older, path="/another")
        push(running, older)
        ended = running.end()

    (difference,) = differences(ended)
    assert difference == (
        "/hook: 052804b7368321 to 6588****88:"
        f" was pushed as {older['state']} after a newer delivered"
    )


STATUSES: dict[str, set[int | None]] = {
    "fails": {400, 403, 404, 500, 502, 503, 504},
    "gone": {410},
    "redirects": {301, 302, 303, 307, 308},
    "too-many": {429},
    "hangs": {None},
    "hangs-up": {None},
    "slow": {None, 204},
    "long": {200},
}


@pytest.mark.parametrize("fault", STATUSES)
def test_a_share_of_the_pushes_is_answered_oddly(fault: str) -> None:
    with receiver(*SECRETS, "--seed", "1", "--receive-share", f"{fault}=1") as running:
        answers = [answer_of(running) for _ in range(3)]
        until(lambda: len(running.events("pushed")) == 3)
        ended = running.end()

    statuses = {None if answer is None else answer.status_code for answer in answers}
    assert statuses <= STATUSES[fault]
    assert [event["answer"] for event in running.events("pushed")] == [
        None if answer is None else answer.status_code for answer in answers
    ]
    assert differences(ended) == []
    for answer in answers:
        if fault == "too-many":
            assert answer is not None
            assert int(answer.headers["Retry-After"]) in {1, 2, 3}
        if fault == "long":
            assert answer is not None
            assert len(answer.content) > 64 * 1024


def answer_of(running: Receiver) -> httpx2.Response | None:
    """The answer to a push that is given up soon. None without one."""
    body = body_of(DELIVERED)
    try:
        return running.http.post("/hook", content=body, headers=signed(body), timeout=0.3)
    except (httpx2.ReadTimeout, httpx2.NetworkError, httpx2.RemoteProtocolError):
        return None


def test_a_slow_answer_is_good_for_those_who_wait() -> None:
    seed_of_a_second = "10"
    with receiver(*SECRETS, "--seed", seed_of_a_second, "--receive-share", "slow=1") as running:
        answer = push(running, DELIVERED)
        (event,) = running.events("pushed")

    assert (answer.status_code, event["answer"]) == (204, 204)
    assert event["took_s"] > 1


def test_several_shares_are_drawn_by_the_seed() -> None:
    drawn = []
    for seed in "778":
        shares = ("--seed", seed, "--receive-share", "fails=0.3,gone=0.2", "--force")
        with receiver(*SECRETS, *shares, "--receive-share", "too-many=0.1") as running:
            for _ in range(30):
                push(running, DELIVERED)
            drawn.append([event["answer"] for event in running.events("pushed")])

    first, second, other = drawn
    assert first == second != other
    assert {204, 410, 429} <= set(first)


def test_a_redirect_that_is_followed_is_a_difference() -> None:
    with receiver(*SECRETS, "--receive-share", "redirects=1") as running:
        running.http.follow_redirects = True
        push(running, DELIVERED)
        ended = running.end()

    assert differences(ended) == ["a redirect was followed"]


def test_two_pushes_at_once_to_one_address_are_noticed(service: Service) -> None:
    with receiver(*SECRETS, "--receive-share", "hangs=1") as running:
        with ThreadPoolExecutor(3) as pool:
            paths = ("/one", "/one", "/two")
            for path in paths:
                pool.submit(hang, running, path)
        until(lambda: len(running.events("pushed")) == len(paths))
        ended = running.end()
    besides = {event["path"]: event["beside_s"] for event in running.events("pushed")}
    lines = running.ledger.read_text()
    longest = max(event["beside_s"] for event in running.events("pushed"))
    Path("longer.jsonl").write_text(lines.replace(f'"beside_s": {longest}', '"beside_s": 10.5'))
    too_long = run("simulate", "--ledger", "longer.jsonl", *check_of(service))

    assert differences(ended) == []
    assert differences(too_long) == ["/one: two pushes were under way at once for 10.5 s"]
    assert "1 pushes were under way beside another to their address" in ended.stdout
    assert besides["/two"] == 0
    assert longest > 0


def hang(running: Receiver, path: str) -> None:
    body = body_of(DELIVERED)
    with pytest.raises(httpx2.ReadTimeout):
        running.http.post(path, content=body, headers=signed(body), timeout=1)


def test_the_last_states_pushed_agree_with_the_service(service: Service) -> None:
    with receiver(*SECRETS, *check_of(service, READ_KEY)) as running:
        service.call_back(a_report(status=404, statuscode="failed"))
        push(running, service.delivery())
        service.call_back(a_report())
        service.register("sent-elsewhere", to=["6588888888", "6588888889"], reference="order 17")
        push(running, service.delivery(), *service.message("sent-elsewhere")["deliveries"])
        service.call_back(a_report())  # a repeat, which is no change
        ended = running.end()
    again = run("simulate", "--ledger", str(running.ledger), *check_of(service, READ_KEY))

    assert differences(ended) == []
    assert ended.stdout.endswith("1 address, 3 deliveries: all agree\n")
    assert again == Ended(0, ended.stdout, "")


def test_every_address_must_have_the_last_state_of_every_change(service: Service) -> None:
    service.call_back(a_report(messageid="before"))
    with receiver(*SECRETS, *check_of(service)) as running:
        service.call_back(a_report(status=404, statuscode="failed"))
        service.call_back(a_report(messageid="another"))
        push(running, service.delivery(), service.delivery("another"), path="/one")
        push(running, service.delivery(), path="/two")
        service.call_back(a_report())
        push(running, service.delivery(), path="/two")
        ended = running.end()

    outdated, missed = differences(ended)
    assert outdated.startswith("/one: 052804b7368321 to 6588****88: state is 'delivered', was ")
    assert "; conflicting is True, was pushed as False" in outdated
    assert missed == "/two: another to 6588****88: is delivered, and was not pushed"


def test_a_failed_push_counts_for_nothing(service: Service) -> None:
    with receiver(*SECRETS, *check_of(service), "--receive-share", "fails=1") as running:
        service.call_back(a_report())
        push(running, service.delivery())
        ended = running.end()

    (difference,) = differences(ended)
    assert difference.endswith(": is delivered, and was not pushed")


def test_changes_without_any_push_are_a_difference(service: Service) -> None:
    with receiver(*SECRETS, *check_of(service)) as running:
        service.call_back(a_report())
        ended = running.end()

    assert differences(ended) == ["1 deliveries changed, and nothing was pushed"]


def test_a_delivery_that_nobody_knows_is_a_difference(service: Service) -> None:
    with receiver(*SECRETS, *check_of(service)) as running:
        push(running, DELIVERED)
        ended = running.end()

    (difference,) = differences(ended)
    assert difference.endswith(": was pushed as delivered, and is not known")


def test_an_address_for_final_states_gets_those_alone(service: Service) -> None:
    final = ("--receive-events", "final")
    with receiver(*SECRETS, *final, *check_of(service)) as running:
        service.call_back(a_report())
        service.call_back(a_report(messageid="open", statuscode="accepted"))
        push(running, service.delivery())
        right = running.end()
    with receiver(*SECRETS, *final, *check_of(service), "--force") as running:
        push(running, service.delivery("open"))
        wrong = running.end()

    assert differences(right) == []
    (difference,) = differences(wrong)
    assert difference.endswith(": was pushed as accepted, which is not final")


def test_differences_have_time_to_go_away(service: Service) -> None:
    with receiver(*SECRETS, *check_of(service), "--settle-s", "30") as running:
        service.call_back(a_report())
        asked = service.metric(LOOKUPS)
        running.process.terminate()
        until(lambda: service.metric(LOOKUPS) > asked)
        push(running, service.delivery())
        ended = running.ended()

    assert differences(ended) == []


def test_while_away_it_refuses_connections_and_has_dropped_those_before() -> None:
    away = ("--receive-away", "2.5-4.5", "--receive-share", "hangs=1")
    with receiver(*SECRETS, *away) as running:
        port = running.http.base_url.port
        assert port is not None
        with pytest.raises((httpx2.NetworkError, httpx2.RemoteProtocolError)):
            push(running, DELIVERED)
        until(lambda: not is_listening(port))
        until(lambda: is_listening(port))
        assert answer_of(running) is None
        until(lambda: len(running.events("pushed")) == 2)
        ended = running.end()

    assert differences(ended) == []


def test_time_ends_it() -> None:
    port = free_port()

    ended = run("simulate", "--receive", f"127.0.0.1:{port}", *SECRETS, "--seconds", "0.3")

    assert differences(ended) == []
    assert ended.stdout.endswith(
        "0 addresses, 0 deliveries, not compared with the API: no differences\n"
    )
    assert f"receiver: http://127.0.0.1:{port}/" in ended.stderr


WRONG: list[tuple[str, list[str]]] = [
    ("--receive", ["--receive", "8056", *SECRETS]),
    ("--receive", ["--receive", "192.0.2.1:8056", *SECRETS]),  # somebody else's
    ("--receive-secret", []),
    ("--receive-secret", ["--receive-secret", "hush-hush"]),
    ("--receive-secret", ["--receive-secret", "whsec_hush-hush"]),
    ("--receive-secret", ["--receive-secret", "whsec_"]),
    ("--receive-share", [*SECRETS, "--receive-share", "hangs"]),
    ("--receive-share", [*SECRETS, "--receive-share", "nonsense=0.1"]),
    ("--receive-share", [*SECRETS, "--receive-share", "hangs=1.1"]),
    ("--receive-share", [*SECRETS, "--receive-share", "hangs=0.6,fails=0.6"]),
    ("--receive-away", [*SECRETS, "--receive-away", "80-20"]),
    ("--receive-away", [*SECRETS, "--receive-away", "soon"]),
    ("--receive-events", [*SECRETS, "--receive-events", "some"]),
    ("--callback", [*SECRETS, "--callback", "http://127.0.0.1:1/hush-hush"]),
    ("--listen", [*SECRETS, "--listen", "127.0.0.1:0"]),
    ("--api", [*SECRETS, "--check", "--key", "hush-hush", "--api", "http://127.0.0.1:1"]),
]


@pytest.mark.parametrize(("named", "given"), WRONG, ids=lambda value: " ".join(value)[-40:])
def test_a_wrong_option_is_one_line_that_names_it(named: str, given: list[str]) -> None:
    receive = [] if named == "--receive" else ["--receive", "127.0.0.1:0"]

    ended = run("simulate", *receive, *given)

    (*_, error) = ended.stderr.splitlines()
    assert ended.code == 2, ended
    assert ended.stdout == ""
    assert named in error
    assert "hush-hush" not in ended.stderr
