"""Waiting for a message: answered when it is final, whichever replica took the report."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import URL

from app.query import waiting
from tests.conftest import migrated_database
from tests.feed import changes, stream
from tests.flow.test_raw_sockets import connect
from tests.process import until
from tests.service import (
    ADMIN_KEY,
    READ_KEY,
    SAMPLE,
    SEND_KEY,
    Service,
    a_report,
    running_service,
)

ID = SAMPLE["messageid"]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def wait_for(service: Service, message_id: str = ID, seconds: float = 30) -> tuple[Any, float]:
    """The answer, and the time when it came."""
    answer = service.get(f"/v1/messages/{message_id}?wait={seconds}")
    return answer, time.monotonic()


def start_waiting(
    threads: ThreadPoolExecutor, service: Service, message_id: str = ID, seconds: float = 30
) -> "Future[tuple[Any, float]]":
    """Ask, and make sure that the request waits."""
    before = service.metric("dlr_waiting")
    waiting = threads.submit(wait_for, service, message_id, seconds)
    until(lambda: service.metric("dlr_waiting") == before + 1)
    return waiting


def test_final_message_is_answered_at_once(service: Service) -> None:
    service.call_back(a_report())

    answer, _ = wait_for(service)

    assert answer.json()["final"]
    assert answer.elapsed.total_seconds() < 1


def test_unknown_message_is_answered_when_it_becomes_known_and_final(
    service: Service, threads: ThreadPoolExecutor
) -> None:
    waiting = start_waiting(threads, service)
    service.call_back(a_report())
    committed_at = time.monotonic()
    answer, answered_at = waiting.result(10)

    assert answer.status_code == 200
    assert answer.json() == service.message(ID)
    assert answered_at - committed_at < 0.5


def test_known_message_is_answered_when_it_becomes_final_not_before(
    service: Service, threads: ThreadPoolExecutor
) -> None:
    service.call_back(a_report(statuscode="accepted"))
    waiting = start_waiting(threads, service)
    service.call_back(a_report(status=777))
    service.call_back(a_report(messageid="another"))
    assert service.metric("dlr_waiting") == 1
    service.call_back(a_report(status=404, statuscode="failed"))
    answer, _ = waiting.result(10)

    assert answer.json()["state"] == "undelivered"


def test_message_is_final_when_all_its_deliveries_are(
    service: Service, threads: ThreadPoolExecutor
) -> None:
    service.call_back(a_report(to="6588888881", statuscode="accepted"))
    waiting = start_waiting(threads, service)
    service.call_back(a_report(to="6588888882"))
    assert service.metric("dlr_waiting") == 1
    service.call_back(a_report(to="6588888881"))
    answer, _ = waiting.result(10)

    assert len(answer.json()["deliveries"]) == 2
    assert answer.json()["final"]


def test_wait_ends_with_what_is_known(service: Service) -> None:
    service.call_back(a_report(statuscode="accepted"))

    answer, _ = wait_for(service, seconds=0.3)

    assert answer.json()["state"] == "accepted"
    assert 0.3 <= answer.elapsed.total_seconds() < 2


def test_wait_for_what_stays_unknown_ends_with_404(service: Service) -> None:
    answer, _ = wait_for(service, seconds=0.3)

    assert (answer.status_code, answer.json()["code"]) == (404, "message_not_found")
    assert answer.elapsed.total_seconds() >= 0.3


def test_no_wait_is_no_wait(service: Service) -> None:
    answer, _ = wait_for(service, seconds=0)

    assert answer.status_code == 404
    assert answer.elapsed.total_seconds() < 1


def test_wait_of_more_than_a_minute_or_of_nonsense_is_422(service: Service) -> None:
    for seconds in ("61", "60.01", "-1", "x", "nan", "inf", ""):
        answer = service.get(f"/v1/messages/{ID}?wait={seconds}")

        assert answer.status_code == 422, seconds
        assert "wait" in answer.json()["detail"]


def test_all_who_wait_for_one_message_are_answered(
    service: Service, threads: ThreadPoolExecutor
) -> None:
    waiting = [start_waiting(threads, service) for _ in range(3)]
    other = start_waiting(threads, service, "another")
    service.call_back(a_report())

    assert [one.result(10)[0].status_code for one in waiting] == [200] * 3
    assert service.metric("dlr_waiting") == 1
    service.call_back(a_report(messageid="another"))
    assert other.result(10)[0].status_code == 200


def test_client_that_leaves_waits_no_more(service: Service, threads: ThreadPoolExecutor) -> None:
    for path in (f"/v1/messages/{ID}?wait=60", "/v1/changes?wait=60"):
        with pytest.raises(httpx2.ReadTimeout):
            service.get(path, timeout=0.3)

        until(lambda: service.metric("dlr_waiting") == 0)


def test_report_to_another_replica_is_answered_within_a_second(
    postgres_url: URL, threads: ThreadPoolExecutor, tmp_path: Any
) -> None:
    with (
        running_service(postgres_url, data_dir=tmp_path / "a") as here,
        running_service(postgres_url, data_dir=tmp_path / "b") as there,
    ):
        delays = []
        for number in range(5):
            message_id = f"m-{number}"
            for_message = start_waiting(threads, here, message_id)
            cursor = changes(here.http, cursor="now")["next_cursor"]
            for_change = threads.submit(changes, here.http, cursor=cursor, wait=30)
            until(lambda: here.metric("dlr_waiting") == 2)
            there.call_back(a_report(messageid=message_id))
            committed_at = time.monotonic()
            answer, answered_at = for_message.result(10)
            assert answer.json()["final"]
            assert [one["messageid"] for one in for_change.result(10)["items"]] == [message_id]
            delays += [answered_at - committed_at, time.monotonic() - committed_at]

    assert max(delays) < 1, delays


def test_one_key_waits_on_half_of_all_places_and_leaves_the_others_theirs(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert waiting.MAX_WAITING == 10_000
    monkeypatch.setattr(waiting, "MAX_WAITING", 100)  # as many as that would take a minute
    wait = f"GET /v1/messages/{ID}?wait=60 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READ_KEY}"
    with (
        migrated_database("sqlite", tmp_path, request) as url,
        running_service(url) as service,
        ExitStack() as stack,
    ):
        for _ in range(50):
            stack.enter_context(connect(service)).sendall(f"{wait}\r\n\r\n".encode())
        until(lambda: service.metric("dlr_waiting") == 50)
        refused, _ = wait_for(service)
        with stream(service.http, key=READ_KEY) as lines:  # has places of its own
            assert next(lines).startswith(":")
        others = service.get(f"/v1/messages/{ID}?wait=0.1", key=SEND_KEY)

        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_waiting")
        assert int(refused.headers["retry-after"]) > 0
        assert others.status_code == 404
        assert service.call_back(a_report()).status_code == 200
        until(lambda: service.metric("dlr_waiting") == 0)
        assert wait_for(service)[0].status_code == 200


def test_two_keys_of_one_name_share_their_places(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING", 4)
    wait = f"GET /v1/messages/{ID}?wait=60 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer"
    keys = f"shop:read:{READ_KEY},shop:send:{SEND_KEY},boss:admin:{ADMIN_KEY}"
    with (
        migrated_database("sqlite", tmp_path, request) as url,
        running_service(url, api_keys=keys) as service,
        ExitStack() as stack,
    ):
        for key in (READ_KEY, SEND_KEY):
            stack.enter_context(connect(service)).sendall(f"{wait} {key}\r\n\r\n".encode())
        until(lambda: service.metric("dlr_waiting") == 2)
        statuses = [
            service.get(f"/v1/messages/{ID}?wait=0.1", key=key).status_code
            for key in (READ_KEY, SEND_KEY, ADMIN_KEY)
        ]

    assert statuses == [503, 503, 404]
