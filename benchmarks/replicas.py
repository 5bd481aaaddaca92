"""`make bench-replicas`: two replicas against one."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import Final

from rich.progress import Progress

from benchmarks import contenders, load, measure
from benchmarks.contenders import Running
from benchmarks.measure import LostReportsError, Run
from benchmarks.options import add_measuring, parser_of
from benchmarks.page import Table, publish
from benchmarks.stage import Stage, set_up

CONNECTIONS: Final = 64  # to all replicas together
ONE, TWO = "one replica", "two replicas"


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of all replicas together in one round."""

    per_s: float
    p99_ms: float  # of the slower half of the load


def measure_once(stage: Stage, replicas: int, runs: Iterator[int], seconds: int) -> Figures:
    """Measure replicas, each on a core of its own, under the load of two wrk over all ports."""
    with contenders.new_database_of("postgresql", stage) as database:
        with ExitStack() as opened:
            running = contenders.replicas(opened, database, replicas, stage)
            _loaded(running, runs, measure.WARM_UP_S)
            measured = _loaded(running, runs, seconds)
        measure.require_all_taken(measured)
        measure.missing_of(measured, database, measure.OUR_IDS, CONNECTIONS // 2)
    outcomes = [run.outcome for run in measured]
    return Figures(sum(o.per_s for o in outcomes), max(o.p99_ms for o in outcomes))


def _loaded(running: Sequence[Running], runs: Iterator[int], seconds: int) -> list[Run]:
    addresses = (running[0].address, running[-1].address)
    loads = [load.new_reports(next(runs)) for _ in addresses]
    started = [
        load.start_wrk(reports, address, CONNECTIONS // 2, seconds)
        for reports, address in zip(loads, addresses, strict=True)
    ]
    outcomes = map(load.outcome_of, started)
    return [Run(reports, outcome) for reports, outcome in zip(loads, outcomes, strict=True)]


def compare(stage: Stage, rounds: int, seconds: int) -> Table:
    runs = count(1)
    figures: dict[str, list[Figures]] = {ONE: [], TWO: []}
    with Progress() as progress:
        task = progress.add_task("two replicas against one", total=2 * rounds)
        for _ in range(rounds):
            for replicas, name in enumerate(figures, start=1):
                figures[name].append(measure_once(stage, replicas, runs, seconds))
                progress.advance(task)
    ratio = median(
        two.per_s / one.per_s for one, two in zip(figures[ONE], figures[TWO], strict=True)
    )
    rows = [
        (
            name,
            f"{median(each.per_s for each in measured):,.0f}",
            f"{median(each.p99_ms for each in measured):.2f}",
            "1.00 ×" if name == ONE else f"{ratio:.2f} ×",
        )
        for name, measured in figures.items()
    ]
    title = f"{CONNECTIONS} connections, medians of {rounds} interleaved rounds"
    return Table(title, ("what", "reports/s", "p99 ms", "to one"), rows)


def main() -> None:
    """Measure, print, write to the page; exit code 1 on a lost report."""
    parser = parser_of("benchmarks.replicas", main.__doc__)
    add_measuring(parser, seconds=6)
    options = parser.parse_args()
    with set_up(servers=2) as stage:
        try:
            table = compare(stage, options.rounds, options.seconds)
        except LostReportsError as error:
            sys.exit(f"FAILED: {error}")
        facts = [
            *stage.describe(),
            f"{options.rounds} rounds, {options.seconds} s of load a figure",
        ]
        publish(options, "measured: replicas", facts, [table])


if __name__ == "__main__":
    main()
