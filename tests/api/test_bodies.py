"""Request bodies: read only from known callers, and never past 1 MiB."""

import json
import logging
import socket
import struct
from typing import Any

import pytest
from sqlalchemy import URL

from tests.flow.test_raw_sockets import connect, read_all, status_of
from tests.process import until
from tests.service import ADMIN_KEY, READ_KEY, TOKEN, Service, a_report, running_service

LIMIT = 1024 * 1024
# Far more than kernels buffer of a body that nobody reads.
BUFFERS = 64 * LIMIT
CHUNK = b"10000\r\n%b\r\n" % (b" " * 0x10000)


def head_of(key: str | None, *lines: str, path: str = "/v1/messages/lookup") -> bytes:
    authorization = [] if key is None else [f"Authorization: Bearer {key}"]
    request = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json"]
    return "\r\n".join([*request, *authorization, *lines, "", ""]).encode()


def problem_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    return status_of(head), json.loads(body)["code"]


def send_without_end(connection: socket.socket) -> int:
    """Send chunks until the service has had enough; how many bytes it came to."""
    sent = 0
    connection.settimeout(10)
    try:
        while sent <= BUFFERS:
            connection.sendall(CHUNK)
            sent += len(CHUNK)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sent


@pytest.mark.parametrize("lines", [("Content-Length: 200000000",), ("Transfer-Encoding: chunked",)])
@pytest.mark.parametrize("key", [None, "wrong"])
def test_of_a_body_without_a_known_key_nothing_is_read(
    service: Service, key: str | None, lines: tuple[str, ...]
) -> None:
    expects = (*lines, "Expect: 100-continue")
    for head in (head_of(key, *lines), head_of(key, *expects)):
        with connect(service) as connection:
            connection.sendall(head)
            answer = read_all(connection)

        assert problem_of(answer) == (401, "unauthorized")


def test_the_key_is_looked_at_before_the_body(service: Service) -> None:
    document = service.http.get("/openapi.json").json()
    called = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "requestBody" not in operation:
                continue
            called.add(path)
            for key, status in ((None, 401), ("wrong", 401)):
                headers = {"Content-Type": "application/json"}
                if key is not None:
                    headers["Authorization"] = f"Bearer {key}"
                url = path.format(messageid="m", id="0")
                answer = service.http.request(method, url, content=b"{", headers=headers)
                assert answer.status_code == status, (method, path)

    assert {"/v1/messages", "/v1/messages/lookup", "/v1/quarantine/replay"} <= called


def test_the_role_is_looked_at_before_the_body(service: Service) -> None:
    for path in ("/v1/messages", "/v1/quarantine/replay"):
        headers = {"Authorization": f"Bearer {READ_KEY}", "Content-Type": "application/json"}
        answer = service.http.post(path, content=b"{", headers=headers)

        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_body_whose_length_is_too_large_is_refused_unread(service: Service) -> None:
    for path in ("/v1/messages/lookup", "/v1/messages", "/v1/quarantine/replay"):
        with connect(service) as connection:
            connection.sendall(head_of(ADMIN_KEY, f"Content-Length: {LIMIT + 1}", path=path))
            answer = read_all(connection)

        assert problem_of(answer) == (413, "body_too_large"), path


def test_a_body_that_never_ends_is_refused(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(head_of(READ_KEY, "Transfer-Encoding: chunked"))
        sent = send_without_end(connection)

    assert LIMIT < sent < BUFFERS


def test_a_client_that_stops_past_the_limit_reads_why(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(head_of(READ_KEY, "Transfer-Encoding: chunked"))
        connection.sendall(CHUNK * 17)
        answer = read_all(connection)

    assert problem_of(answer) == (413, "body_too_large")


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
@pytest.mark.parametrize("in_chunks", [False, True])
def test_the_limit_is_a_mebibyte_to_the_byte(
    service: Service, size: int, status: int, in_chunks: bool
) -> None:
    body = json.dumps({"messageids": ["m"]}).encode().ljust(size)
    content: Any = (body[start : start + 50_000] for start in range(0, size, 50_000))
    headers = {"Authorization": f"Bearer {READ_KEY}", "Content-Type": "application/json"}

    answer = service.http.post(
        "/v1/messages/lookup", content=content if in_chunks else body, headers=headers
    )

    assert answer.status_code == status


@pytest.mark.parametrize("shortcuts", ["on", "off"])
def test_a_body_that_nobody_asked_for_has_the_same_limit_in_chunks(
    database_url: URL, shortcuts: str
) -> None:
    with running_service(database_url, shortcuts=shortcuts) as service:
        for path in ("/v1/messages/m", "/v1/messages/m/reports", f"/callback/paasoo/{TOKEN}"):
            query = a_report() if "callback" in path else ""
            head = head_of(READ_KEY, "Transfer-Encoding: chunked", path=f"{path}?{query}")
            with connect(service) as connection:
                connection.sendall(head.replace(b"POST", b"GET") + CHUNK * 17)
                answer = read_all(connection)

            assert problem_of(answer) == (413, "body_too_large"), path
        assert service.get("/v1/messages/052804b7368321").status_code == 404


def test_a_client_that_leaves_while_it_sends_a_body_is_no_fault_of_ours(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")
    with connect(service) as connection:
        connection.sendall(head_of(READ_KEY, "Content-Length: 100", "Expect: 100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # it waits for the body
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: "/v1/messages/lookup" in [vars(it).get("route") for it in caplog.records])

    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
