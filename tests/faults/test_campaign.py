"""The short campaign; `make faults` runs the long one."""

from pathlib import Path

import pytest
from sqlalchemy import URL

from app.store import schema
from app.store.engine import open_database
from tests.faults.campaign import PLANS, Campaign
from tests.postgres import StoppableServer, new_database
from tests.process import run, run_module

KILLS = 20
REPORTS = 5_000
# Enough for a drain of several batches; more would only cost time, in the check too.
REPORTS_A_SECOND = 1_500


@pytest.mark.timeout(240)
def test_kills_at_any_moment_lose_nothing_on_sqlite(seed: int, tmp_path: Path) -> None:
    campaign = Campaign(seed, URL.create("sqlite", database=str(tmp_path / "dlr.db")), tmp_path)

    campaign.run(KILLS, REPORTS)

    assert campaign.kills.total() == KILLS
    assert campaign.kills.keys() >= set(PLANS["sqlite"])


@pytest.mark.timeout(240)
def test_kills_at_any_moment_lose_nothing_on_postgresql(
    seed: int, tmp_path: Path, server: StoppableServer
) -> None:
    with new_database(server.url) as url:
        campaign = Campaign(seed, url, tmp_path, server, REPORTS_A_SECOND)

        campaign.run(KILLS, REPORTS)

    assert campaign.kills.total() == KILLS
    assert campaign.kills.keys() >= set(PLANS["postgresql"])


def test_a_kill_during_the_migration_leaves_what_a_second_run_completes(
    empty_database_url: URL,
) -> None:
    address = empty_database_url.render_as_string(hide_password=False)
    doomed = ("during a migration", "1", "migrate")

    killed = run_module("tests.faults.doomed", *doomed, DLR_DATABASE_URL=address)
    again = run("migrate", DLR_DATABASE_URL=address)

    assert killed.code == -9, killed.stderr
    assert again.code == 0, again.stderr
    database = open_database(empty_database_url)
    with database.read.connect() as connection:
        assert schema.mismatch(connection) is None
    database.close()
