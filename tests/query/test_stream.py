"""The change feed as server-sent events: its events, how it resumes, and when it ends."""

import itertools
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import URL

from tests.conftest import migrated_database
from tests.feed import AUTHORIZED, changes, events, record, stream, wait_until_settled
from tests.flow.test_raw_sockets import connect
from tests.process import until
from tests.service import ADMIN_KEY, READ_KEY, SAMPLE, SEND_KEY, Service, a_report, running_service

ID = SAMPLE["messageid"]


def take(lines: Any, count: int) -> list[Any]:
    return list(itertools.islice(events(lines), count))


def test_event_is_the_delivery_with_its_cursor(service: Service) -> None:
    service.call_back(a_report())

    with stream(service.http) as lines:
        (event,) = take(lines, 1)

    assert event.kind == "delivery"
    assert event.delivery == service.delivery()
    wait_until_settled(service.database_url)
    assert event.id == changes(service.http)["next_cursor"]


def test_stream_is_marked_as_one_that_no_proxy_may_keep_or_hold_back(service: Service) -> None:
    with service.http.stream("GET", "/v1/changes/stream", headers=AUTHORIZED) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"


def test_stream_has_what_was_there_and_then_what_comes(service: Service) -> None:
    record(service.database_url, [f"m-{number:03}" for number in range(250)])

    with stream(service.http) as lines:
        there = take(lines, 250)
        service.call_back(a_report(messageid="later"))
        (later,) = take(lines, 1)

    assert [event.delivery["messageid"] for event in there] == [f"m-{n:03}" for n in range(250)]
    assert later.delivery["messageid"] == "later"


def test_now_streams_only_what_comes(service: Service) -> None:
    service.call_back(a_report(messageid="before"))

    with stream(service.http, cursor="now") as lines:
        service.call_back(a_report(messageid="after"))
        (event,) = take(lines, 1)

    assert event.delivery["messageid"] == "after"


def test_last_event_id_resumes_and_overrides_the_cursor(service: Service) -> None:
    for message_id in ("a", "b", "c"):
        service.call_back(a_report(messageid=message_id))
    with stream(service.http) as lines:
        first, second, _ = take(lines, 3)

    with stream(service.http, last_event_id=first.id, cursor=second.id) as lines:
        resumed = take(lines, 2)
    with stream(service.http, cursor=second.id) as lines:
        (from_cursor,) = take(lines, 1)

    assert [event.delivery["messageid"] for event in resumed] == ["b", "c"]
    assert from_cursor.delivery["messageid"] == "c"


def test_last_event_id_that_is_no_cursor_is_422(service: Service) -> None:
    for last_event_id in ("x", "WzEsMl0=", "é"):
        headers = httpx2.Headers({**AUTHORIZED, "Last-Event-ID": last_event_id}, "latin-1")
        answer = service.http.get("/v1/changes/stream", headers=headers)

        assert answer.status_code == 422
        assert "Last-Event-ID" in answer.json()["detail"]


def test_every_stream_gets_every_change(service: Service) -> None:
    with (
        stream(service.http, cursor="now") as one,
        stream(service.http, cursor="now") as another,
    ):
        for number in range(20):
            service.call_back(a_report(messageid=f"m-{number}"))
        seen = [[event.delivery["messageid"] for event in take(it, 20)] for it in (one, another)]

    assert seen == [[f"m-{number}" for number in range(20)]] * 2


def test_client_that_leaves_ends_its_stream(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with stream(service.http):
        assert service.metric("dlr_streams") == 1

    until(lambda: service.metric("dlr_streams") == 0)
    until(lambda: service.metric("dlr_waiting") == 0)
    until(lambda: not service.server.server_state.tasks)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_silence_is_broken_by_a_comment(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with (
        migrated_database("sqlite", tmp_path, request) as url,
        running_service(url) as service,
        stream(service.http) as lines,
    ):
        assert next(lines).startswith(":")
        assert next(lines).startswith(":")


def open_streams(service: Service, stack: ExitStack, key: str, count: int) -> list[socket.socket]:
    request = "GET /v1/changes/stream?cursor=now HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
    clients = [stack.enter_context(connect(service)) for _ in range(count)]
    for client in clients:
        client.sendall(f"{request}{key}\r\n\r\n".encode())
    return clients


def assert_refused(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "too_many_waiting")
    assert int(answer.headers["retry-after"]) > 0


def test_one_key_opens_half_of_all_streams_and_leaves_the_others_theirs(
    database_url: URL,
) -> None:
    with running_service(database_url) as service, ExitStack() as stack:
        mine = open_streams(service, stack, READ_KEY, 100)
        until(lambda: service.metric("dlr_streams") == 100)
        assert_refused(service.get("/v1/changes/stream", READ_KEY))

        with stream(service.http, key=SEND_KEY):
            until(lambda: service.metric("dlr_streams") == 101)
        mine[0].close()
        until(lambda: service.metric("dlr_streams") == 99)
        with stream(service.http, key=READ_KEY):
            until(lambda: service.metric("dlr_streams") == 100)


def test_more_streams_than_may_be_are_refused(database_url: URL) -> None:
    with running_service(database_url) as service:
        with ExitStack() as stack:
            for key in (READ_KEY, SEND_KEY):
                open_streams(service, stack, key, 100)
            until(lambda: service.metric("dlr_streams") == 200, 30)
            assert_refused(service.get("/v1/changes/stream", ADMIN_KEY))

        until(lambda: service.metric("dlr_streams") == 0)
