"""Pushes through kills of replicas, to a receiver that fails, hangs, and is away for a while.

As a program it runs the long show on three replicas and PostgreSQL, and on SQLite with restarts.
"""

import argparse
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any, Final

from sqlalchemy import URL

from tests.databases import migrate
from tests.faults.doors import Door, opened
from tests.faults.programs import Replica
from tests.postgres import StoppableServer, new_database
from tests.process import client_of, end_of, free_port
from tests.service import ADMIN_KEY, TOKEN
from tests.simulator import simulating
from tests.simulator.simulating import Receiver, receiver

AUTHORIZED: Final = {"Authorization": f"Bearer {ADMIN_KEY}"}
MAX_DOWN_S: Final = 0.5
SETTLED_WITHIN_S: Final = 1800
TRAFFIC_WITHIN_S: Final = 3600

Progress = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Show:
    """The size of a show, and its faults."""

    seed: int
    messages: int
    reports_a_second: float
    kills: int
    replicas: int
    addresses: int = 3
    max_items: int = 1000  # of the first address; the others have fewer, and so are behind it
    pause_s: float = 0  # longer than a lease: each fifth victim hangs before its kill
    shares: str = "fails=0.3,hangs=0.01,hangs-up=0.02,redirects=0.02,long=0.02"
    away: str | None = None  # FROM-TO: the receiver's seconds without an open port

    def traffic(self) -> list[str]:
        options = {
            "--seed": self.seed,
            "--messages": self.messages,
            "--rate": self.reports_a_second,
            "--delay-s": 1,
            "--late-s": 5,
        }
        return [str(word) for option in options.items() for word in option]


@dataclass(slots=True)
class Stage:
    """The parts of a running show."""

    show: Show
    replicas: list[Replica]
    front: Door
    receiver: Receiver
    begin: str  # the end of the feed before the first report

    def play(self, on_progress: Progress) -> None:
        """Kill replicas, one after the other, while reports come; then go on to their end."""
        rand = random.Random(self.show.seed)
        callback = f"http://127.0.0.1:{self.front.port}/callback/paasoo/{TOKEN}"
        options = ("--callback", callback, "--ledger", "traffic.jsonl", *self.show.traffic())
        lasts_s = self.show.messages / self.show.reports_a_second
        victims = itertools.cycle(self.replicas)
        with simulating.started(*options) as (traffic, output):
            for number in range(self.show.kills):
                time.sleep(
                    rand.uniform(0, 2 * lasts_s / max(self.show.kills, 1))
                )  # a random moment
                victim = next(victims)
                if self.show.pause_s and number % 5 == 4:
                    victim.pause(self.show.pause_s)
                victim.kill()
                on_progress(f"kill {number + 1}")
                time.sleep(rand.uniform(0, MAX_DOWN_S))  # the outage itself
                victim.start()
            traffic.wait(TRAFFIC_WITHIN_S)
            on_progress(end_of(traffic, *output, 1).stdout.splitlines()[-1])

    def conclude(self) -> str:
        """Let the receiver compare itself with the service. Returns its words."""
        self.receiver.process.send_signal(SIGTERM)
        ended = self.receiver.ended(SETTLED_WITHIN_S + 60)
        assert ended.code == 0, f"seed {self.show.seed}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def feed(self) -> list[tuple[str, str]]:
        """The deliveries that changed since the beginning, in the order of their last changes."""
        found: list[tuple[str, str]] = []
        parameters = {"limit": "1000", "cursor": self.begin}
        with client_of(self.front.port) as http:
            while True:
                answer = http.get("/v1/changes", params=parameters, headers=AUTHORIZED)
                assert answer.status_code == 200, answer.text
                page = answer.json()
                if not page["items"]:
                    return found
                found += [(item["messageid"], item["to"]) for item in page["items"]]
                parameters["cursor"] = page["next_cursor"]


def out_of_order(pushed: list[Any], feed: list[tuple[str, str]]) -> list[str]:
    """The deliveries whose last form was taken after that of one which changed later.

    A push that comes again, as its answer was lost, has what was taken before: only the first time
    counts.
    """
    place = {key: number for number, key in enumerate(feed)}
    taken = [it for it in pushed if it["answer"] is not None and 200 <= it["answer"] < 300]
    last: dict[tuple[str, tuple[str, str]], Any] = {}
    for push in taken:
        for item in push["items"]:
            last[push["path"], (item["messageid"], item["to"])] = status_of(item)
    wrong, latest, seen = [], dict[str, int](), set[tuple[str, tuple[str, str]]]()
    for push in taken:
        for item in push["items"]:
            key = (item["messageid"], item["to"])
            if (push["path"], key) in seen or last[push["path"], key] != status_of(item):
                continue
            seen.add((push["path"], key))
            if place[key] < latest.get(push["path"], -1):
                wrong.append(f"{push['path']}: {key[0]} in {push['id']}")
            latest[push["path"]] = max(place[key], latest.get(push["path"], -1))
    return wrong


def status_of(item: Any) -> Any:
    """What moves a delivery in the feed."""
    names = ("state", "reason", "status", "statuscode", "errcode", "network", "conflicting")
    return [item[name] for name in names]


@contextmanager
def staged(show: Show, url: URL, folder: Path) -> Iterator[Stage]:
    with ExitStack() as opening:
        replicas = [Replica(url, folder) for _ in range(show.replicas)]
        for replica in replicas:
            opening.callback(replica.kill)
            replica.start()
        front = opening.enter_context(opened([replica.port for replica in replicas]))
        port = free_port()
        with client_of(front.port) as http:
            secrets = [add_address(http, port, place, show) for place in range(show.addresses)]
            feed = http.get("/v1/changes?cursor=now", headers=AUTHORIZED).json()
        options = [
            *("--receive-share", show.shares, "--seed", str(show.seed)),
            *(["--receive-away", show.away] if show.away else []),
            *("--check", "--api", f"http://127.0.0.1:{front.port}", "--key", ADMIN_KEY),
            *("--settle-s", str(SETTLED_WITHIN_S)),
        ]
        running = receiver(*options, port=port, DLR_SIMULATOR_RECEIVE_SECRET=" ".join(secrets))
        yield Stage(show, replicas, front, opening.enter_context(running), feed["next_cursor"])


def add_address(http: Any, port: int, place: int, show: Show) -> str:
    """Add an address of the receiver, and return its secret."""
    max_items = show.max_items * 3 // (3 + place)
    body = {"url": f"http://127.0.0.1:{port}/{place}", "max_items": max_items}
    answer = http.post("/v1/webhooks", json=body, headers=AUTHORIZED)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


def perform(show: Show, url: URL, folder: Path, on_progress: Progress = lambda _: None) -> str:
    """Run a show on a migrated database. Returns its summary; raises `AssertionError`."""
    with staged(show, url, folder) as stage:
        stage.play(on_progress)
        began = time.monotonic()
        words = stage.conclude()
        settled_s = time.monotonic() - began
        feed = stage.feed()
        pushed = stage.receiver.events("pushed")
    wrong = out_of_order(pushed, feed)
    assert not wrong, f"seed {show.seed}: {len(wrong)} out of order: {wrong[:3]}"
    items = sum(len(push["items"]) for push in pushed)
    assert items >= show.addresses * len(feed) > 0
    return (
        f"{show.messages} messages, {len(feed)} deliveries changed, {show.replicas} replicas,"
        f" {show.kills} kills, {show.addresses} addresses: {len(pushed)} pushes of {items} items,"
        f" each verified, none out of order; all as the service shows it {settled_s:.0f} s after"
        f" the last report. The receiver:\n{words.strip()}"
    )


def main() -> None:
    """Run the long shows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--rate", type=float, default=100, help="messages a second")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_000)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    for figures in show_on_both(options.seed, options.messages, options.rate, options.kills):
        print(figures, flush=True)


def show_on_both(
    seed: int, messages: int = 30_000, a_second: float = 100, kills: int = 50
) -> Iterator[str]:
    """Run the show on a PostgreSQL of its own, and on SQLite."""
    away = "60-120"
    with (
        tempfile.TemporaryDirectory(prefix="dlr-pushes-") as folder,
        chdir(folder),
        StoppableServer.started() as server,
        new_database(server.url) as url,
    ):
        migrate(url)
        show = Show(seed, messages, a_second, kills, replicas=3, away=away, pause_s=8)
        yield perform(show, url, Path(folder))
    with tempfile.TemporaryDirectory(prefix="dlr-pushes-") as folder, chdir(folder):
        url = URL.create("sqlite", database=str(Path(folder, "dlr.db")))
        migrate(url)
        show = Show(seed, messages // 3, a_second, kills // 3, replicas=1, away=away)
        yield perform(show, url, Path(folder))


if __name__ == "__main__":
    main()
