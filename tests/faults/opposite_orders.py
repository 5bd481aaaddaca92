"""Two replicas get reports of the same messages in opposite orders, for minutes: no deadlock."""

import re
import time
from collections.abc import Callable
from itertools import cycle
from typing import Final

import psycopg
from sqlalchemy import URL

from tests.faults.ledger import VARIANTS, Ledger, Load
from tests.faults.programs import metrics_of, port_of, settings_for
from tests.postgres import new_database, running_server
from tests.process import Serving, run, serving
from tests.recount import HISTORY

# So few that every batch of both replicas has the same rows.
REPORTS: Final = 300 * len(VARIANTS)
# To each replica: so large are the batches then.
CONNECTIONS: Final = 128
RECORDED: Final = f"SELECT sum(times_received) FROM {HISTORY}"
DEADLOCKS: Final = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def alternate(seed: int, seconds: float, on_progress: Callable[[float], None]) -> str:
    """Run the load for so long and check it. Returns the summary, in one line.

    Raises `AssertionError` on a deadlock, a lost report or a wrong status.
    """
    ledgers = [
        Ledger(seed, cycle(range(REPORTS))),
        Ledger(seed, cycle(reversed(range(REPORTS)))),
    ]
    with running_server() as server, new_database(server) as database:
        settings = settings_for(database, DLR_LOG_LEVEL="warning")
        assert run("migrate", **settings).code == 0
        with serving(**settings) as one, serving(**settings) as other:
            loads = [
                Load(ledger, [port_of(replica)], CONNECTIONS)
                for ledger, replica in zip(ledgers, (one, other), strict=True)
            ]
            for load in loads:
                load.start()
            began = time.monotonic()
            while (elapsed := time.monotonic() - began) < seconds:
                on_progress(elapsed)
                time.sleep(0.5)
            for load in loads:
                load.stop()
            commits = _commits(one) + _commits(other)
        # Count after the replicas have ended: only then are their connections' counts complete.
        deadlocks, recorded = _count(database, DEADLOCKS), _count(database, RECORDED)
        for ledger in ledgers:
            ledger.check(database)
    acknowledged = sum(ledger.answers[200] for ledger in ledgers)
    assert deadlocks == 0, f"seed {seed}: {deadlocks} deadlocks"
    assert recorded >= acknowledged, f"seed {seed}: {acknowledged} acknowledged, {recorded} kept"
    return (
        f"opposite orders: {acknowledged} reports acknowledged in {seconds:.0f} s, {recorded} "
        f"recorded, {acknowledged / commits:.0f} a commit, deadlocks 0"
    )


def _commits(replica: Serving) -> float:
    found = re.search(r"^dlr_commit_seconds_count (\S+)$", metrics_of(replica), re.MULTILINE)
    assert found
    return float(found[1])


def _count(database: URL, query: str) -> int:
    address = database.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row
    return int(row[0])
