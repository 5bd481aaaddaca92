"""The metrics: each is there from the start, none is undocumented, and no scrape hangs."""

import platform
import re
import time
from importlib.metadata import version

import pytest
from sqlalchemy import URL, create_engine, text

from app.telemetry import DOCUMENTATION
from tests.process import ROOT, until
from tests.service import ADMIN_KEY, READ_KEY, SAMPLE, TOKEN, Service, a_report, running_service

CALLBACK = "/callback/paasoo/{token}"
CODES = (
    *("missing_parameter", "unsupported_type", "invalid_parameter"),
    *("duplicate_parameter", "invalid_encoding"),
)
OUTCOMES = (
    *("sent", "provider_bad_request", "provider_refused_credentials", "provider_restricted"),
    *("provider_refused_address", "provider_unreachable", "provider_bad_answer"),
    *("provider_throttled", "provider_system_error", "outcome_unknown"),
)
QUESTIONS = ("answered", "refused", "not_understood", "no_answer")
FROM_THE_START = [
    *(f'dlr_callbacks_total{{answer="{it}"}}' for it in (200, 403, 404, 405, 414, 503, *CODES)),
    *(f'dlr_quarantined_total{{code="{it}"}}' for it in CODES),
    *(f'dlr_callback_tokens_total{{position="{it}"}}' for it in (1, 2)),
    *(
        f'dlr_reports_total{{state="{it}"}}'
        for it in ("accepted", "unknown", "undelivered", "rejected", "delivered")
    ),
    *(f'dlr_sends_total{{outcome="{it}"}}' for it in OUTCOMES),
    *(f'dlr_balance_questions_total{{outcome="{it}"}}' for it in QUESTIONS),
    "dlr_balance_asked_timestamp_seconds",
    *(f'dlr_failed_batches_total{{fault="{it}"}}' for it in ("database", "data")),
    *("dlr_quarantine_rows", "dlr_last_report_timestamp_seconds", "dlr_spooled_total"),
]


def lines_of(service: Service) -> dict[str, float]:
    """Each line of /metrics: its name with labels, and its value."""
    lines = service.get("/metrics").text.splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def requests(service: Service, route: str, method: str, status: str) -> float:
    labels = f'method="{method}",route="{route}",status="{status}"'
    lines = lines_of(service)
    number = lines[f"dlr_http_request_seconds_count{{{labels}}}"]
    assert lines[f'dlr_http_request_seconds_bucket{{le="+Inf",{labels}}}'] == number
    return number


def execute(url: URL, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_every_label_set_is_there_from_the_start_with_0(database_url: URL) -> None:
    with running_service(database_url, callback_tokens=f"{TOKEN},another-token-here") as service:
        lines = lines_of(service)

    assert {name: lines.get(name) for name in FROM_THE_START} == dict.fromkeys(FROM_THE_START, 0)


def test_no_label_set_appears_later(own_service: Service) -> None:
    def call_everything() -> None:
        key = {"Authorization": f"Bearer {READ_KEY}"}
        for query in ("", a_report(type="mo"), a_report(to="x"), f"{a_report()}&to=1", "type=%ff"):
            assert own_service.call_back(query).status_code == 400
        assert own_service.call_back(a_report()).status_code == 200
        assert own_service.call_back("x" * 9000).status_code == 414
        for method, path in (
            ("POST", f"/callback/paasoo/{TOKEN}"),
            ("GET", "/callback/paasoo/wrong"),
            ("PATCH", "/v1/messages/m"),
            ("HEAD", "/v1/messages/m"),
            ("GET", "/v1/messages/m?nosuch=1"),
            ("GET", "/no/such/path"),
            ("PATCH", "/no/such/path"),
            ("GET", "/docs"),
            ("GET", "/openapi.json"),
            ("GET", "/docs/assets/swagger-ui.css"),
            ("DELETE", "/v1/quarantine/no-such-id"),
            ("PUT", "/metrics"),
            *(("GET", path) for path in ("/", "/sign-in", "/deliveries", "/messages/m", "/live")),
            ("POST", "/sign-out"),
        ):
            own_service.http.request(method, path, headers=key)

    before = lines_of(own_service).keys()
    call_everything()

    assert lines_of(own_service).keys() - before == set()


def test_requests_are_counted_by_route(own_service: Service) -> None:
    own_service.call_back(a_report())
    own_service.call_back("")
    own_service.http.get("/callback/paasoo/wrong")
    own_service.http.post(f"/callback/paasoo/{TOKEN}")
    own_service.message(SAMPLE["messageid"])  # beside the router
    own_service.get(f"/v1/messages/{SAMPLE['messageid']}?wait=1")  # through it
    own_service.get("/v1/messages/unknown")
    own_service.get("/v1/messages/unknown", key=None)
    own_service.http.head("/v1/messages/unknown")
    own_service.http.request("PATCH", "/v1/messages/unknown")
    own_service.get("/v1/messages/un%2Fknown")
    for number in range(5):
        own_service.get(f"/no/such/path/{number}")
    own_service.get("/docs")

    message = "/v1/messages/{messageid}"
    assert requests(own_service, CALLBACK, "GET", "2xx") == 1
    assert requests(own_service, CALLBACK, "GET", "4xx") == 2
    assert requests(own_service, CALLBACK, "other", "4xx") == 1
    assert requests(own_service, message, "GET", "2xx") == 2
    assert requests(own_service, message, "GET", "4xx") == 4
    assert requests(own_service, message, "other", "4xx") == 1
    assert requests(own_service, "other", "GET", "4xx") == 5
    assert requests(own_service, "/docs", "GET", "2xx") == 1
    assert "/no/such" not in own_service.get("/metrics").text


def test_requests_are_counted_by_route_behind_a_prefix(database_url: URL) -> None:
    with running_service(database_url, root_path="/sms") as service:
        service.get("/v1/deliveries")
        service.get("/docs")

        assert requests(service, "/v1/deliveries", "GET", "2xx") == 1
        assert requests(service, "/docs", "GET", "2xx") == 1


def test_times_of_requests_are_in_seconds(own_service: Service) -> None:
    own_service.register("awaited", to=[SAMPLE["to"]])
    own_service.get("/v1/messages/awaited?wait=0.2")

    labels = 'method="GET",route="/v1/messages/{messageid}",status="2xx"'
    lines = lines_of(own_service)
    assert 0.2 <= lines[f"dlr_http_request_seconds_sum{{{labels}}}"] < 20
    assert lines[f'dlr_http_request_seconds_bucket{{le="0.1",{labels}}}'] == 0
    assert lines[f'dlr_http_request_seconds_bucket{{le="+Inf",{labels}}}'] == 1


def test_build_is_told(own_service: Service) -> None:
    kind = own_service.database_url.get_backend_name()
    labels = (
        f'database="{kind}",python="{platform.python_version()}",version="{version("paasoo-dlr")}"'
    )

    assert own_service.metric(f"dlr_build_info{{{labels}}}") == 1


def test_last_report_has_its_time(own_service: Service) -> None:
    before = time.time()
    own_service.call_back(a_report())
    after = time.time()
    own_service.call_back(a_report(type="mo"))  # no report

    assert before <= own_service.metric("dlr_last_report_timestamp_seconds") <= after


def test_rows_of_the_quarantine_are_counted(own_service: Service) -> None:
    for query in ("", "type=mo", "type=mo"):
        own_service.call_back(query)
    full = own_service.metric("dlr_quarantine_rows")
    for row in own_service.quarantine():
        path = f"/v1/quarantine/{row['id']}"
        own_service.http.delete(path, headers={"Authorization": f"Bearer {ADMIN_KEY}"})

    assert (full, own_service.metric("dlr_quarantine_rows")) == (2, 0)


def test_a_database_that_takes_no_report_is_down_until_it_takes_one(own_service: Service) -> None:
    at_first = own_service.metric("dlr_database_up")
    # Without `feed` the embedded database takes no write at all, with which a job would end it.
    for table in ("feed", "deliveries"):
        execute(own_service.database_url, f"ALTER TABLE {table} RENAME TO {table}_elsewhere")
    own_service.call_back(a_report())
    damaged = own_service.metric("dlr_database_up")
    for table in ("feed", "deliveries"):
        execute(own_service.database_url, f"ALTER TABLE {table}_elsewhere RENAME TO {table}")
    own_service.call_back(a_report())
    until(lambda: own_service.metric("dlr_database_up") == 1)

    assert (at_first, damaged) == (1, 0)
    assert own_service.metric('dlr_failed_batches_total{fault="database"}') >= 1


def test_a_hanging_database_does_not_hold_up_a_scrape(postgres_url: URL) -> None:
    with running_service(postgres_url) as service:
        service.call_back("type=mo")
        counted = service.metric("dlr_quarantine_rows")
        engine = create_engine(postgres_url)
        with engine.begin() as other:
            other.execute(text("LOCK TABLE quarantine IN ACCESS EXCLUSIVE MODE"))
            began = time.monotonic()
            hanging = [service.metric("dlr_quarantine_rows") for _ in range(3)]
            took_s = time.monotonic() - began
        engine.dispose()

    assert (counted, hanging) == (1, [1, 1, 1])
    # Each waits for half a second at most; for the database it would be its limit of 3 s.
    assert took_s < 6


def test_a_transaction_that_holds_the_feed_back_has_its_time(postgres_url: URL) -> None:
    def held_s() -> float:
        return service.metric("dlr_feed_held_seconds")

    with running_service(postgres_url) as service:
        engine = create_engine(postgres_url)
        with engine.begin() as holder:
            holder.execute(text("SELECT pg_current_xact_id()"))
            service.call_back(a_report())
            until(lambda: held_s() > 0)
            earlier, later = held_s(), held_s()
        until(lambda: held_s() == 0)
        engine.dispose()

    assert 0 < earlier < later < 60


def test_the_feed_of_the_embedded_database_is_never_held_back(sqlite_url: URL) -> None:
    with running_service(sqlite_url) as service:
        service.call_back(a_report())

        assert service.metric("dlr_feed_held_seconds") == 0


def test_limits_of_queue_and_spool_are_told(database_url: URL) -> None:
    with running_service(database_url, queue_limit=77, spool_max_bytes=2**20) as service:
        has_spool = database_url.get_backend_name() == "postgresql"

        assert service.metric("dlr_queue_limit") == 77
        assert service.metric("dlr_spool_limit_bytes") == (2**20 if has_spool else 0)


def test_a_spool_that_fills_up_shows_it_before_it_refuses(postgres_url: URL) -> None:
    def used_bytes() -> float:
        return service.metric("dlr_spool_bytes")

    with running_service(postgres_url, spool_max_bytes=2**20) as service:
        empty = used_bytes()
        execute(postgres_url, "ALTER TABLE reports RENAME TO elsewhere")
        filling = []
        codes = {200}
        while codes == {200}:
            filling.append(used_bytes())
            report = f"{a_report()}&filler={'x' * 7000}"
            codes = {service.call_back(report).status_code for _ in range(10)}
        execute(postgres_url, "ALTER TABLE elsewhere RENAME TO reports")
        until(lambda: service.metric("dlr_spool_waiting") == 0)

        assert filling == sorted(filling)
        assert 0 < empty < 0.05 * 2**20
        assert 0.9 * 2**20 < filling[-1] <= 2**20
        assert used_bytes() < 0.05 * 2**20


def test_every_metric_is_in_the_page_and_no_other(own_service: Service) -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    exposed = re.findall(r"^# TYPE (dlr_\w+) ", own_service.get("/metrics").text, re.MULTILINE)

    documented = re.findall(r"^\|.*?\|", page, re.MULTILINE)
    assert sorted(re.findall(r"`(dlr_\w+)[`{]", "".join(documented))) == sorted(exposed)
    assert {name.removesuffix("_total") for name in exposed} == {
        name.removesuffix("_total") for name in DOCUMENTATION
    }


def test_a_caller_that_no_proxy_names_is_null_in_the_log(
    database_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    with running_service(database_url, trusted_proxies="127.0.0.0/8") as service:
        service.call_back("", headers={"X-Forwarded-For": "no-address"})

    (line,) = [one for one in caplog.records if one.getMessage() == "callback refused"]
    assert line.__dict__["caller"] is None
