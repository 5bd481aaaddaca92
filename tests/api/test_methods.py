"""HEAD as GET, and `Allow`, on every path of the OpenAPI document and beside it."""

from typing import Any

import httpx2
import pytest

from tests.feed import AUTHORIZED
from tests.flow.test_raw_sockets import connect, read_all
from tests.service import ADMIN_KEY, READ_KEY, TOKEN, Service, a_report

KEY = {"Authorization": f"Bearer {ADMIN_KEY}"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
VALUES = {"messageid": "052804b7368321", "token": TOKEN, "id": "0"}
NOT_IN_THE_DOCUMENT = {
    "/docs": {"GET", "HEAD"},
    "/openapi.json": {"GET", "HEAD"},
    "/docs/assets/swagger-ui.css": {"GET", "HEAD"},
    # Each of these could be an id, too.
    "/v1/messages/lookup": {"GET", "HEAD", "POST", "PUT"},
    "/v1/quarantine/replay": {"DELETE", "POST"},
}
STREAM = "/v1/changes/stream"


def methods_of_paths(service: Service) -> dict[str, set[str]]:
    """The methods of each path, its parameters filled in."""
    documented: dict[str, dict[str, Any]] = service.http.get("/openapi.json").json()["paths"]
    found = {}
    for path, operations in documented.items():
        methods = {method.upper() for method in operations}
        is_callback = "callback" in path
        found[path.format(**VALUES)] = methods | (
            {"HEAD"} if "GET" in methods and not is_callback else set()
        )
    return found | NOT_IN_THE_DOCUMENT


def headers_of(answer: httpx2.Response) -> dict[str, str]:
    """Its headers, but for those that differ from answer to answer."""
    varying = {"date", "x-request-id", "transfer-encoding"}  # the last is of a body
    if answer.request.url.path == "/metrics":
        varying.add("content-length")
    return {name: value for name, value in answer.headers.items() if name not in varying}


def test_head_is_answered_as_get_without_the_body(service: Service) -> None:
    service.call_back(a_report())
    paths = [path for path, methods in methods_of_paths(service).items() if "HEAD" in methods]
    assert {"/v1/messages/052804b7368321", "/v1/stats", "/metrics", "/livez"} <= {*paths}

    for path in (*paths, "/v1/messages/unknown", "/v1/messages/052804b7368321?wiat=1", "/nothing"):
        for key in (KEY, {}):
            head = service.http.head(path, headers=key)
            with service.http.stream("GET", path, headers=key) as get:
                assert head.status_code == get.status_code, path
                if not path.startswith("/docs/assets/"):  # a file's are those without compression
                    assert headers_of(head) == headers_of(get), path
            assert head.content == b""


def test_head_of_a_stream_ends_at_once_and_keeps_the_connection(service: Service) -> None:
    service.call_back(a_report())
    request = f"HEAD {STREAM} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READ_KEY}\r\n\r\n"
    with connect(service) as connection:
        last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode() * 2 + last)
        answers = read_all(connection)

    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.count(b"text/event-stream") == 2
    assert b"event: delivery" not in answers
    assert answers.endswith(b'{"status":"alive"}')
    assert service.metric("dlr_streams") == 0


def test_405_names_all_methods_of_the_path(service: Service) -> None:
    for path, methods in methods_of_paths(service).items():
        for method in {*METHODS} - methods:
            answer = service.http.request(method, path, headers=KEY)

            assert answer.status_code == 405, (method, path)
            assert answer.headers["allow"] == ", ".join(sorted(methods)), (method, path)
            if method != "HEAD":
                assert answer.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize("method", METHODS)
def test_a_path_that_is_none_is_404_by_any_method(service: Service, method: str) -> None:
    assert service.http.request(method, "/v1/nothing", headers=AUTHORIZED).status_code == 404
