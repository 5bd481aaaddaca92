"""A campaign of kills against one database, under load, from a seed.

As a program (`make faults`) it runs a long campaign on both databases, with progress and a summary.
"""

import argparse
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2
from rich.progress import Progress
from sqlalchemy import URL

from tests.faults import failovers, opposite_orders, pulls, pushes
from tests.faults.doomed import POINTS
from tests.faults.ledger import Ledger, Load
from tests.postgres import StoppableServer, new_database
from tests.process import STARTER, Started, client_of, free_port, run
from tests.service import READ_KEY, TOKEN

RANDOM: Final = "at a random moment"
WHILE_STARTING: Final = "while starting"
WITH_POSTGRES: Final = "just after PostgreSQL crashed"
SPOOL_POINTS: Final = tuple(point for point in POINTS if "spool" in point or "drain" in point)
COMMIT_POINTS: Final = (
    "before the commit",
    "in the transaction",
    "after the commit, before the answer",
)
BETWEEN_STATEMENTS: Final = "between its two statements"
PLANS: Final = {
    "sqlite": (RANDOM, RANDOM, WHILE_STARTING, *COMMIT_POINTS),
    "postgresql": (
        *(RANDOM, RANDOM, WHILE_STARTING, WITH_POSTGRES),
        *(*COMMIT_POINTS, BETWEEN_STATEMENTS, *SPOOL_POINTS),
    ),
}
GIVE_UP_AFTER_S: Final = 30


@dataclass
class Campaign:
    """Kills one service again and again under load, and checks the ledger at the end."""

    seed: int
    database_url: URL
    folder: Path
    server: StoppableServer | None = None  # for a PostgreSQL database
    reports_a_second: float = math.inf
    kills: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.seed)
        self._random = random.Random(self.seed)
        self._port = free_port()
        self._process: Started | None = None
        self._environment = {
            "PATH": "/usr/bin:/bin",
            "DLR_DATABASE_URL": self.database_url.render_as_string(hide_password=False),
            "DLR_DATA_DIR": str(self.folder),
            "DLR_CALLBACK_TOKENS": TOKEN,
            "DLR_API_KEYS": f"reader:read:{READ_KEY}",
            "DLR_DRAIN_SECONDS": "0",
            "DLR_LOG_LEVEL": "warning",
        }

    def run(self, kills: int, reports: int, on_progress: Callable[[], None] = lambda: None) -> None:
        """Run until so many kills and acknowledged reports are reached, then check the ledger."""
        assert run("migrate", **self._environment).code == 0
        load = Load(self.ledger, [self._port], a_second=self.reports_a_second)
        load.start()
        plan = PLANS["postgresql" if self.server else "sqlite"]
        try:
            for number in range(kills):
                # Take each kind of kill once first, so that a short campaign has all of them.
                way = plan[number] if number < len(plan) else self._random.choice(plan)
                self._kill(way)
                on_progress()
            process = self._start()
            self._wait_until(lambda: len(self.ledger.acknowledged) >= reports, process, on_progress)
            load.stop()
            self._wait_until(self._spool_is_empty, process, on_progress)
            process.terminate()
            assert process.wait(GIVE_UP_AFTER_S) == 0
        finally:
            load.stop()
            if self._process is not None:
                self._process.kill()
                self._process.wait()
        self.ledger.check(self.database_url)

    def _kill(self, way: str) -> None:
        if way in SPOOL_POINTS:
            assert self.server
            self.server.stop("immediate")
        if way in POINTS:
            # A drain takes only a few batches, each larger than the one before.
            times = str(self._random.randrange(1, 4 if "drain" in way else 12))
            process = self._start("tests.faults.doomed", way, times)
        else:
            process = self._start()
        if way != WHILE_STARTING:
            self._wait_for_answers(process)
        if self.server and way in SPOOL_POINTS:
            self.server.start()
        if way in POINTS:
            process.wait(GIVE_UP_AFTER_S)
        else:
            # A random moment for the kill, not a wait. To start takes about 0.2 s.
            time.sleep(self._random.uniform(0, 0.2 if way == WHILE_STARTING else 0.6))
            if self.server and way == WITH_POSTGRES:
                self.server.stop("immediate")
                self.server.start()
            process.kill()
        assert process.wait() == -9, f"seed {self.seed}: {way}: ended with {process.returncode}"
        self.kills[way] += 1

    def _start(self, module: str = "app.cli", *arguments: str) -> Started:
        serve = (*arguments, "serve", "--port", str(self._port))
        with (self.folder / "stderr.log").open("ab") as stderr:
            self._process = STARTER.start(module, serve, self._environment, stderr, stderr)
        return self._process

    def _wait_for_answers(self, process: Started) -> None:
        """Wait until the service takes the load, or has already died."""
        answered = self.ledger.answers.total()
        self._wait_until(
            lambda: self.ledger.answers.total() > answered or process.poll() is not None, None
        )

    def _wait_until(
        self,
        holds: Callable[[], bool],
        process: Started | None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        acknowledged, changed_at = -1, time.monotonic()
        while not holds():
            on_progress()
            if len(self.ledger.acknowledged) != acknowledged:
                acknowledged, changed_at = len(self.ledger.acknowledged), time.monotonic()
            stuck = time.monotonic() - changed_at > GIVE_UP_AFTER_S
            ended = process is not None and process.poll() is not None
            if stuck or ended:
                log = (self.folder / "stderr.log").read_text()
                raise AssertionError(f"seed {self.seed}: stuck: {log[-2000:]}")
            time.sleep(0.01)

    def _spool_is_empty(self) -> bool:
        try:
            with client_of(self._port) as http:
                authorized = {"Authorization": f"Bearer {READ_KEY}"}
                metrics = http.get("/metrics", headers=authorized).text
        except httpx2.ConnectError:  # it is still starting
            return False
        return "\ndlr_spool_waiting 0.0\n" in metrics


def main() -> None:
    """Run the campaign, half of it on each database; then the other shows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--reports", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=10, help="of opposite orders")
    parser.add_argument("--failovers", type=int, default=20, help="of each kind")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_000)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    campaigns = [run_on(kind, options) for kind in PLANS]
    kills = sum(campaign.kills.total() for campaign in campaigns)
    acknowledged = sum(len(campaign.ledger.acknowledged) for campaign in campaigns)
    with Progress() as progress:
        task = progress.add_task("opposite orders", total=options.minutes * 60)
        summary = opposite_orders.alternate(
            options.seed,
            options.minutes * 60,
            lambda elapsed: progress.update(task, completed=elapsed),
        )
    print(summary)
    for is_synchronous in (True, False):
        failovers.show(options.seed, options.failovers, is_synchronous)
    for figures in pulls.show_on_postgresql(options.seed):
        print(figures, flush=True)
    for figures in pushes.show_on_both(options.seed):
        print(figures, flush=True)
    print(f"seed {options.seed}: {kills} kills, {acknowledged} acknowledged, lost 0")


def run_on(kind: str, options: argparse.Namespace) -> Campaign:
    """Run half of the kills and of the reports on one kind of database."""
    kills, reports = options.kills // 2, options.reports // 2
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="dlr-faults-")))
        if kind == "postgresql":
            server = opened.enter_context(StoppableServer.started())
            url = opened.enter_context(new_database(server.url))
            campaign = Campaign(options.seed, url, folder, server)
        else:
            url = URL.create("sqlite", database=str(folder / "dlr.db"))
            campaign = Campaign(options.seed, url, folder)
        progress = opened.enter_context(Progress())
        killed = progress.add_task(f"{kind}: kills", total=kills)
        acknowledged = progress.add_task(f"{kind}: acknowledged", total=reports)

        def show() -> None:
            progress.update(killed, completed=campaign.kills.total())
            progress.update(acknowledged, completed=len(campaign.ledger.acknowledged))

        campaign.run(kills, reports, show)
        show()
    ledger = campaign.ledger
    print(
        f"{kind}: {campaign.kills.total()} kills, {len(ledger.acknowledged)} distinct reports "
        f"acknowledged ({ledger.answers[200]} answers 200, {ledger.answers[503]} answers 503, "
        f"{ledger.unanswered} unanswered), lost 0, every status the fold of its history"
    )
    for way, times in sorted(campaign.kills.items()):
        print(f"    {times:5} {way}")
    return campaign


if __name__ == "__main__":
    main()
