"""Reports that were never called back, or called while nobody was there, are found by asking.

As a program it runs the long show on two replicas and PostgreSQL, and compares the callbacks' times
with and without asking.
"""

import argparse
import itertools
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import log2
from pathlib import Path
from typing import Any, Final

import httpx2
from sqlalchemy import URL, func, select

from app.commands.rebuild import RULES
from app.store.engine import open_database
from app.store.history import SOURCE
from app.store.rebuild import rebuild
from simulator.options import parse_shares
from simulator.oracle import Claim, claim_of
from simulator.traffic import Delays, Delivery, Message, Mix, invent
from tests.databases import migrate
from tests.faults import callback_times
from tests.faults.doors import Door, opened
from tests.faults.programs import AUTHORIZED, Replica, asking_at
from tests.faults.registrar import Registrar
from tests.postgres import StoppableServer, new_database
from tests.process import client_of, free_port, until
from tests.service import TOKEN
from tests.simulator.simulating import SendApi, send_api

# A tenth is never called back. Left out: messages with two final reports, as a lost one of them
# isn't asked for.
SHARES: Final = ("never-called-back=10", "failed-first=0", "failed-last=0", "at-once=0")
LOOKED_UP_AT_ONCE: Final = 1000
SETTLED_WITHIN_S: Final = 900
SLOWEST_S: Final = 3600
AWAY_AT: Final = 0.3  # of the messages
MAX_DOWN_S: Final = 0.5
AFTER_S: Final = 3.0

Progress = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Show:
    """The size of a show, and its faults."""

    seed: int
    messages: int
    reports_a_second: float
    kills: int
    away_s: float  # PaaSoo's address is closed for so long
    replicas: int
    after_s: float  # `DLR_PULL_AFTER_MINUTES`, in seconds
    delays: Delays
    odd_pulls: float = 0

    @property
    def mix(self) -> Mix:
        return Mix(self.seed, parse_shares(SHARES), self.delays)

    def simulator_options(self) -> list[str]:
        options = {
            "--seed": self.seed,
            "--messages": self.messages,
            "--rate": self.reports_a_second,
            "--delay-s": self.delays.usual_s,
            "--late-s": self.delays.late_s,
            "--odd-pulls": self.odd_pulls,
        }
        words = [str(word) for option in options.items() for word in option]
        return [*words, *(word for share in SHARES for word in ("--share", share))]


def expected_of(delivery: Delivery) -> Claim | None:
    """The claim that the service must show in the end."""
    claims = [claim_of(report.meant) for report in delivery.reports]
    return max(claims, key=lambda claim: claim.rank, default=None)


def wrong_ones(http: httpx2.Client, messages: list[Message]) -> list[str]:
    """The recipients that the service shows otherwise than the simulator knows them."""
    wrong = []
    for start in range(0, len(messages), LOOKED_UP_AT_ONCE):
        some = messages[start : start + LOOKED_UP_AT_ONCE]
        ids = {"messageids": [message.message_id for message in some]}
        answer = http.post("/v1/messages/lookup", json=ids, headers=AUTHORIZED)
        assert answer.status_code == 200, answer.text
        shown = {
            (message["messageid"], delivery["to"]): delivery
            for message in answer.json()["messages"]
            for delivery in message["deliveries"]
        }
        for message in some:
            for delivery in message.deliveries:
                row = shown.get((message.message_id, delivery.recipient))
                if not _agrees(row, expected_of(delivery)):
                    told = row and {name: row[name] for name in ("state", "reason", "status")}
                    where = f"{message.message_id} ({delivery.behaviour})"
                    wrong.append(f"{where}: {told}, must be {expected_of(delivery)}")
    return wrong


def _agrees(row: Any, claim: Claim | None) -> bool:
    if row is None:
        return False
    if claim is None:
        return bool(row["state"] == "pending")
    expected = (claim.state, claim.reason, claim.status, claim.network, False)
    names = ("state", "reason", "status", "network", "conflicting")
    return tuple(row[name] for name in names) == expected


def asked_too_often(asked: list[Any], begun_at: dict[str, float], after_s: float) -> list[str]:
    """The questions that came before their time.

    Each wait is twice the one before, so question number n comes (2**n - 1) first waits after the
    message was registered, or later.
    """
    early, numbers = [], Counter[str]()
    for event in asked:
        message_id = event["messageid"]
        numbers[message_id] += 1
        age_s = datetime.fromisoformat(event["at"]).timestamp() - begun_at[message_id]
        if age_s < 0 or numbers[message_id] > log2(age_s / after_s + 1):
            early.append(f"{message_id}: question {numbers[message_id]} after {age_s:.3f} s")
    return early


@dataclass(slots=True)
class Stage:
    """The parts of a running show."""

    show: Show
    replicas: list[Replica]
    front: Door
    provider: Door
    simulator: SendApi
    registrar: Registrar
    messages: list[Message]

    def play(self, on_progress: Progress) -> None:
        """Go through all faults while the messages come."""
        rand = random.Random(self.show.seed)
        kills = [(rand.randrange(self.show.messages), "kill") for _ in range(self.show.kills)]
        victims = itertools.cycle(self.replicas)
        back = threading.Timer(self.show.away_s, self.provider.open)
        for number, act in sorted([*kills, (int(AWAY_AT * self.show.messages), "PaaSoo goes")]):
            until(partial(self._has_sent, number), SLOWEST_S)
            on_progress(f"{number} messages: {act}")
            if act != "kill":
                self.provider.close()
                back.start()
                continue
            victim = next(victims)
            victim.kill()
            time.sleep(rand.uniform(0, MAX_DOWN_S))  # the outage itself
            victim.start()
        self.registrar.join(SLOWEST_S)
        back.join()
        assert not self.registrar.is_alive(), "not every message could be registered"
        assert not self.registrar.refusals, self.registrar.refusals[:3]

    def _has_sent(self, number: int) -> bool:
        return len(self.registrar.begun_at) >= number

    def settle(self, on_progress: Progress) -> float:
        """Wait until every recipient is shown as it must be; return the seconds that it took."""
        began = time.monotonic()
        deadline = began + SETTLED_WITHIN_S
        with client_of(self.front.port) as http:
            while wrong := wrong_ones(http, self.messages):
                seed = f"seed {self.show.seed}"
                assert time.monotonic() < deadline, f"{seed}: {len(wrong)} wrong: {wrong[:3]}"
                on_progress(f"{time.monotonic() - began:.0f} s: {len(wrong)} not right yet")
                time.sleep(0.25 if len(self.messages) < LOOKED_UP_AT_ONCE else 2)
        return time.monotonic() - began


@contextmanager
def staged(show: Show, url: URL, folder: Path) -> Iterator[Stage]:
    with ExitStack() as opening:
        provider_port = free_port()
        provider = opening.enter_context(opened([provider_port]))
        settings = asking_at(provider.port, show.after_s)
        replicas = [Replica(url, folder, **settings) for _ in range(show.replicas)]
        for replica in replicas:
            opening.callback(replica.kill)
            replica.start()
        front = opening.enter_context(opened([replica.port for replica in replicas]))
        messages = [invent(show.mix, number) for number in range(1, show.messages + 1)]
        callback = f"http://127.0.0.1:{front.port}/callback/paasoo/{TOKEN}"
        simulator = opening.enter_context(
            send_api(callback, *show.simulator_options(), port=provider_port)
        )
        registrar = Registrar(front.port, simulator.ledger, messages)
        registrar.start()
        yield Stage(show, replicas, front, provider, simulator, registrar, messages)


def perform(show: Show, url: URL, folder: Path, on_progress: Progress = lambda _: None) -> str:
    """Run a show on a migrated database. Returns its summary; raises `AssertionError`."""
    with staged(show, url, folder) as stage:
        stage.play(on_progress)
        settled_s = stage.settle(on_progress)
        asked = [event for event in stage.simulator.events("asked") if event["messageid"]]
        calls = stage.simulator.events("report")
    early = asked_too_often(asked, stage.registrar.begun_at, show.after_s)
    assert not early, f"seed {show.seed}: {len(early)} questions too early: {early[:3]}"
    sources = check_history(url)
    assert sources["pull"], f"seed {show.seed}: nothing was found by asking"
    return summary_of(stage, asked, calls, sources, settled_s)


def check_history(url: URL) -> Counter[str]:
    """The reports of each source. Raises `AssertionError` if a rebuild would change anything."""
    database = open_database(url, hurried=False)
    with database.read.connect() as connection:
        by_source = select(SOURCE, func.count()).group_by(SOURCE)
        sources = Counter({row[0]: row[1] for row in connection.execute(by_source)})
    changes = [it for batch in rebuild(database, RULES, dry_run=True) for it in batch.corrections]
    database.close()
    assert not changes, f"a rebuild would change {changes[:3]}"
    return sources


def summary_of(
    stage: Stage, asked: list[Any], calls: list[Any], sources: Counter[str], settled_s: float
) -> str:
    deliveries = [delivery for message in stage.messages for delivery in message.deliveries]
    silent = sum(delivery.behaviour == "never-called-back" for delivery in deliveries)
    answers = Counter(event["answer"] for event in asked)
    lost = sum(call["answer"] is None or call["answer"] >= 500 for call in calls)
    most = max(Counter(event["messageid"] for event in asked).values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in answers.most_common())
    return (
        f"{len(stage.messages)} messages, {len(deliveries)} recipients ({silent} never called"
        f" back), {stage.show.kills} kills, PaaSoo away for {stage.show.away_s:g} s:"
        f" {len(calls)} callbacks, {lost} of them lost; {len(asked)} questions ({kinds}), at most"
        f" {most} about one message, none before its time; reports stored:"
        f" {sources['callback']} by callback, {sources['pull']} by asking; every recipient as the"
        f" simulator knows it {settled_s:.0f} s after the last message"
    )


def main() -> None:
    """Run the long show, and compare the callbacks' times with and without asking."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--away", type=float, default=60, help="seconds without PaaSoo")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_000)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    size = (options.messages, options.kills, options.away)
    tell = partial(print, flush=True)
    for figures in show_on_postgresql(options.seed, *size, on_progress=tell):
        tell(figures)


def show_on_postgresql(
    seed: int,
    messages: int = 10_000,
    kills: int = 20,
    away_s: float = 60,
    on_progress: Progress = lambda _: None,
) -> Iterator[str]:
    """Run the long show on a PostgreSQL of its own, then compare the times of callbacks."""
    delays = Delays(usual_s=1, late_s=10)
    show = Show(seed, messages, 100, kills, away_s, 2, AFTER_S, delays, odd_pulls=0.1)
    with (
        tempfile.TemporaryDirectory(prefix="dlr-pulls-") as folder,
        chdir(folder),
        StoppableServer.started() as server,
    ):
        with new_database(server.url) as url:
            migrate(url)
            yield perform(show, url, Path(folder), on_progress)
        yield callback_times.compare(server.url, Path(folder), seed)


if __name__ == "__main__":
    main()
