"""PostgreSQL away, hung, cut off or locked: each report answered 200 is found, once."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from signal import SIGCONT, SIGSTOP

import psycopg
import pytest
from sqlalchemy import URL, text

from app.commands.database import IF_NOT_ALLOWED
from app.store.engine import open_database
from tests.faults.ledger import Ledger
from tests.faults.programs import (
    AUTHORIZED,
    call_back,
    is_found,
    is_ready,
    messages_of,
    metrics_of,
    settings_for,
    spool_is_empty,
    under_load,
)
from tests.postgres import StoppableServer
from tests.process import Serving, serving, until
from tests.recount import HISTORY
from tests.replication import Node
from tests.service import TOKEN, a_report, running_service

# For an outage of a minute: DLR_TEST_OUTAGE_S=60.
OUTAGE_S = float(os.environ.get("DLR_TEST_OUTAGE_S", "4"))
FOUND_WITHIN_S = 20
MADE_BY_A_NEWER_VERSION = "UPDATE alembic_version SET version_num = 'a newer one'"


def keep_up_for(seconds: float) -> None:
    """Keep the fault for a while: this is the outage, not a wait."""
    time.sleep(seconds)


@pytest.mark.timeout(240)
def test_reports_of_an_outage_are_all_kept_and_found_once(
    seed: int, server: StoppableServer, server_database: URL
) -> None:
    ledger = Ledger(seed)
    with serving(**settings_for(server_database)) as program:
        with under_load(ledger, program):
            server.stop("immediate")
            keep_up_for(OUTAGE_S)
            server.start()
            back_at = time.monotonic()
        until(lambda: spool_is_empty(program), FOUND_WITHIN_S)
        found_after = time.monotonic() - back_at

        assert found_after < FOUND_WITHIN_S
        assert ledger.answers.keys() == {200}, f"seed {seed}: {ledger.answers}"
        assert is_ready(program)
        until(lambda: "the spool was drained" in messages_of(program))
    print(f"{ledger.answers[200]} answered 200, found {found_after:.1f} s after its return")
    ledger.check(server_database)


def metric(program: Serving, name: str) -> float:
    (line,) = [it for it in metrics_of(program).splitlines() if it.startswith(f"{name} ")]
    return float(line.split()[1])


def test_an_outage_shows_in_the_metrics_and_does_not_hold_up_a_scrape(
    server: StoppableServer, server_database: URL
) -> None:
    with serving(**settings_for(server_database)) as program:
        program.http.get(f"/callback/paasoo/{TOKEN}")
        before = metric(program, "dlr_database_up"), metric(program, "dlr_quarantine_rows")
        server.stop("immediate")
        # No report comes: the service sees it by its own looks.
        until(lambda: metric(program, "dlr_database_up") == 0, FOUND_WITHIN_S)
        failed_at_first = metric(program, 'dlr_failed_batches_total{fault="database"}')
        assert call_back(program, "during") == 200
        began = time.monotonic()
        rows = metric(program, "dlr_quarantine_rows")
        took_s = time.monotonic() - began
        failed = metric(program, 'dlr_failed_batches_total{fault="database"}')
        last_report_at = metric(program, "dlr_last_report_timestamp_seconds")
        server.start()
        until(lambda: metric(program, "dlr_database_up") == 1, FOUND_WITHIN_S)

    assert (before, rows) == ((1, 1), 1)
    assert took_s < 1
    assert (failed_at_first, failed >= 1) == (0, True)
    assert abs(time.time() - last_report_at) < 60


@pytest.mark.timeout(240)
def test_without_a_spool_reports_are_refused_at_once_and_taken_again_soon(
    seed: int, server: StoppableServer, server_database: URL
) -> None:
    with serving(**settings_for(server_database, DLR_SPOOL="off")) as program:
        assert call_back(program, "before") == 200
        server.stop("immediate")
        slowest = 0.0
        for number in range(50):
            started = time.monotonic()
            answer = program.http.get(
                f"/callback/paasoo/{TOKEN}?{a_report(messageid=f'during-{number}')}"
            )
            slowest = max(slowest, time.monotonic() - started)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
        server.start()
        back_at = time.monotonic()
        until(lambda: call_back(program, "after") == 200, 5)
        again_after = time.monotonic() - back_at

        assert slowest < 1
        assert is_found(program, "before")
        print(f"slowest refusal {slowest:.3f} s, normal {again_after:.1f} s after its return")


def test_lookups_during_an_outage_are_refused_quickly(
    server: StoppableServer, server_database: URL
) -> None:
    with serving(**settings_for(server_database)) as program:
        server.stop("immediate")
        started = time.monotonic()
        answer = program.http.get("/v1/messages/any", headers=AUTHORIZED)

        assert time.monotonic() - started < 3
        assert answer.status_code == 503
        assert answer.json()["code"] == "database_unavailable"
        assert int(answer.headers["retry-after"]) > 0


def test_it_starts_without_the_database_and_takes_reports_at_once(
    server: StoppableServer, server_database: URL
) -> None:
    server.stop("immediate")
    with serving(**settings_for(server_database)) as program:
        assert call_back(program, "early") == 200
        assert program.http.get("/readyz").json()["checks"]["database"] != "ok"

        server.start()
        until(lambda: is_ready(program) and spool_is_empty(program))

        assert program.http.get("/v1/messages/early", headers=AUTHORIZED).json()["final"]


def test_a_server_that_hangs_counts_as_away(
    seed: int, server: StoppableServer, server_database: URL
) -> None:
    ledger = Ledger(seed)
    with serving(**settings_for(server_database)) as program, ExitStack() as stopped:
        with under_load(ledger, program):
            node = Node.of(server)
            node.freeze()
            stopped.callback(node.wake)
            until(lambda: not spool_is_empty(program))
            answered = ledger.answers.total()
            until(lambda: ledger.answers.total() > answered + 200)
            started = time.monotonic()
            looked_up = program.http.get("/v1/messages/any", headers=AUTHORIZED)
            waited = time.monotonic() - started
            stopped.close()
        until(lambda: spool_is_empty(program), FOUND_WITHIN_S)

    assert ledger.answers.keys() == {200}, f"seed {seed}: {ledger.answers}"
    assert looked_up.status_code == 503
    assert waited < 6
    ledger.check(server_database)


def test_connections_that_are_cut_cost_no_report(
    seed: int, server: StoppableServer, server_database: URL
) -> None:
    ledger = Ledger(seed)
    admin_url = server.url.render_as_string(hide_password=False)
    with (
        serving(**settings_for(server_database, DLR_SPOOL="off")) as program,
        psycopg.connect(admin_url, autocommit=True) as admin,
        under_load(ledger, program),
    ):
        for _ in range(5):
            answered = ledger.answers.total()
            cut = admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [server_database.database],
            ).fetchall()
            assert cut
            until(ledger.has_answers(answered + 100))

    assert ledger.answers.keys() == {200}, f"seed {seed}: {ledger.answers}"
    ledger.check(server_database)


def test_a_lock_on_the_table_is_waited_out_in_the_spool(
    seed: int, server: StoppableServer, server_database: URL
) -> None:
    ledger = Ledger(seed)
    address = server_database.set(drivername="postgresql").render_as_string(hide_password=False)
    with serving(**settings_for(server_database)) as program:
        with under_load(ledger, program), psycopg.connect(address) as other:
            other.execute("LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE")
            until(lambda: not spool_is_empty(program))
            other.rollback()
        until(lambda: spool_is_empty(program), FOUND_WITHIN_S)

    assert ledger.answers.keys() == {200}, f"seed {seed}: {ledger.answers}"
    ledger.check(server_database)


def test_a_full_spool_refuses_and_keeps_what_it_has(
    seed: int, server: StoppableServer, server_database: URL
) -> None:
    ledger = Ledger(seed, padding=1000)
    with serving(**settings_for(server_database, DLR_SPOOL_MAX_BYTES=str(1024**2))) as program:
        with under_load(ledger, program):
            server.stop("immediate")
            until(lambda: ledger.answers[503] > 100, 60)
            checks = program.http.get("/readyz").json()["checks"]
            server.start()
            until(lambda: spool_is_empty(program), FOUND_WITHIN_S)
        until(lambda: spool_is_empty(program), FOUND_WITHIN_S)
        until(lambda: is_ready(program))
        messages = [line["message"] for line in program.whole_log()]

    assert checks["spool"] == "takes no more"
    assert messages.count("the spool takes no more") == 1
    ledger.check(server_database)


def test_a_spool_that_its_process_left_behind_is_drained_by_another(
    server: StoppableServer, server_database: URL
) -> None:
    settings = settings_for(server_database)
    server.stop("immediate")
    with serving(**settings) as first, serving(**settings) as second:
        assert call_back(first, "of-the-first") == 200
        assert call_back(second, "of-the-second") == 200
        first.kill()
        second.kill()
    server.start()

    with serving(**settings) as only:
        until(lambda: is_found(only, "of-the-first") and is_found(only, "of-the-second"))


def test_a_spool_with_reports_is_drained_though_the_spool_is_turned_off(
    server: StoppableServer, server_database: URL
) -> None:
    settings = settings_for(server_database)
    server.stop("immediate")
    with serving(**settings) as before:
        assert call_back(before, "kept") == 200
        before.kill()
    server.start()

    with serving(**settings, DLR_SPOOL="off") as after:
        until(lambda: is_found(after, "kept"))


def test_a_spool_drains_into_a_database_that_is_slow_or_refuses_a_row(
    server: StoppableServer, server_database: URL
) -> None:
    with serving(**settings_for(server_database)) as program:
        server.stop("immediate")
        for number in range(300):
            assert call_back(program, f"m-{number}") == 200
        query = a_report(messageid="poison", errcode="poison")
        assert program.http.get(f"/callback/paasoo/{TOKEN}?{query}").status_code == 200
        program.process.send_signal(SIGSTOP)  # it must not drain before the database is slow
        server.start()
        make_slow(server_database)
        program.process.send_signal(SIGCONT)

        until(lambda: spool_is_empty(program), FOUND_WITHIN_S)

        assert all(is_found(program, f"m-{number}") for number in (0, 150, 299))
        assert not is_found(program, "poison")
        assert program.http.get("/metrics", headers=AUTHORIZED).text.count(
            'dlr_quarantined_total{code="invalid_parameter"} 1.0'
        )


SLEEP_BEFORE_EACH_ROW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$
"""


def make_slow(url: URL) -> None:
    """Take twenty milliseconds a row: single rows pass, a large batch doesn't."""
    database = open_database(url, hurried=False)
    with database.write.begin() as connection:
        for statement in (
            SLEEP_BEFORE_EACH_ROW,
            "CREATE TRIGGER slow BEFORE INSERT ON deliveries FOR EACH ROW EXECUTE FUNCTION slow()",
            "ALTER TABLE deliveries ADD CONSTRAINT poison CHECK (errcode <> 'poison')",
        ):
            connection.execute(text(statement))
    database.close()


def test_a_server_that_was_read_only_for_a_while_ends_the_outage(
    seed: int, server: StoppableServer, server_database: URL
) -> None:
    ledger = Ledger(seed)
    name = server_database.database
    admin_url = server.url.render_as_string(hide_password=False)
    with (
        serving(**settings_for(server_database)) as program,
        psycopg.connect(admin_url, autocommit=True) as admin,
    ):
        with under_load(ledger, program):
            admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            until(lambda: not spool_is_empty(program))
            assert not is_ready(program)
            admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        until(lambda: spool_is_empty(program) and is_ready(program), FOUND_WITHIN_S)

    assert ledger.answers.keys() == {200}, f"seed {seed}: {ledger.answers}"
    ledger.check(server_database)


def test_a_session_that_began_read_only_is_not_used_again(
    server: StoppableServer, server_database: URL
) -> None:
    """The first write alone meets it: no report comes, so no outage begins."""
    name = server_database.database
    admin_url = server.url.render_as_string(hide_password=False)
    with (
        running_service(server_database) as service,
        psycopg.connect(admin_url, autocommit=True) as admin,
    ):

        def register() -> int:
            return service.register(f"m-{next(numbers)}", to=["6588888888"]).status_code

        numbers = count()
        assert register() == 200
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            [name],
        )
        assert [register(), register()] == [503, 503]  # cut, and then read-only
        admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        until(lambda: register() == 200)


def change_database(url: URL, statement: str) -> None:
    database = open_database(url, hurried=False)
    with database.transaction() as connection:
        connection.execute(text(statement))
    database.close()


def test_a_replica_of_the_previous_version_goes_on_after_an_outage(
    server: StoppableServer, server_database: URL
) -> None:
    with serving(**settings_for(server_database)) as program:
        assert call_back(program, "before") == 200
        change_database(server_database, MADE_BY_A_NEWER_VERSION)
        server.stop("immediate")
        assert call_back(program, "during") == 200
        server.start()
        until(lambda: spool_is_empty(program) and is_found(program, "during"), FOUND_WITHIN_S)

        assert call_back(program, "after") == 200
        assert is_found(program, "after")
        checks = program.http.get("/readyz").json()["checks"]  # fails, so that it is soon restarted
        assert checks["schema"].startswith("this program is older than its database")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (MADE_BY_A_NEWER_VERSION, "this program is older than its database"),
        ("ALTER TABLE deliveries DISABLE TRIGGER move_only_report", "(move_only_report)"),
    ],
)
def test_a_schema_that_is_not_this_programs_is_not_written_to(
    server: StoppableServer, server_database: URL, change: str, words: str
) -> None:
    change_database(server_database, change)
    server.stop("immediate")
    with serving(**settings_for(server_database)) as program:
        assert call_back(program, "during") == 200
        server.start()
        until(lambda: words in program.stderr)

        assert call_back(program, "after") == 200
        assert "\ndlr_spool_waiting 2.0\n" in metrics_of(program)


END_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""


@pytest.mark.parametrize(
    ("take_away", "give_back"),
    [
        (
            ["ALTER TABLE deliveries DISABLE TRIGGER USER"],
            ["ALTER TABLE deliveries ENABLE TRIGGER USER"],
        ),
        (
            ["ALTER DATABASE {name} SET session_replication_role = replica", END_OTHERS],
            ["ALTER DATABASE {name} RESET session_replication_role", END_OTHERS],
        ),
    ],
    ids=["disabled", "replica"],
)
def test_a_trigger_that_goes_missing_under_a_service_loses_no_report(
    server_database: URL, take_away: list[str], give_back: list[str]
) -> None:
    """The next report would overwrite the one that the delivery holds."""

    def change(statements: list[str]) -> None:
        for statement in statements:
            change_database(server_database, statement.format(name=server_database.database))

    def call(program: Serving, query: str) -> int:
        return program.http.get(f"/callback/paasoo/{TOKEN}?{query}").status_code

    with serving(**settings_for(server_database)) as program:
        assert call(program, a_report(statuscode="accepted")) == 200
        change(take_away)
        assert call(program, a_report()) == 200
        until(lambda: "(count_deliveries_on_delete, " in program.stderr)
        assert "\ndlr_spool_waiting 1.0\n" in metrics_of(program)

        change(give_back)
        until(lambda: spool_is_empty(program), FOUND_WITHIN_S)
        path = "/v1/messages/052804b7368321/reports"
        answer = program.http.get(path, headers=AUTHORIZED)
        assert [report["state"] for report in answer.json()["reports"]] == ["accepted", "delivered"]


def test_two_replicas_given_the_same_in_opposite_orders_agree(
    server_database: URL,
) -> None:
    settings = settings_for(server_database)
    variants = [
        a_report(messageid=f"m-{number}", status=status, statuscode=word)
        for number in range(100)
        for status, word in ((0, "delivered"), (404, "Unroutable"), (0, "accepted"), (777, None))
    ]

    def send(program: Serving, queries: list[str]) -> set[int]:
        address = f"/callback/paasoo/{TOKEN}"
        with ThreadPoolExecutor(8) as threads:
            return set(
                threads.map(lambda q: program.http.get(f"{address}?{q}").status_code, queries)
            )

    with serving(**settings) as one, serving(**settings) as other, ThreadPoolExecutor(2) as both:
        answers = [
            both.submit(send, one, variants),
            both.submit(send, other, variants[::-1]),
        ]
        assert [answer.result() for answer in answers] == [{200}, {200}]

    database = open_database(server_database)
    with database.read.connect() as connection:
        statuses = connection.execute(
            text("SELECT DISTINCT state, conflicting FROM deliveries")
        ).all()
        history = connection.execute(text(f"SELECT count(*), sum(times_received) FROM {HISTORY}"))
        assert [tuple(row) for row in statuses] == [("delivered", True)]
        assert tuple(history.one()) == (len(variants), 2 * len(variants))
    database.close()


def test_it_starts_whatever_the_server_says(server: StoppableServer, server_database: URL) -> None:
    """The server's words are in its own language, and some refusals end by themselves."""
    name = server_database.database
    admin_url = server.url.render_as_string(hide_password=False)
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        try:
            with serving(**settings_for(server_database)) as program:
                assert call_back(program, "early") == 200
                assert not is_ready(program)
                admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
                until(lambda: is_ready(program) and spool_is_empty(program))
                assert is_found(program, "early")
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


def test_it_starts_without_a_right_and_takes_reports_until_it_is_given(
    server: StoppableServer, server_database: URL
) -> None:
    role = f"role_of_{server_database.database}"
    admin_url = server_database.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'a-password'".encode())
        with serving(**settings_for(server_database.set(username=role))) as program:
            assert call_back(program, "early") == 200
            assert not is_ready(program)
            assert IF_NOT_ALLOWED in program.stderr
            admin.execute(f"GRANT postgres TO {role}".encode())
            until(lambda: is_ready(program) and spool_is_empty(program))
            assert is_found(program, "early")
        admin.execute(f"DROP ROLE {role}".encode())
