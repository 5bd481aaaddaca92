"""POST /v1/messages: sent through the simulator, once, and found even if the answer is lost."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, text

from tests.conftest import migrated_database
from tests.process import free_port, serving, until
from tests.service import ADMIN_KEY, READ_KEY, SEND_KEY, TOKEN, Service, running_service
from tests.simulator.simulating import SendApi, account_on, callback_of, check_of, only, send_api

TO = ["6588888881", "6588888882", "6588888883"]
NOBODY = "http://127.0.0.1:1/"


@dataclass(frozen=True, slots=True)
class Pair:
    """A service, and the simulator that it sends through."""

    service: Service
    simulator: SendApi


@contextmanager
def sending_through(database_url: URL, *options: str, **changes: str) -> Iterator[Pair]:
    """A service and a simulator that know each other."""
    port = free_port()
    with (
        running_service(database_url, **account_on(port, **changes)) as service,
        send_api(callback_of(service), *options, port=port) as simulator,
    ):
        yield Pair(service, simulator)


def texts(simulator: SendApi) -> list[str]:
    """The text of each SMS that was sent."""
    return [event["text"] for event in simulator.events("sent")]


def test_sends_reports_and_lookups_agree(database_url: URL) -> None:
    with ExitStack() as stack:
        port = free_port()
        service = stack.enter_context(running_service(database_url, **account_on(port)))
        options = ("--seed", "3", *check_of(service))
        simulator = stack.enter_context(send_api(callback_of(service), *options, port=port))
        sent = []
        for number in range(20):
            to = [f"65{number:02}8800{recipient:02}" for recipient in range(1 + 7 * number % 50)]
            answer = service.send(to=to, reference=f"order {number}")
            assert answer.status_code == 201, answer.text
            assert [delivery["to"] for delivery in answer.json()["deliveries"]] == to
            sent.append(answer.json()["messageid"])
        until(lambda: all(service.message(message_id)["final"] for message_id in sent[:1]))
        ended = simulator.end()
        first = service.found_by("order 0")

    assert ended.code == 0, ended
    assert ended.stdout.endswith(": all agree\n")
    assert list(dict.fromkeys(event["messageid"] for event in simulator.events("sent"))) == sent
    assert [delivery["messageid"] for delivery in first] == sent[:1]


def test_a_sent_message_is_pending_with_its_reference_and_time(database_url: URL) -> None:
    with sending_through(database_url, *only("never")) as pair:
        answer = pair.service.send(to=["+6588888882", "006588888881"], reference="order 17")
        shown = pair.service.message(answer.json()["messageid"])
        sent = pair.simulator.events("sent")

    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == shown
    assert (shown["state"], shown["final"]) == ("pending", False)
    for delivery in shown["deliveries"]:
        assert (delivery["state"], delivery["reference"]) == ("pending", "order 17")
        assert delivery["submitted_at"].endswith("Z")
        assert delivery["last_received_at"] is None
    assert [delivery["to"] for delivery in shown["deliveries"]] == ["6588888881", "6588888882"]
    assert {event["to"] for event in sent} == {"6588888881", "6588888882"}


def test_a_report_that_comes_before_the_answer_wins(database_url: URL) -> None:
    with sending_through(database_url, *only("early")) as pair:
        message = pair.service.send(to=TO, reference="order 17").json()

    assert message["state"] == "delivered"
    assert [delivery["reference"] for delivery in message["deliveries"]] == ["order 17"] * 3
    for delivery in message["deliveries"]:
        assert delivery["submitted_at"] < delivery["first_received_at"]


@pytest.mark.parametrize(
    "content",
    [
        "Hello world",
        "Grüße, 世界 👋",
        "50% off & more? a=b#c;d/e+f",
        "two\nlines\tand a tab ",
        "%41%2B\\u0041",
        "🙂" * 1000,
        "x" * 4000,
    ],
    ids=lambda content: content[:12],
)
def test_the_text_arrives_to_the_letter(shared_sending: Pair, content: str) -> None:
    before = len(texts(shared_sending.simulator))

    answer = shared_sending.service.send(text=content)

    assert answer.status_code == 201, answer.text
    assert texts(shared_sending.simulator)[before:] == [content]


def test_up_to_fifty_recipients_go_in_one_call(shared_sending: Pair) -> None:
    to = [f"65888877{number:02}" for number in range(50)]

    message = shared_sending.service.send(to=to).json()

    sent = [
        event["to"]
        for event in shared_sending.simulator.events("sent")
        if event["messageid"] == message["messageid"]
    ]
    assert sent == to


@pytest.fixture(scope="module")
def shared_sending(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """For tests of the request to PaaSoo, which is the same with any database."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("sending")
        patch.chdir(folder)
        with (
            migrated_database("sqlite", folder, request) as url,
            sending_through(url, *only("never")) as pair,
        ):
            yield pair


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"to": []}, "to"),
        ({"to": None}, "to"),
        ({"to": "6588888888"}, "to"),
        ({"to": [f"65888888{number:02}" for number in range(51)]}, "to"),
        ({"to": ["6588888888", "+6588888888"]}, "to"),
        ({"to": ["6588888888", "12"]}, "to.1"),
        ({"to": ["6588888888,6588888889"]}, "to.0"),
        ({"to": ["088888888"]}, "to.0"),
        ({"to": [6588888888]}, "to.0"),
        ({"text": ""}, "text"),
        ({"text": None}, "text"),
        ({"text": "nul\0"}, "text"),
        ({"text": "x" * 4001}, "text"),
        ({"text": 1}, "text"),
        ({"reference": ""}, "reference"),
        ({"reference": "x" * 256}, "reference"),
        ({"submitted_at": "2000-01-31T08:00:00Z"}, "submitted_at"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_malformed_message_is_refused_before_anything_is_sent(
    shared_sending: Pair, body: dict[str, Any], field: str
) -> None:
    before = shared_sending.simulator.events("sent", "refused")

    answer = shared_sending.service.send(**body)

    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert shared_sending.simulator.events("sent", "refused") == before


@pytest.mark.parametrize("content", ['"\\ud800"', '"\\u0000"'])
def test_a_text_that_is_no_text_is_refused(shared_sending: Pair, content: str) -> None:
    body = f'{{"to": ["6588888888"], "text": {content}}}'
    headers = {"Authorization": f"Bearer {SEND_KEY}", "Content-Type": "application/json"}

    answer = shared_sending.service.http.post("/v1/messages", content=body, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("given", [[""], ["x" * 256], ["\xe9"], ["one", "two"]], ids=str)
def test_a_wrong_idempotency_key_is_refused(shared_sending: Pair, given: list[str]) -> None:
    headers = [("Authorization", f"Bearer {SEND_KEY}")]
    headers += [("Idempotency-Key", key.encode("latin-1").decode("latin-1")) for key in given]
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]

    answer = shared_sending.service.http.post(
        "/v1/messages", headers=raw, json={"to": TO, "text": "Hello"}
    )

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


@pytest.mark.parametrize(("key", "status"), [(None, 401), (READ_KEY, 403), (ADMIN_KEY, 201)])
def test_sending_needs_the_role_send(shared_sending: Pair, key: str | None, status: int) -> None:
    assert shared_sending.service.send(key=key).status_code == status


def test_without_an_account_nothing_is_sent(service: Service) -> None:
    answer = service.send(reference="order 17")

    assert (answer.status_code, answer.json()["code"]) == (503, "sending_not_configured")
    assert service.found_by("order 17") == []


@pytest.mark.parametrize(
    ("changes", "options", "code", "provider"),
    [
        (
            {"paasoo_secret": "wrong"},
            (),
            "provider_refused_credentials",
            {"status": 401, "status_code": "illegal secret.,"},
        ),
        (
            {},
            ("--balance", "2"),
            "provider_restricted",
            {"status": 403, "status_code": "use restricted: the balance is gone"},
        ),
    ],
    ids=["account", "balance"],
)
def test_a_refusal_is_a_problem_and_leaves_nothing(
    database_url: URL,
    changes: dict[str, str],
    options: tuple[str, ...],
    code: str,
    provider: dict[str, object],
) -> None:
    with sending_through(database_url, *options, **changes) as pair:
        answers = [
            pair.service.send(to=TO, reference="order 17", idempotency_key="a-key")
            for _ in range(2)
        ]
        refused = pair.simulator.events("refused")
        found = pair.service.found_by("order 17")

    for answer in answers:
        assert answer.status_code == 502
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == code
        assert answer.json()["provider"] == provider
        assert "Idempotent-Replayed" not in answer.headers
    assert len(refused) == 2
    assert found == []


def test_without_a_connection_nothing_is_sent_and_the_key_stays_free(database_url: URL) -> None:
    port = free_port()
    with running_service(database_url, **account_on(port)) as service:
        refused = service.send(to=TO, reference="order 17", idempotency_key="a-key")
        found = service.found_by("order 17")
        with send_api(NOBODY, port=port) as simulator:
            sent = service.send(to=TO, reference="order 17", idempotency_key="a-key")
            sms = texts(simulator)

    assert (refused.status_code, refused.json()["code"]) == (503, "provider_unreachable")
    assert int(refused.headers["Retry-After"]) > 0
    assert found == []
    assert sent.status_code == 201
    assert len(sms) == 3


def test_the_same_key_gives_the_same_answer_and_sends_once(database_url: URL) -> None:
    with sending_through(database_url, *only("delivered")) as pair:
        first = pair.service.send(to=TO, idempotency_key="a-key")
        until(lambda: pair.service.message(first.json()["messageid"])["final"])
        again = pair.service.send(to=TO, idempotency_key="a-key")
        other = pair.service.send(to=TO, idempotency_key="another-key")
        others = pair.service.send(to=TO, idempotency_key="a-key", key=ADMIN_KEY)
        ids = {event["messageid"] for event in pair.simulator.events("sent")}

    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert "Idempotent-Replayed" not in first.headers
    assert ids == {answer.json()["messageid"] for answer in (first, other, others)}
    assert len(ids) == 3


def test_a_new_key_of_the_same_name_repeats_what_the_old_one_sent(database_url: URL) -> None:
    keys = f"shop:send:{SEND_KEY},reader:read:{READ_KEY},shop:admin:{ADMIN_KEY}"
    with sending_through(database_url, *only("delivered"), api_keys=keys) as pair:
        first = pair.service.send(to=TO, idempotency_key="a-key", key=SEND_KEY)
        again = pair.service.send(to=TO, idempotency_key="a-key", key=ADMIN_KEY)
        ids = {event["messageid"] for event in pair.simulator.events("sent")}

    assert (again.status_code, again.content) == (201, first.content)
    assert ids == {first.json()["messageid"]}


@pytest.mark.parametrize(
    "changes", [{"text": "Bye"}, {"to": TO[:2]}, {"reference": "order 18"}], ids=str
)
def test_the_same_key_with_another_body_is_refused(
    shared_sending: Pair, changes: dict[str, Any]
) -> None:
    key = f"a-key-{next(iter(changes))}"
    body: Any = {"to": TO, "text": "Hello", "reference": "order 17"}
    first = shared_sending.service.send(idempotency_key=key, **body)
    before = texts(shared_sending.simulator)

    other = shared_sending.service.send(idempotency_key=key, **{**body, **changes})
    again = shared_sending.service.send(idempotency_key=key, **body)

    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert again.content == first.content
    assert texts(shared_sending.simulator) == before


def test_without_a_key_each_request_sends(shared_sending: Pair) -> None:
    ids = {shared_sending.service.send().json()["messageid"] for _ in range(3)}

    assert len(ids) == 3


def test_requests_with_one_key_at_once_send_once(database_url: URL) -> None:
    with sending_through(database_url, "--answer-delay-s", "0.3", *only("never")) as pair:
        with ThreadPoolExecutor(12) as threads:
            answers = list(
                threads.map(
                    lambda number: pair.service.send(to=TO[: 1 + number % 2], idempotency_key="it"),
                    range(12),
                )
            )
        sms = texts(pair.simulator)

    winners = [answer for answer in answers if answer.status_code == 201]
    assert len(winners) == 6
    assert len({answer.content for answer in winners}) == 1
    assert {answer.json()["code"] for answer in answers if answer.status_code != 201} == {
        "idempotency_key_reused"
    }
    assert len(sms) == len(winners[0].json()["deliveries"])


def test_a_lost_answer_is_found_by_its_reference_and_never_sent_again(database_url: URL) -> None:
    port = free_port()
    message: Any = {"to": TO[:1], "reference": "order 17", "idempotency_key": "a-key"}
    with ExitStack() as simulating:
        with running_service(database_url, **account_on(port)) as service:
            lossy = ("--lose-answers", "1", *only("never"))
            simulator = simulating.enter_context(send_api(callback_of(service), *lossy, port=port))
            answers = [service.send(**message) for _ in range(2)]
        # Restart, and on PostgreSQL ask another replica.
        with ExitStack() as replicas:
            kinds = 1 if database_url.get_backend_name() == "sqlite" else 2
            for _ in range(kinds):
                service = replicas.enter_context(running_service(database_url, **account_on(port)))
                answers.append(service.send(**message))
            (found,) = service.found_by("order 17")
            alone = service.message(found["messageid"])
        sms = texts(simulator)

    assert sms == ["Hello world"]
    for answer in answers:
        assert (answer.status_code, answer.content) == (504, answers[0].content)
        assert answer.headers["content-type"] == "application/problem+json"
    problem = answers[0].json()
    assert (problem["code"], problem["reference"]) == ("outcome_unknown", "order 17")
    assert problem["messageid"] == found["messageid"] == alone["messageid"]
    assert found["messageid"].startswith("outcome-unknown:")
    assert (found["to"], found["state"], found["final"]) == (TO[0], "pending", False)
    assert found["submitted_at"] is not None


def test_the_answer_outlives_the_process_that_gave_it(database_url: URL) -> None:
    port = free_port()
    with send_api(NOBODY, port=port) as simulator:
        contents = []
        for _ in range(2):
            with running_service(database_url, **account_on(port)) as service:
                contents.append(service.send(to=TO, idempotency_key="a-key").content)
        sms = texts(simulator)

    assert contents[0] == contents[1]
    assert len(sms) == 3


def environment(port: int) -> dict[str, str]:
    return {
        "DLR_CALLBACK_TOKENS": TOKEN,
        "DLR_API_KEYS": f"shop:send:{SEND_KEY}",
        **{f"DLR_{name.upper()}": value for name, value in account_on(port).items()},
    }


MESSAGE: Any = {
    "headers": {"Authorization": f"Bearer {SEND_KEY}", "Idempotency-Key": "a-key"},
    "json": {"to": TO[:1], "text": "Hello", "reference": "order 17"},
}
BY_REFERENCE = "/v1/deliveries?reference=order+17"


def test_a_process_that_is_killed_while_it_sends_has_sent_once(database_url: URL) -> None:
    port = free_port()
    url = database_url.render_as_string(hide_password=False)
    with send_api(NOBODY, "--answer-delay-s", "60", port=port) as simulator:
        with (
            serving(DLR_DATABASE_URL=url, **environment(port)) as killed,
            ThreadPoolExecutor() as threads,
        ):
            sending = threads.submit(killed.http.post, "/v1/messages", **MESSAGE)
            until(lambda: bool(texts(simulator)))
            killed.kill()
            assert sending.exception() is not None
        if database_url.get_backend_name() == "postgresql":
            # Another replica may still be about to answer: only time tells.
            engine = create_engine(database_url)
            with engine.begin() as connection:
                connection.execute(text("UPDATE sends SET started_at = started_at - 60000000"))
            engine.dispose()
        with serving(DLR_DATABASE_URL=url, **environment(port)) as again:
            answers = [again.http.post("/v1/messages", **MESSAGE) for _ in range(2)]
            found = again.http.get(BY_REFERENCE, headers=MESSAGE["headers"]).json()["items"]
        sms = texts(simulator)

    assert sms == ["Hello"]
    assert [answer.json()["code"] for answer in answers] == ["outcome_unknown"] * 2
    assert [delivery["messageid"] for delivery in found] == [answers[0].json()["messageid"]]


def test_sigterm_waits_for_no_answer_and_records_that_there_is_none() -> None:
    port = free_port()
    with send_api(NOBODY, "--answer-delay-s", "60", port=port) as simulator:
        with (
            serving(DLR_DRAIN_SECONDS="0", **environment(port)) as ended,
            ThreadPoolExecutor() as threads,
        ):
            sending = threads.submit(ended.http.post, "/v1/messages", **MESSAGE)
            until(lambda: bool(texts(simulator)))
            code = ended.terminate()
            answer = sending.result()
        with serving(**environment(port)) as again:
            repeated = again.http.post("/v1/messages", **MESSAGE)
        sms = texts(simulator)

    assert code == 0
    assert (answer.status_code, answer.json()["code"]) == (504, "outcome_unknown")
    assert repeated.content == answer.content
    assert sms == ["Hello"]
