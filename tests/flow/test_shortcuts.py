"""Requests that are answered beside the router: the router answers and logs them the same."""

import gzip
import json
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.conftest import DATABASES, migrated_database
from tests.flow.test_raw_sockets import HOST, ask, filled, send
from tests.service import READ_KEY, TOKEN, Service, a_report, running_service

REPORT = a_report(messageid="known").encode()
LARGE = [a_report(messageid="large", to=f"65888888{number:02}").encode() for number in range(50)]
KEY = b"Authorization: Bearer %b\r\n" % READ_KEY.encode()
OWN_ID = b"X-Request-Id: an-id.of_the-caller\r\n"
WRONG = b"/callback/paasoo/wrong"


def look_up(
    path: bytes, head: bytes = KEY, *, method: bytes = b"GET", version: bytes = b"HTTP/1.1"
) -> bytes:
    return b"%b /v1/messages/%b %b\r\n%b%b" % (method, path, version, head, HOST)


CALLBACKS = {
    "report": ask(REPORT),
    "the same again": ask(REPORT),
    "HTTP/1.0": ask(REPORT, version=b"HTTP/1.0", head=b"\r\n"),
    "body": ask(REPORT, head=b"Content-Length: 5\r\n" + HOST) + b"hello",
    "body in chunks": ask(REPORT, head=b"Transfer-Encoding: chunked\r\n" + HOST) + b"0\r\n\r\n",
    "an offer to upgrade": ask(
        REPORT, head=b"Upgrade: h2c\r\nConnection: upgrade, close\r\nHost: x\r\n\r\n"
    ),
    "missing": ask(b"type=dlr"),
    "other type": ask(REPORT.replace(b"dlr", b"mo")),
    "not a number": ask(REPORT.replace(b"status=0", b"status=x")),
    "twice": ask(REPORT + b"&to=65999"),
    "not UTF-8": ask(REPORT.replace(b"known", b"%ff")),
    "too long": ask(filled(REPORT, 9000)),
    "wrong token": ask(REPORT, path=WRONG),
    "wrong token with an id": ask(REPORT, path=WRONG, head=OWN_ID + HOST),
    "no token": ask(REPORT, path=b"/callback/paasoo"),
    "slash behind the token": ask(REPORT, path=b"/callback/paasoo/%b/" % TOKEN.encode()),
    "blank behind the token": ask(REPORT, path=b"/callback/paasoo/%b%%20" % TOKEN.encode()),
    "more behind the token": ask(REPORT, path=b"/callback/paasoo/%b/x" % TOKEN.encode()),
    "another path": ask(REPORT, path=b"/callback/paasoox"),
    **{
        method.decode(): ask(REPORT, method=method)
        for method in (b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PROPFIND", b"CONNECT")
    },
    "HEAD with a wrong token": ask(REPORT, method=b"HEAD", path=WRONG),
}
LOOKUPS = {
    "known": look_up(b"known"),
    "unknown": look_up(b"unknown"),
    "an id of the caller": look_up(b"known", KEY + OWN_ID),
    "two ids of the caller": look_up(b"known", KEY + OWN_ID + OWN_ID),
    "an id that can't be logged": look_up(b"known", KEY + b"X-Request-Id: a b\r\n"),
    "no key": look_up(b"known", b""),
    "wrong key": look_up(b"known", b"Authorization: Bearer wrong\r\n"),
    "two keys": look_up(b"known", KEY + KEY),
    "unknown parameter": look_up(b"known?x=1"),
    "escaped": look_up(b"kn%6fwn"),
    "wait": look_up(b"known?wait=1"),
    "HTTP/1.0": look_up(b"known", version=b"HTTP/1.0"),
    "POST": look_up(b"known", method=b"POST"),
    "body": look_up(b"known", KEY + b"Content-Length: 5\r\n") + b"hello",
    "body that is too long": look_up(b"known", KEY + b"Content-Length: 1100000\r\n"),
    "large": look_up(b"large"),
    "large, compressed": look_up(b"large", KEY + b"Accept-Encoding: br, gzip\r\n"),
    "small, not compressed": look_up(b"known", KEY + b"Accept-Encoding: gzip\r\n"),
}


class Lines(logging.Handler):
    """The log lines, without what differs from one request to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Periodic work goes on beside the requests.
        if not record.name.startswith("app.") or record.name.startswith("app.ops."):
            return
        known = logging.makeLogRecord({}).__dict__
        extras = {name: value for name, value in record.__dict__.items() if name not in known}
        extras.pop("milliseconds", None)
        if "request_id" in extras:
            extras["request_id"] = without_made_up_ids(extras["request_id"].encode())
        self.lines.append({"level": record.levelname, "message": record.getMessage(), **extras})


def without_made_up_ids(content: bytes) -> bytes:
    return re.sub(rb"\b[0-9a-f]{32}\b", b"ID", content)


def normal(answer: bytes) -> tuple[list[bytes], Any]:
    """The header lines but the date, and the body, as JSON where it is some."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [without_made_up_ids(line) for line in head.split(b"\r\n")]
    if b"content-encoding: gzip" in lines:
        # Two libraries need not compress to the same byte.
        body = gzip.decompress(body)
        lines = [line for line in lines if not line.startswith(b"content-length: ")]
    kept = [line for line in lines if not line.startswith(b"date: ")]
    assert len(kept) == len(lines) - 1
    if body.startswith(b"{"):
        return kept, without_times(json.loads(body))
    return kept, body


def without_times(found: Any) -> Any:
    if isinstance(found, dict):
        return {
            name: without_times(value)
            for name, value in found.items()
            if not name.endswith("received_at")
        }
    return list(map(without_times, found)) if isinstance(found, list | tuple) else found


@pytest.fixture(params=DATABASES)
def both_ways(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Service]]:
    """The service with shortcuts and without, each with a database of its own."""
    with ExitStack() as stack:
        services = []
        for way in ("on", "off"):
            (folder := tmp_path / way).mkdir()
            url = stack.enter_context(migrated_database(request.param, folder, request))
            service = running_service(url, shortcuts=way, data_dir=folder)
            services.append(stack.enter_context(service))
        yield services


def answered(service: Service, requests: dict[str, bytes]) -> dict[str, Any]:
    """The answer and the log lines of each request."""
    found = {}
    for label, request in requests.items():
        handler = Lines()
        logging.getLogger().addHandler(handler)
        try:
            answer = send(service, request)
        finally:
            logging.getLogger().removeHandler(handler)
        found[label] = (*normal(answer), handler.lines)
    return found


def assert_same(short: dict[str, Any], routed: dict[str, Any]) -> None:
    differing = {
        label: (short[label], routed[label]) for label in short if short[label] != routed[label]
    }
    assert differing == {}


@pytest.fixture(autouse=True)
def _all_lines() -> Iterator[None]:
    logger = logging.getLogger("app")
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(logging.NOTSET)


def test_callbacks_are_answered_logged_and_kept_the_same(both_ways: list[Service]) -> None:
    short, routed = (answered(service, CALLBACKS) for service in both_ways)

    assert_same(short, routed)
    kept = [
        (service.message("known"), service.reports("known"), service.quarantine())
        for service in both_ways
    ]
    assert without_times(kept[0][:2]) == without_times(kept[1][:2])
    assert [row["query"] for row in kept[0][2]] == [row["query"] for row in kept[1][2]]
    assert len(kept[0][2]) == 5


def test_lookups_are_answered_and_logged_the_same(both_ways: list[Service]) -> None:
    for service in both_ways:
        for report in (REPORT, *LARGE):
            service.call_back(report.decode())

    short, routed = (answered(service, LOOKUPS) for service in both_ways)

    assert_same(short, routed)
    assert all(lines for _, _, lines in short.values())  # each is logged
    assert b"content-encoding: gzip" in short["large, compressed"][0]
    assert b"content-encoding: gzip" not in short["small, not compressed"][0]
    assert b"x-request-id: an-id.of_the-caller" in short["an id of the caller"][0]


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        ("ALTER TABLE deliveries RENAME TO elsewhere", b"503 Service Unavailable"),
        ("UPDATE deliveries SET last_received_at = 9e18", b"500 Internal Server Error"),
    ],
)
def test_faults_are_answered_and_logged_the_same(
    both_ways: list[Service], damage: str, status: bytes
) -> None:
    for service in both_ways:
        service.call_back(REPORT.decode())
        engine = create_engine(service.database_url)
        with engine.begin() as connection:
            connection.execute(text(damage))
        engine.dispose()

    short, routed = (answered(service, {"": look_up(b"known")})[""] for service in both_ways)

    assert short == routed
    assert short[0][0] == b"HTTP/1.1 " + status
    assert b"content-type: application/problem+json" in short[0]
    assert {line["level"] for line in short[2]} == {"ERROR", "INFO"}


def test_an_unknown_path_is_answered_as_a_wrong_token_is(service: Service) -> None:
    for head in (HOST, OWN_ID + HOST):
        for method in (b"GET", b"HEAD", b"POST"):
            unknown = send(service, ask(REPORT, method=method, path=b"/nothing/here", head=head))
            wrong = send(service, ask(REPORT, method=method, path=WRONG, head=head))
            assert normal(unknown) == normal(wrong)
