"""The times of callbacks while other messages are asked about, and while none is."""

import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import URL

from simulator.options import parse_shares
from simulator.traffic import Delays, Mix, invent
from tests.databases import migrate
from tests.faults.programs import Replica, asking_at
from tests.faults.registrar import Registrar
from tests.postgres import new_database
from tests.process import STARTER, free_port
from tests.service import TOKEN
from tests.simulator.simulating import only, send_api

CALLBACKS_A_SECOND: Final = 200
LASTING_S: Final = 15.0
# Without asking, the default, and more than one replica gets round to.
PULLS_A_SECOND: Final = (0, 10, 200)
ASKED_ABOUT: Final = 700


@dataclass(slots=True)
class Measured:
    """Seconds that callbacks took, questions meanwhile, and the service's CPU seconds."""

    times: list[float] = field(default_factory=list)
    questions: int = 0
    cpu_s: float = 0

    def __str__(self) -> str:
        cuts = statistics.quantiles(self.times, n=100)
        told = ", ".join(f"p{at} {1000 * cuts[at - 1]:.1f} ms" for at in (50, 95, 99))
        return (
            f"{told}, longest {1000 * max(self.times):.1f} ms of {len(self.times)} callbacks;"
            f" {self.questions} questions; {self.cpu_s:.1f} s of CPU"
        )


def compare(server: URL, folder: Path, seed: int, rounds: int = 2) -> str:
    """Callbacks without asking and with it, in turn, each time on a new database."""
    measured = {a_second: Measured() for a_second in PULLS_A_SECOND}
    for number in range(rounds):
        for a_second, sum_of_rounds in measured.items():
            with new_database(server) as url:
                migrate(url)
                _measure(url, folder, seed + 10 * number, a_second, sum_of_rounds)
    load = f"{CALLBACKS_A_SECOND} callbacks a second, {rounds} times {LASTING_S:g} s:"
    told = [(_name(a_second), figures) for a_second, figures in measured.items()]
    return "\n    ".join([load, *(f"{name}: {figures}" for name, figures in told)])


def _name(a_second: int) -> str:
    return f"{a_second} questions a second at most" if a_second else "without asking"


def _measure(url: URL, folder: Path, seed: int, a_second: int, into: Measured) -> None:
    """Measure one round, and add it. The messages to ask about were registered before."""
    silent = only("never-called-back")
    delays = Delays(usual_s=0.1, late_s=0.1)
    mix = Mix(seed, parse_shares([share for share in silent if share != "--share"]), delays)
    messages = [invent(mix, number) for number in range(1, ASKED_ABOUT + 1)]
    given = {"--seed": seed, "--messages": len(messages), "--delay-s": 0.1, "--late-s": 0.1}
    options = [str(word) for option in given.items() for word in option]
    port = free_port()
    callback = f"http://127.0.0.1:{free_port()}/"
    with send_api(callback, *options, *silent, "--force", port=port) as provider:
        with _running(Replica(url, folder, **asking_at(port, None))) as replica:
            registrar = Registrar(replica.port, provider.ledger, messages)
            registrar.start()
            registrar.join()
        settings = asking_at(port, 0.1, a_second) if a_second else asking_at(port, None)
        with _running(Replica(url, folder, **settings)) as replica:
            address = f"http://127.0.0.1:{replica.port}/callback/paasoo/{TOKEN}"
            into.times += _call_back(address, seed + 1)
            into.questions += len(provider.events("asked"))
            into.cpu_s += replica.cpu_s()
    assert bool(into.questions) == bool(a_second)


@contextmanager
def _running(replica: Replica) -> Iterator[Replica]:
    replica.start()
    try:
        yield replica
    finally:
        replica.kill()


def _call_back(callback: str, seed: int) -> list[float]:
    """Call back at a steady rate, from a process of its own that nobody asks anything."""
    ledger = Path("callbacks.jsonl")
    given = {
        "--callback": callback,
        "--rate": CALLBACKS_A_SECOND,
        "--seconds": LASTING_S,
        "--seed": seed,
        "--delay-s": 0.5,
        "--ledger": ledger,
    }
    options = [str(word) for option in given.items() for word in option]
    arguments = ("simulate", *options, *only("delivered"), "--force")
    with Path("callbacks.log").open("ab") as log:
        process = STARTER.start("app.cli", arguments, {}, log, log)
        assert process.wait(LASTING_S + 60) == 0
    events = map(json.loads, ledger.read_text().splitlines())
    return [event["took_s"] for event in events if event["event"] == "report"]
