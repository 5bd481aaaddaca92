"""Large answers are compressed for whoever accepts it; streams and callbacks never are."""

from typing import Any

import httpx2
import pytest

from tests.feed import record
from tests.service import ADMIN_KEY, Service, a_report

GZIP = {"Accept-Encoding": "gzip"}
KEY = {"Authorization": f"Bearer {ADMIN_KEY}"}


def get(service: Service, path: str, **headers: str) -> httpx2.Response:
    return service.http.get(path, headers={"Accept-Encoding": "identity", **KEY, **headers})


def look_up(service: Service, **headers: str) -> httpx2.Response:
    body: Any = {"messageids": [f"m-{number}" for number in range(1000)]}
    return service.http.post("/v1/messages/lookup", json=body, headers={**KEY, **headers})


def length_of(answer: httpx2.Response) -> int:
    return int(answer.headers["content-length"])


# The last takes a thread to compress.
@pytest.mark.parametrize("limit", [5, 50, 1000])
def test_large_answers_are_compressed_for_whoever_accepts_gzip(
    service: Service, limit: int
) -> None:
    record(service.database_url, [f"m-{number}" for number in range(1000)])

    path = f"/v1/deliveries?limit={limit}"
    plain, small = get(service, path), get(service, path, **GZIP)

    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert plain.headers["vary"] == small.headers["vary"] == "Accept-Encoding"
    assert length_of(plain) == len(plain.content)
    assert length_of(small) < length_of(plain) / 3
    assert small.json() == plain.json()
    assert len(plain.json()["items"]) == limit


ACCEPTED = ("gzip", "GZIP", "br, gzip;q=0.5", "*", "identity;q=0.1, gzip ; q=1")
REFUSED = ("gzip;q=0", "gzip; q=0.000", "*, gzip;q=0", "identity;q=1, *;q=0", "ngzip", "br", "")


@pytest.mark.parametrize("path", ["/v1/messages/large", "/v1/messages/large?wait=0"])
def test_a_client_says_what_it_accepts(service: Service, path: str) -> None:
    service.register("large", to=[f"65888888{number:02}" for number in range(50)])

    for accepted in (*ACCEPTED, *REFUSED):
        answer = get(service, path, **{"Accept-Encoding": accepted})

        assert answer.json()["messageid"] == "large"
        assert answer.headers["vary"] == "Accept-Encoding"
        assert ("content-encoding" in answer.headers) == (accepted in ACCEPTED), accepted


def test_documents_and_lookups_are_compressed_too(service: Service) -> None:
    for path in ("/openapi.json", "/metrics", "/docs/assets/swagger-ui.css"):
        assert get(service, path, **GZIP).headers["content-encoding"] == "gzip", path
    assert look_up(service, **GZIP).headers["content-encoding"] == "gzip"


def test_small_answers_are_not_compressed(service: Service) -> None:
    service.call_back(a_report())
    for path in ("/livez", "/v1/messages/052804b7368321", "/v1/messages/unknown", "/nothing"):
        assert "content-encoding" not in get(service, path, **GZIP).headers, path


def test_a_stream_is_not_compressed(service: Service) -> None:
    record(service.database_url, [f"m-{number}" for number in range(100)])

    with service.http.stream("GET", "/v1/changes/stream", headers={**KEY, **GZIP}) as answer:
        assert "content-encoding" not in answer.headers
        assert next(answer.iter_lines()) == "event: delivery"


def test_the_callback_is_not_compressed(service: Service) -> None:
    for query in (a_report(), "", "type=dlr&" + "x" * 4000, a_report(to="x" * 4000)):
        answer = service.call_back(query, headers=GZIP)

        assert "content-encoding" not in answer.headers
        assert "vary" not in answer.headers
