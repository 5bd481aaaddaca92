"""Two replicas get reports of the same messages in opposite orders, for minutes: no deadlock."""

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import psycopg
from rich.progress import Progress
from sqlalchemy import URL

from benchmarks import contenders, load
from benchmarks.measure import LostReportsError
from benchmarks.options import parser_of, positive, some_minutes
from benchmarks.page import Table
from benchmarks.stage import Stage, set_up

# Each, to one replica; so large are the batches then, all of them over the same few rows.
CONNECTIONS: Final = 256
ORDERS: Final = ("ascending", "descending")


@dataclass(frozen=True, slots=True)
class Found:
    """The counts afterwards."""

    minutes: float
    keys: int
    acknowledged: int
    unanswered: int  # under way when the load ended
    recorded: int  # the sum of `times_received`
    statuses: int
    reports_a_commit: float
    deadlocks: int

    def table(self) -> Table:
        rows = [
            ("reports acknowledged", f"{self.acknowledged:,}"),
            ("reports recorded", f"{self.recorded:,}"),
            ("reports a commit", f"{self.reports_a_commit:.0f}"),
            ("deadlocks, by PostgreSQL's count", f"{self.deadlocks}"),
        ]
        title = f"Reports of the same {self.keys} messages in opposite orders to two replicas"
        return Table(f"{title}, {self.minutes:g} minutes", ("what", "count"), rows)


def run(stage: Stage, minutes: float, keys: int) -> Found:
    """Run the load and count. Raises `LostReportsError` if an acknowledged report is lost."""
    seconds = round(minutes * 60)
    with contenders.new_database_of("postgresql", stage) as database:
        with ExitStack() as opened:
            running = contenders.replicas(opened, database, len(ORDERS), stage)
            started = [
                load.start_wrk(load.repeated_reports(keys, order), each.port, CONNECTIONS, seconds)
                for order, each in zip(ORDERS, running, strict=True)
            ]
            with Progress() as progress:
                task = progress.add_task("", total=seconds)
                while any(wrk.poll() is None for wrk in started):
                    deadlocks = _count(database, DEADLOCKS)
                    what = f"opposite orders; deadlocks so far: {deadlocks}"
                    progress.update(task, advance=1, description=what)
                    time.sleep(1)
            outcomes = [load.outcome_of(wrk) for wrk in started]
            commits = sum(each.metric("dlr_commit_seconds_count") for each in running)
        # Count after the replicas have ended: only then are their connections' counts complete.
        found = Found(
            minutes=minutes,
            keys=keys,
            acknowledged=sum(outcome.acknowledged for outcome in outcomes),
            unanswered=sum(outcome.unanswered for outcome in outcomes),
            recorded=_count(database, "SELECT sum(times_received) FROM reports"),
            statuses=_count(database, "SELECT count(*) FROM deliveries"),
            reports_a_commit=sum(outcome.acknowledged for outcome in outcomes) / commits,
            deadlocks=_count(database, DEADLOCKS),
        )
    _check(found)
    return found


DEADLOCKS: Final = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def _check(found: Found) -> None:
    """Check the sum of the counts, as a repeat only raises a count.

    It must be at least the number of acknowledged reports. It may be higher by the unanswered ones,
    and by batches that were tried again, which is no loss.
    """
    if found.recorded < found.acknowledged:
        raise LostReportsError(
            f"{found.acknowledged} acknowledged, and only {found.recorded} recorded"
        )
    if found.statuses != found.keys:
        raise LostReportsError(f"{found.statuses} deliveries of {found.keys} messages")


def _count(database: URL, query: str) -> int:
    address = database.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row
    return int(row[0])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=some_minutes, default=10, help="of opposite orders")
    parser.add_argument("--keys", type=positive, default=300, help="messages, for opposite orders")


def main() -> None:
    """Print the counts; exit code 1 on a deadlock or a lost report."""
    parser = parser_of("benchmarks.opposite_orders", main.__doc__)
    add_options(parser)
    options = parser.parse_args()
    with set_up(servers=2) as stage:
        try:
            found = run(stage, options.minutes, options.keys)
        except LostReportsError as error:
            sys.exit(f"FAILED: {error}")
    found.table().show()
    if found.deadlocks:
        sys.exit(1)


if __name__ == "__main__":
    main()
