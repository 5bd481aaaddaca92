"""Access: keys and roles, the callback's token, the networks that may call back."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httpx2
import pytest
from sqlalchemy import URL

from tests.service import ADMIN_KEY, READ_KEY, TOKEN, Service, a_report, running_service

MESSAGE = "/v1/messages/052804b7368321"
HASHED_KEY = "a key: with a colon, and kept = as its digest"
KEYS = (
    f"reader:read:{READ_KEY},sender:send:a-key-that-sends,boss:admin:{ADMIN_KEY},"
    f"hashed:read:sha256={sha256(HASHED_KEY.encode()).hexdigest()},"
    f"umlaut:read:schlüssel"
)
CALLBACK = f"/callback/paasoo/{TOKEN}"


@pytest.fixture
def keyed_service(database_url: URL) -> Iterator[Service]:
    with running_service(database_url, api_keys=KEYS) as running:
        running.call_back(a_report())
        yield running


def statuses(service: Service, key: str | None) -> tuple[int, int, int]:
    """The status that a key gets from the lookup, the metrics and the quarantine."""
    lookup, metrics, quarantine = (
        service.get(path, key=key).status_code for path in (MESSAGE, "/metrics", "/v1/quarantine")
    )
    return lookup, metrics, quarantine


def assert_problem(answer: httpx2.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem.keys() >= {"type", "title", "status", "detail", "code"}
    assert (problem["status"], problem["code"]) == (status, code)


def assert_nothing_is_stored(service: Service) -> None:
    assert service.get(MESSAGE).status_code == 404
    assert service.quarantine() == []


def test_each_role_contains_the_ones_before(keyed_service: Service) -> None:
    assert statuses(keyed_service, None) == (401, 401, 401)
    assert statuses(keyed_service, READ_KEY) == (200, 200, 403)
    assert statuses(keyed_service, HASHED_KEY) == (200, 200, 403)
    assert statuses(keyed_service, "a-key-that-sends") == (200, 200, 403)
    assert statuses(keyed_service, ADMIN_KEY) == (200, 200, 200)
    assert_problem(keyed_service.get("/v1/quarantine"), 403, "forbidden")


def test_each_key_of_one_name_has_its_own_role(database_url: URL) -> None:
    keys = f"shop:read:{READ_KEY},shop:admin:{ADMIN_KEY}"
    with running_service(database_url, api_keys=keys) as service:
        service.call_back(a_report())

        assert statuses(service, READ_KEY) == (200, 200, 403)
        assert statuses(service, ADMIN_KEY) == (200, 200, 200)


def test_missing_wrong_and_malformed_keys_are_401(keyed_service: Service) -> None:
    digest = sha256(HASHED_KEY.encode()).hexdigest()
    for given in (
        *("", "Bearer", READ_KEY, f"Basic {READ_KEY}", f"Bearer{READ_KEY}"),
        *("Bearer wrong", f"Bearer {READ_KEY}x", f"Bearer {READ_KEY[:-1]}", "Bearer reader"),
        *(f"Bearer {READ_KEY},{ADMIN_KEY}", f"Bearer {READ_KEY.upper()}", f"Bearer {TOKEN}"),
        *(f"Bearer {digest}", f"Bearer sha256={digest}", "Bearer \xff\xfe", "Bearer " + "a" * 9999),
    ):
        headers = {b"Authorization": given.encode("latin-1")}
        for path in (MESSAGE, f"{MESSAGE}/reports", "/v1/quarantine", "/metrics"):
            answer = keyed_service.http.get(path, headers=headers)
            assert_problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer"), given


def test_a_key_is_asked_for_before_anything_is_told(keyed_service: Service) -> None:
    for path in (f"{MESSAGE}?wiat=1", "/v1/messages/%20", "/v1/messages/unknown"):
        assert keyed_service.get(path, key=None).status_code == 401, path


def test_scheme_has_no_case_and_keys_may_be_of_any_letters(keyed_service: Service) -> None:
    for given in (f"bearer {READ_KEY}", f"BEARER {READ_KEY}", "Bearer schlüssel"):
        answer = keyed_service.http.get(MESSAGE, headers={b"Authorization": given.encode()})
        assert answer.status_code == 200, given


def test_key_in_the_query_opens_nothing(keyed_service: Service) -> None:
    for name in ("key", "api_key", "access_token", "Authorization"):
        answer = keyed_service.get(f"{MESSAGE}?{name}={READ_KEY}", key=None)
        assert answer.status_code == 401, name


def test_metrics_are_open_where_the_settings_say_so(database_url: URL) -> None:
    with running_service(database_url, metrics_public=True) as service:
        for key in (None, "wrong", READ_KEY):
            answer = service.get("/metrics", key=key)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain")
            assert "\ndlr_quarantine_dropped_total 0.0\n" in answer.text
        assert service.get(MESSAGE, key=None).status_code == 401


def test_wrong_token_is_answered_as_any_unknown_path(database_url: URL) -> None:
    def seen(answer: httpx2.Response) -> Any:
        fields = [
            (name, value if name not in {"date", "x-request-id"} else "")
            for name, value in answer.headers.multi_items()
        ]
        return answer.status_code, answer.reason_phrase, fields, answer.content

    strange = [
        *("wrong", "", TOKEN[:-1], f"{TOKEN}x", f"/{TOKEN}/", f"{TOKEN}/x", f"/{TOKEN}"),
        *(TOKEN.upper(), f"{TOKEN}%00", f"%20{TOKEN}", "%ff", f"other,{TOKEN}", "reader"),
    ]
    paths = [
        *(f"/callback/paasoo/{token}" for token in strange),
        *("/callback/paasoo", "/callback", f"/callback/{TOKEN}", f"/callback/paasoo{TOKEN}"),
    ]
    # The network is not allowed either, and the answer doesn't tell.
    with running_service(database_url, callback_allowed_networks="192.0.2.0/24") as service:
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            for query in (a_report(), "", "x" * 9000):
                unknown = seen(service.http.request(method, f"/no/such/path?{query}"))
                assert unknown[0] == 404, (method, len(query))
                for path in paths:
                    answer = service.http.request(method, f"{path}?{query}")
                    assert seen(answer) == unknown, (method, path, len(query))
        assert_nothing_is_stored(service)


def test_several_tokens_are_known_at_once(database_url: URL) -> None:
    with running_service(database_url, callback_tokens=f"old.one, {TOKEN},new_one~") as service:
        for number, token in enumerate(("old.one", TOKEN, "new_one~")):
            answer = service.http.get(f"/callback/paasoo/{token}?{a_report(status=number)}")
            assert (answer.status_code, answer.text) == (200, "OK"), token
        assert service.http.get(f"/callback/paasoo?{a_report()}").status_code == 404
        assert len(service.reports()) == 3


def test_without_a_token_the_path_is_bare_and_networks_guard_it(database_url: URL) -> None:
    changes = {"callback_tokens": (), "callback_allowed_networks": "127.0.0.0/8"}
    with running_service(database_url, **changes) as service:
        for path in (CALLBACK, "/callback/paasoo/x", "/callback/paasoox"):
            assert service.http.get(f"{path}?{a_report()}").status_code == 404, path
        assert_nothing_is_stored(service)

        for end in ("", "/", "%20", "/%0D%0A"):
            answer = service.http.get(f"/callback/paasoo{end}?{a_report()}")

            assert (answer.status_code, answer.text) == (200, "OK"), end
        assert service.delivery()["state"] == "delivered"
        assert "/callback/paasoo" in service.http.get("/openapi.json").json()["paths"]


def test_other_methods_are_405_and_store_nothing(service: Service) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"):
        answer = service.http.request(method, f"{CALLBACK}?{a_report()}")
        assert answer.status_code == 405, method
        assert answer.headers["allow"] == "GET"
        if method != "HEAD":
            assert_problem(answer, 405, "method_not_allowed")
    posted = service.http.post(CALLBACK, content=a_report())
    assert_problem(posted, 405, "method_not_allowed")
    assert_nothing_is_stored(service)


def test_too_long_a_query_is_414_and_stores_nothing(service: Service) -> None:
    for query in (a_report(x="a" * 8192), "a" * 8193):
        assert_problem(service.call_back(query), 414, "query_too_long")
    assert_nothing_is_stored(service)


def call_from(service: Service, *forwarded_for: str) -> int:
    """Call back with these `X-Forwarded-For` headers, and return the status of the answer."""
    headers = [("X-Forwarded-For", value) for value in forwarded_for]
    return service.call_back(a_report(), headers=headers).status_code


def test_caller_outside_the_allowed_networks_is_403_and_nothing_is_stored(
    database_url: URL,
) -> None:
    with running_service(database_url, callback_allowed_networks="192.0.2.0/24") as service:
        for query in (a_report(), "type=mo", "x" * 9000):
            assert_problem(service.call_back(query), 403, "forbidden")
        # No proxy is trusted, so these must be ignored.
        for claim in ("192.0.2.1", "192.0.2.1, 127.0.0.1"):
            assert call_from(service, claim) == 403, claim
        assert_nothing_is_stored(service)


def test_no_proxy_is_believed_against_the_callers_own_address(database_url: URL) -> None:
    with running_service(database_url, callback_allowed_networks="127.0.0.1") as service:
        assert call_from(service) == 200
        assert call_from(service, "198.51.100.1") == 200


def test_a_network_of_ipv4_within_ipv6_lets_in_its_callers(database_url: URL) -> None:
    networks = "::ffff:127.0.0.0/104"
    with running_service(database_url, callback_allowed_networks=networks) as service:
        assert call_from(service) == 200


# `X-Forwarded-For` behind 127.0.0.0/8 and 10.0.0.0/8, and the callback's answer.
FORWARDED = [
    (["192.0.2.1"], 200),
    (["198.51.100.1"], 403),
    ([], 403),  # the proxy itself, which is in no allowed network
    ([""], 403),
    (["10.0.0.1"], 403),
    # Read from the right: the caller's own part is on the left.
    (["192.0.2.1, 198.51.100.1"], 403),
    (["198.51.100.1, 192.0.2.1"], 200),
    (["198.51.100.1, 192.0.2.1, 10.0.0.1, 127.0.0.1"], 200),
    (["192.0.2.1, 198.51.100.1, 10.0.0.1"], 403),
    (["192.0.2.1,198.51.100.1"], 403),
    # Several headers are one list.
    (["198.51.100.1", "192.0.2.1"], 200),
    (["192.0.2.1", "198.51.100.1"], 403),
    (["192.0.2.1", "10.0.0.1, 10.0.0.2"], 200),
    # An unreadable hop is not skipped: anybody could have written the hop left of it.
    (["192.0.2.1, unknown"], 403),
    (["192.0.2.1, 10.0.0.1, _hidden"], 403),
    (["192.0.2.1, 256.1.1.1"], 403),
    (["192.0.2.1, 198.51.100"], 403),
    (["nonsense"], 403),
    (["192.0.2.1/24"], 403),
    (["192.0.2.01"], 403),
    (["nonsense, 192.0.2.1"], 200),
    # IPv6, IPv4 mapped into it, and ports.
    (["2001:db8::1"], 200),
    (["2001:DB8:0:0:0:0:0:1"], 200),
    (["2001:db9::1"], 403),
    (["[2001:db8::1]"], 200),
    (["[2001:db8::1]:4711"], 200),
    (["[2001:db9::1]:4711"], 403),
    (["::ffff:192.0.2.1"], 200),
    (["::ffff:198.51.100.1"], 403),
    (["[::ffff:192.0.2.1]:4711"], 200),
    (["192.0.2.1:4711"], 200),
    (["198.51.100.1:4711"], 403),
    (["192.0.2.1, ::ffff:10.0.0.1"], 200),
    (["192.0.2.1:4711, 10.0.0.1:80, [::ffff:127.0.0.1]:80"], 200),
    (["198.51.100.1 ,192.0.2.1 ,\t10.0.0.1"], 200),
]


def test_forwarded_addresses_are_read_from_the_right_as_far_as_trusted(database_url: URL) -> None:
    changes = {
        "callback_allowed_networks": "192.0.2.0/24,2001:db8::/32",
        "trusted_proxies": "127.0.0.0/8,10.0.0.0/8",
    }
    with running_service(database_url, **changes) as service:
        found = [(given, call_from(service, *given)) for given, _ in FORWARDED]

        assert found == FORWARDED
        (report,) = service.reports()
        assert report["times_received"] == sum(status == 200 for _, status in FORWARDED)
        assert service.quarantine() == []
