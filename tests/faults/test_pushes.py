"""The short show of pushing; `python -m tests.faults.pushes` runs the long one."""

from pathlib import Path

from sqlalchemy import URL

from tests.faults.pushes import Show, perform


def test_the_last_state_of_every_delivery_is_pushed_through_kills(
    database_url: URL, tmp_path: Path, seed: int
) -> None:
    # SQLite is for one process.
    replicas = 1 if database_url.get_backend_name() == "sqlite" else 2
    shares = "fails=0.1,hangs-up=0.05"
    show = Show(seed, 200, 100, 2, replicas, addresses=2, max_items=50, shares=shares)

    print(perform(show, database_url, tmp_path))
