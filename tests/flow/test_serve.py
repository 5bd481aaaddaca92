"""The program from its first start to its end: what it prints, refuses, keeps and finishes."""

import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from signal import SIGTERM
from stat import S_IMODE
from threading import Event
from typing import Any

import httpx2
import psycopg
import pytest
from sqlalchemy import URL

from tests.postgres import new_database
from tests.process import AFRESH, Serving, free_port, run, serving, until
from tests.service import ADMIN_KEY, READ_KEY, SAMPLE, TOKEN, a_report

SECRETS = {
    "DLR_CALLBACK_TOKENS": TOKEN,
    "DLR_API_KEYS": f"reader:read:{READ_KEY},boss:admin:{ADMIN_KEY}",
}
# Nothing listens there.
AWAY = "postgresql://dlr@127.0.0.1:1/dlr"


def call_back(service: Serving, query: str, token: str = TOKEN) -> httpx2.Response:
    return service.http.get(f"/callback/paasoo/{token}?{query}")


def get(service: Serving, path: str, key: str = READ_KEY) -> httpx2.Response:
    return service.http.get(path, headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
def environment(database_url: URL) -> dict[str, str]:
    """The variables that `serve` needs on a migrated database, once for each kind."""
    return {"DLR_DATABASE_URL": database_url.render_as_string(hide_password=False), **SECRETS}


@pytest.fixture
def unmigrated(postgres_server: URL) -> Iterator[str]:
    with new_database(postgres_server) as url:
        yield url.render_as_string(hide_password=False)


def test_first_run_prints_what_a_newcomer_copies() -> None:
    with serving(AFRESH) as service:
        printed = service.stdout.splitlines()
        (address,) = (line for line in printed if line.startswith("http"))
        (curl,) = (line for line in printed if line.startswith("curl"))
        answer = httpx2.get(f"{address}?{a_report()}", trust_env=False)
        program, option, header, url = shlex.split(curl)
        name, _, value = header.partition(": ")
        found = httpx2.get(url, headers={name: value}, trust_env=False)

    assert (answer.status_code, answer.text) == (200, "OK")
    assert (program, option) == ("curl", "-H")
    assert found.status_code == 200
    assert found.json()["messageid"] == SAMPLE["messageid"]


def test_first_run_keeps_its_secrets_for_the_next_and_prints_them_once() -> None:
    with serving() as service:
        assert service.stdout
    token, key = (Path("var", name) for name in ("callback-token", "admin-key"))

    with serving() as service:
        answer = call_back(service, a_report(), token.read_text().strip())
        found = get(service, f"/v1/messages/{SAMPLE['messageid']}", key.read_text().strip())

        assert service.stdout == ""
        assert (answer.status_code, found.status_code) == (200, 200)
    assert [S_IMODE(file.stat().st_mode) for file in (token, key)] == [0o600, 0o600]


def test_a_key_that_lets_nobody_in_is_not_printed() -> None:
    with serving():
        Path("var", "callback-token").unlink()

    with serving(DLR_API_KEYS=SECRETS["DLR_API_KEYS"]) as service:
        assert "/callback/paasoo/" in service.stdout
        assert Path("var", "admin-key").read_text().strip() not in service.stdout


def test_a_port_that_is_taken_stops_serve_with_one_line_that_names_it() -> None:
    with serving(**SECRETS) as first:
        port = str(first.http.base_url.port)
        ended = run("serve", "--port", port, DLR_DATABASE_URL="sqlite:///other.db", **SECRETS)

    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "DLR_PORT" in ended.stderr


@pytest.mark.parametrize("missing", SECRETS)
def test_a_server_database_wants_secrets_to_be_given(missing: str) -> None:
    given = {name: value for name, value in SECRETS.items() if name != missing}

    ended = run("serve", DLR_DATABASE_URL=AWAY, **given)

    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert missing in ended.stderr
    assert not Path("var").exists()


def test_a_server_database_without_our_schema_is_refused(unmigrated: str) -> None:
    ended = run("serve", DLR_DATABASE_URL=unmigrated, **SECRETS)

    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "paasoo-dlr migrate" in ended.stderr


def test_a_database_that_is_away_does_not_keep_serve_from_starting() -> None:
    with serving(DLR_DATABASE_URL=AWAY, DLR_SPOOL="off", **SECRETS) as service:
        ready = service.http.get("/readyz")
        answer = call_back(service, a_report())
        found = get(service, f"/v1/messages/{SAMPLE['messageid']}")

    assert ready.status_code == 503
    assert "database" in ready.json()["detail"]
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert found.status_code == 503


def test_a_second_serve_on_the_same_file_is_refused() -> None:
    with serving(**SECRETS) as first:
        ended = run("serve", "--port", str(free_port()), **SECRETS)
        answer = call_back(first, a_report())

    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "DLR_DATA_DIR" in ended.stderr  # where the database is, as no URL was given
    assert answer.status_code == 200


@pytest.mark.parametrize("end", [Serving.terminate, Serving.kill], ids=["restart", "kill -9"])
def test_a_report_is_still_found_after(end: Any, environment: dict[str, str]) -> None:
    with serving(**environment) as before:
        assert call_back(before, a_report()).status_code == 200
        assert call_back(before, "type=nonsense").status_code == 400
        end(before)

    with serving(**environment) as after:
        found = get(after, f"/v1/messages/{SAMPLE['messageid']}")
        refused = get(after, "/v1/quarantine", key=ADMIN_KEY)

    assert found.json()["state"] == "delivered"
    assert [item["query"] for item in refused.json()["items"]] == ["type=nonsense"]


def test_kill_9_under_load_loses_nothing_that_was_answered(environment: dict[str, str]) -> None:
    with serving(**environment) as service, ThreadPoolExecutor() as threads:
        warm = Event()
        callers = [threads.submit(call_back_until_refused, service, n, warm) for n in range(4)]
        assert warm.wait(10)
        service.kill()
        answered = [message_id for caller in callers for message_id in caller.result()[0]]

    with serving(**environment) as after:
        missing = [message_id for message_id in answered if not is_known(after, message_id)]

    assert answered
    assert missing == []


def test_sigterm_answers_and_stores_all_that_was_admitted(environment: dict[str, str]) -> None:
    with (
        serving(**environment, DLR_DRAIN_SECONDS="0.3") as service,
        ThreadPoolExecutor() as threads,
    ):
        warm = Event()
        callers = [threads.submit(call_back_until_refused, service, n, warm) for n in range(4)]
        assert warm.wait(10)
        code = service.terminate()
        results = [caller.result() for caller in callers]

    answered = [message_id for answered, _ in results for message_id in answered]
    unanswered = [message_id for _, message_id in results]
    assert code == 0
    with serving(**environment) as after:
        assert [message_id for message_id in answered if not is_known(after, message_id)] == []
        # Each caller's last one met a closed port: had it been admitted, it had been answered.
        assert [message_id for message_id in unanswered if is_known(after, message_id)] == []


def call_back_until_refused(service: Serving, caller: int, warm: Event) -> tuple[list[str], str]:
    """Report after report until none is answered: the ids answered 200, and the one that wasn't."""
    answered: list[str] = []
    with httpx2.Client(base_url=service.http.base_url, timeout=10, trust_env=False) as http:
        while True:
            message_id = f"{caller}-{len(answered)}"
            try:
                answer = http.get(f"/callback/paasoo/{TOKEN}?{a_report(messageid=message_id)}")
            except httpx2.TransportError:
                return answered, message_id
            assert answer.status_code == 200, answer.text
            answered.append(message_id)
            if len(answered) == 20:
                warm.set()


def is_known(service: Serving, message_id: str) -> bool:
    status = get(service, f"/v1/messages/{message_id}").status_code
    assert status in {200, 404}
    return status == 200


def test_sigterm_fails_readiness_first_and_still_takes_reports_meanwhile() -> None:
    with serving(**SECRETS, DLR_DRAIN_SECONDS="3") as service:
        assert service.http.get("/readyz").status_code == 200
        service.process.send_signal(SIGTERM)
        until(lambda: service.http.get("/readyz").status_code == 503)
        draining = httpx2.get(service.http.base_url.join("/readyz"), trust_env=False)
        answer = call_back(service, a_report())
        code = service.process.wait(10)

    assert draining.status_code == 503
    assert "draining" in draining.json()["detail"]
    assert answer.status_code == 200
    # So that nobody has a request under way on a kept connection when the port closes.
    assert draining.headers["connection"] == answer.headers["connection"] == "close"
    assert code == 0


def test_sigterm_ends_in_time_though_the_database_hangs(postgres_url: URL) -> None:
    url = postgres_url.render_as_string(hide_password=False)
    given = {"DLR_DATABASE_URL": url, "DLR_METRICS_PUBLIC": "true", "DLR_SPOOL": "off"}
    with (
        psycopg.connect(url.replace("+psycopg", "")) as other,
        serving(**given, **SECRETS) as service,
    ):
        other.execute("LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE")
        with ThreadPoolExecutor() as threads:
            callers = []
            for message_id in ("1", "2"):
                query = a_report(messageid=message_id)
                callers.append(threads.submit(call_back, service, query))
                until(lambda: queued(service) == len(callers))
            code = service.terminate()
            statuses = [caller.result().status_code for caller in callers]

    assert code == 0
    assert statuses == [503, 503]


def queued(service: Serving) -> float:
    lines = service.http.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("dlr_queued ")).split()[1])


def test_the_log_is_json_and_tells_no_secret_and_no_whole_number(
    environment: dict[str, str],
) -> None:
    wrong, marker, number = "a-wrong-token", "marker-in-a-query", SAMPLE["to"]
    with serving(**environment, DLR_LOG_LEVEL="debug") as service:
        statuses = [
            call_back(service, a_report(extra=marker)).status_code,
            call_back(service, a_report(extra=marker, status="no")).status_code,
            call_back(service, a_report(extra=marker, to=f"{number}x")).status_code,
            call_back(service, f"{a_report(extra=marker)}&to={number}9").status_code,
            call_back(service, a_report(extra=marker), token=wrong).status_code,
            call_back(service, a_report(extra=marker * 1000)).status_code,
            service.http.post(f"/callback/paasoo/{TOKEN}?{a_report(extra=marker)}").status_code,
            get(service, f"/v1/messages/{SAMPLE['messageid']}").status_code,
            get(service, f"/v1/messages/{SAMPLE['messageid']}?{marker}={number}").status_code,
            get(service, f"/v1/messages/{number}").status_code,
            get(service, f"/no/such/{number}?{marker}").status_code,
            get(service, "/v1/quarantine", key=READ_KEY).status_code,
            get(service, "/v1/quarantine", key=ADMIN_KEY).status_code,
            get(service, "/v1/quarantine", key=wrong).status_code,
            get(service, "/metrics", key=READ_KEY).status_code,
        ]
        service.terminate()

    assert statuses == [200, 400, 400, 400, 404, 414, 405, 200, 422, 404, 404, 403, 200, 401, 200]
    lines = service.log_lines()
    assert all(isinstance(line, dict) and line["time"].endswith("Z") for line in lines)
    assert {"callback refused", "callback turned away", "request"} <= {
        line["message"] for line in lines
    }
    for secret in (TOKEN, READ_KEY, ADMIN_KEY, wrong, marker, number):
        assert secret not in service.stderr + service.stdout


def test_the_log_tells_apart_the_keys_of_one_name() -> None:
    old, new = READ_KEY, ADMIN_KEY
    given = {"DLR_CALLBACK_TOKENS": TOKEN, "DLR_API_KEYS": f"shop:read:{old},shop:admin:{new}"}
    asked = [
        (f"/v1/messages/{SAMPLE['messageid']}", old),  # answered before the router
        (f"/v1/messages/{SAMPLE['messageid']}/reports", old),
        (f"/v1/messages/{SAMPLE['messageid']}", new),
        ("/v1/quarantine", new),
        ("/v1/quarantine", old),  # 403
        ("/v1/quarantine", "of-nobody"),
    ]
    with serving(**given) as service:
        for path, key in asked:
            get(service, path, key=key)
        service.terminate()

    lines = [line for line in service.log_lines() if line["message"] == "request"]
    digests = [sha256(key.encode()).hexdigest()[:8] for key in (old, old, new, new, old)]
    assert [(line["key"], line["key_digest"]) for line in lines] == [
        *(("shop", digest) for digest in digests),
        (None, None),
    ]


def test_the_log_of_a_database_that_is_away_tells_no_secret_either() -> None:
    away = AWAY.replace("dlr@", "dlr:hush-hush@")
    with serving(DLR_DATABASE_URL=away, DLR_SPOOL="off", **SECRETS) as service:
        call_back(service, a_report())
        get(service, f"/v1/messages/{SAMPLE['messageid']}")
        service.http.get("/readyz")
        service.terminate()

    assert {line["level"] for line in service.log_lines()} >= {"warning", "error"}
    for secret in ("hush-hush", TOKEN, READ_KEY, ADMIN_KEY, SAMPLE["to"]):
        assert secret not in service.stderr
