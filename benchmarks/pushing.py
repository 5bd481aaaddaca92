"""`make bench-pushing`: reports a second beside pushes, and how late the pushes are."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from threading import Thread
from typing import Any, Final

from rich.progress import Progress

from benchmarks import contenders, load, measure
from benchmarks.contenders import TOKEN, Running
from benchmarks.measure import LostReportsError
from benchmarks.options import add_measuring, parser_of
from benchmarks.page import Table, publish
from benchmarks.stage import Stage, set_up
from tests.process import free_port, until

CONNECTIONS: Final = 64
ADDRESSES: Final = (0, 20)
DATABASES: Final = ("sqlite", "postgresql")
STEADY_A_SECOND: Final = 1000
CAUGHT_UP_WITHIN_S: Final = 300


@dataclass(frozen=True, slots=True)
class Figures:
    """Callbacks under full load, beside pushes to so many addresses."""

    per_s: float
    p99_ms: float
    cpu_us: float
    caught_up_s: float  # from the end of the load until every address had all changes


@dataclass
class Taking:
    """A receiver that runs, and what it took in the end."""

    port: int
    pushes: list[list[float]]


@contextmanager
def taking() -> Iterator[Taking]:
    port = free_port()
    script = str(Path(__file__).with_name("taker.py"))
    process = subprocess.Popen([sys.executable, script, str(port)], stdout=subprocess.PIPE)
    taken = Taking(port, [])
    try:
        yield taken
    finally:
        process.terminate()
        output, _ = process.communicate()
        taken.pushes += json.loads(output)


def add_addresses(running: Running, taken: Taking, number: int) -> None:
    with running.client() as client:
        for place in range(number):
            body = {"url": f"http://127.0.0.1:{taken.port}/{place}"}
            assert client.post("/v1/webhooks", json=body).status_code == 201


def caught_up(running: Running) -> bool:
    """True once every address is at the end of the feed."""
    with running.client() as client:
        end = client.get("/v1/changes?cursor=now").json()["next_cursor"]
        cursors = [it["cursor"] for it in client.get("/v1/webhooks").json()["items"]]
    return all(cursor == end for cursor in cursors)


def full_load(
    stage: Stage, kind: str, addresses: int, runs: Iterator[int], seconds: int
) -> Figures:
    with contenders.new_database_of(kind, stage) as database:
        with contenders.ours(database, stage.server_cores) as running, taking() as taken:
            add_addresses(running, taken, addresses)
            loads = (load.new_reports(next(runs)), load.new_reports(next(runs)))
            figures, measured = measure.under_load(running, loads, CONNECTIONS, seconds)
            began = time.monotonic()
            until(lambda: caught_up(running), CAUGHT_UP_WITHIN_S)
            caught_up_s = time.monotonic() - began
        measure.require_all_taken(measured)
        measure.missing_of(measured, database, measure.OUR_IDS, CONNECTIONS)
    sent = sum(run.outcome.acknowledged for run in measured)
    items = sum(items for items, _ in taken.pushes)
    if items < addresses * sent:
        raise LostReportsError(f"{items} items were pushed, not {addresses} x {sent}")
    assert figures.cpu_us is not None
    return Figures(figures.per_s, figures.p99_ms, figures.cpu_us, caught_up_s)


def steady_lag(stage: Stage, kind: str, addresses: int, seconds: int) -> tuple[list[float], float]:
    """The ages of what was pushed, at 1,000 changes a second, and the share of a core used."""
    with (
        contenders.new_database_of(kind, stage) as database,
        contenders.ours(database, stage.server_cores) as running,
        taking() as taken,
    ):
        add_addresses(running, taken, addresses)
        cpu_s = running.cpu_s()
        _call_back_steadily(running, seconds)
        cpu_s = running.cpu_s() - cpu_s
        until(lambda: caught_up(running), CAUGHT_UP_WITHIN_S)
    return [age for _, age in taken.pushes], cpu_s / seconds


def _call_back_steadily(running: Running, seconds: int) -> None:
    """A thousand reports a second, over ten connections."""

    def call(first: int) -> None:
        with running.client() as client:
            for turn in range(seconds * STEADY_A_SECOND // 10):
                due = began + turn * 10 / STEADY_A_SECOND
                time.sleep(max(0.0, due - time.monotonic()))
                query = f"type=dlr&messageid=s{first}-{turn}&to=6588888888&status=0"
                assert client.get(f"/callback/paasoo/{TOKEN}?{query}").status_code == 200

    began = time.monotonic()
    threads = [Thread(target=call, args=(first,)) for first in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def compare(stage: Stage, rounds: int, seconds: int) -> list[Table]:
    runs = count(1)
    rows: list[tuple[str, ...]] = []
    lags: list[tuple[str, ...]] = []
    with Progress() as progress:
        task = progress.add_task("pushing", total=len(DATABASES) * (2 * rounds + 2))
        for kind in DATABASES:
            found: dict[int, list[Figures]] = {number: [] for number in ADDRESSES}
            for _ in range(rounds):
                for number in ADDRESSES:
                    found[number].append(full_load(stage, kind, number, runs, seconds))
                    progress.advance(task)
            rows += [_row(kind, number, found) for number in ADDRESSES]
            for number in ADDRESSES:
                lags.append(_lag_row(kind, number, *steady_lag(stage, kind, number, 2 * seconds)))
                progress.advance(task)
    title = f"{CONNECTIONS} connections, as fast as it can; medians of {rounds} interleaved rounds"
    columns = ("database, addresses", "reports/s", "to none", "p99 ms", "CPU µs", "caught up s")
    lag_title = f"{STEADY_A_SECOND:,} changes a second"
    lag_columns = ("database, addresses", "lag p50 ms", "lag p99 ms", "CPU of a core")
    return [Table(title, columns, rows), Table(lag_title, lag_columns, lags)]


def _row(kind: str, number: int, found: dict[int, list[Figures]]) -> tuple[str, ...]:
    pairs = zip(found[number], found[0], strict=True)
    ratio = median(one.per_s / none.per_s for one, none in pairs)

    def middle(name: str) -> float:
        return float(median(getattr(each, name) for each in found[number]))

    return (
        f"{kind}, {number}",
        f"{middle('per_s'):,.0f}",
        f"{ratio:.2f} ×",
        f"{middle('p99_ms'):.1f}",
        f"{middle('cpu_us'):.0f}",
        f"{middle('caught_up_s'):.1f}",
    )


def _lag_row(kind: str, number: int, ages: list[float], cores: float) -> tuple[str, ...]:
    percentiles: list[Any] = quantiles(ages, n=100) if len(ages) > 1 else []
    shown = [f"{percentiles[place] * 1000:.0f}" if percentiles else "–" for place in (49, 98)]
    return (f"{kind}, {number}", *shown, f"{cores:.0%}")


def main() -> None:
    """Measure, print, write to the page; exit code 1 on a lost report."""
    parser = parser_of("benchmarks.pushing", main.__doc__)
    add_measuring(parser, seconds=5)
    options = parser.parse_args()
    with set_up() as stage:
        try:
            tables = compare(stage, options.rounds, options.seconds)
        except LostReportsError as error:
            sys.exit(f"FAILED: {error}")
        facts = [*stage.describe(), "20 addresses of one receiver, on the load's core"]
        publish(options, "measured: pushing", facts, tables)


if __name__ == "__main__":
    main()
