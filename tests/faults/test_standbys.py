"""PostgreSQL's standbys, as the service sees them: it says so where a failover may lose reports."""

import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.databases import migrate
from tests.faults.failovers import IN_STEP
from tests.faults.ledger import Ledger
from tests.faults.programs import (
    AUTHORIZED,
    call_back,
    is_found,
    is_ready,
    metrics_of,
    settings_for,
    spool_is_empty,
    under_load,
)
from tests.process import Serving, run, serving, until
from tests.replication import Pair, replicated

WARNING = "every standby is asynchronous"
# Of a role that may not see the details of `pg_stat_replication`.
PLAIN = "CREATE ROLE plain LOGIN"
GRANT = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain"


HANGING = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'dlr' AND wait_event = 'SyncRep'"
# The time limit of a write, and a moment for the machine.
NOTICED_WITHIN_S = 4
# Each holds one of the server's connections until a standby is back.
MOST_HANGING = 5


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with replicated() as made:
        made.primary.execute("CREATE DATABASE dlr")
        migrate(made.url("dlr"))
        made.primary.execute(PLAIN)
        made.primary.execute(GRANT, "dlr")
        yield made


def settings_of(pair: Pair, user: str = "postgres") -> dict[str, str]:
    return settings_for(pair.url("dlr").set(username=user))


def standbys_of(pair: Pair, user: str = "postgres") -> str:
    """The line of `doctor`."""
    shown = run("doctor", **settings_of(pair, user)).stdout.splitlines()
    (line,) = (line for line in shown if line[9:].startswith("standbys "))
    return line[:9].strip() + " " + line[29:]


def are_counted(program: Serving, synchronous: int, asynchronous: int) -> bool:
    lines = metrics_of(program).splitlines()
    return {
        f"dlr_synchronous_standbys {synchronous}.0",
        f"dlr_asynchronous_standbys {asynchronous}.0",
    } <= set(lines)


def log_warns(program: Serving) -> bool:
    return any(WARNING in line["message"] for line in program.log_lines())


@pytest.mark.parametrize("user", ["postgres", "plain"])
def test_an_asynchronous_standby_is_told_at_start_by_doctor_and_as_a_metric(
    pair: Pair, user: str
) -> None:
    with serving(**settings_of(pair, user)) as program:
        until(lambda: are_counted(program, 0, 1))
        until(lambda: log_warns(program))

    assert standbys_of(pair, user).startswith("warning 0 synchronous, 1 asynchronous: a failover")


def test_a_synchronous_standby_is_well_and_one_that_is_missing_is_not(pair: Pair) -> None:
    try:
        pair.primary.configure(synchronous_standby_names="*")
        until(lambda: standbys_of(pair) == "ok 1 synchronous, 0 asynchronous")
        with serving(**settings_of(pair)) as program:
            until(lambda: are_counted(program, 1, 0))
            assert not log_warns(program)
        not_told = standbys_of(pair, "plain")
        pair.primary.configure(synchronous_standby_names="another")
        until(lambda: standbys_of(pair).startswith("error 0 synchronous, 1 asynchronous: "))
    finally:
        pair.primary.execute("ALTER SYSTEM RESET synchronous_standby_names")
        pair.primary.execute("SELECT pg_reload_conf()")

    assert not_told.startswith("warning the server doesn't tell: grant")


def test_a_service_that_may_not_see_the_standbys_has_no_such_metric(pair: Pair) -> None:
    try:
        pair.primary.configure(synchronous_standby_names="*")
        until(lambda: standbys_of(pair).startswith("ok "))
        with serving(**settings_of(pair, "plain")) as program:
            metrics = metrics_of(program)
    finally:
        pair.primary.execute("ALTER SYSTEM RESET synchronous_standby_names")
        pair.primary.execute("SELECT pg_reload_conf()")

    assert "# TYPE dlr_synchronous_standbys gauge" in metrics
    assert "\ndlr_synchronous_standbys " not in metrics


def test_a_standby_in_place_of_the_primary_is_an_error(pair: Pair) -> None:
    url = pair.url("dlr").update_query_dict({"host": str(pair.standby.folder)})

    ended = run("doctor", **settings_for(url))

    assert ended.code == 1
    assert any(line.startswith("error    primary ") for line in ended.stdout.splitlines())


@pytest.mark.parametrize("spool", ["on", "off"])
def test_a_commit_that_waits_for_a_standby_is_an_outage_from_the_first_one_on(
    seed: int, pair: Pair, spool: str
) -> None:
    ledger, first = Ledger(seed), f"first-{spool}"
    try:
        pair.primary.configure(synchronous_standby_names="*")
        until(lambda: bool(pair.primary.execute(IN_STEP)))
        with serving(**settings_for(pair.url("dlr"), DLR_SPOOL=spool)) as program:
            assert call_back(program, "before") == 200
            pair.standby.crash()
            began_at = time.monotonic()
            answers = [call_back(program, first)]
            took_s = time.monotonic() - began_at
            # Once the first one has hung, no other is kept waiting.
            with under_load(ledger, program, 300):
                until(ledger.has_answers(1500), 15)
                looked_up = program.http.get("/v1/messages/before", headers=AUTHORIZED)
                was_ready = is_ready(program)
                ((hanging,),) = pair.primary.execute(HANGING)
            answers += ledger.answers
            pair.standby.start()
            until(lambda: is_ready(program) and spool_is_empty(program), 20)
            until(partial(is_found, program, first))
    finally:
        pair.primary.execute("ALTER SYSTEM RESET synchronous_standby_names")
        pair.primary.execute("SELECT pg_reload_conf()")

    assert set(answers) == {200 if spool == "on" else 503}, f"seed {seed}: {answers}"
    assert took_s < NOTICED_WITHIN_S
    assert looked_up.status_code == 503
    assert not was_ready
    assert 1 <= hanging <= MOST_HANGING
    ledger.check(pair.url("dlr"))
