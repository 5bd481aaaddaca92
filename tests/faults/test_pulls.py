"""The short show of asking for reports; `python -m tests.faults.pulls` runs the long one."""

from pathlib import Path

from sqlalchemy import URL

from simulator.traffic import Delays
from tests.faults.pulls import Show, perform


def test_asking_finds_what_was_never_called_back_through_kills_and_an_outage(
    database_url: URL, tmp_path: Path, seed: int
) -> None:
    # SQLite is for one process.
    replicas = 1 if database_url.get_backend_name() == "sqlite" else 2
    show = Show(seed, 200, 150, 3, 1.0, replicas, after_s=0.6, delays=Delays(0.2, 1))

    print(perform(show, database_url, tmp_path))
