"""`make bench`: every contender in turn, round after round, and the medians as a table."""

import argparse
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from statistics import median
from typing import Final

from rich.progress import Progress
from sqlalchemy import URL

from benchmarks import contenders, filling, load, measure
from benchmarks.contenders import Running
from benchmarks.measure import Figures, LostReportsError, Run
from benchmarks.options import add_measuring, parser_of, positive
from benchmarks.page import Table, Target, publish, targets_table
from benchmarks.stage import Stage, set_up

BARE: Final = "bare uvicorn"
DOES_NOTHING: Final = "FastAPI endpoint that only answers"
PGBENCH: Final = "pgbench, the same insert"
PGBENCH_STRIPPED: Final = "pgbench, the same insert, keys alone"
DATABASES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
AT_ONCE: Final = (64, 16, 256, 1)
# The end of a row's name if its load opens a connection for each report, as many providers do.
A_CONNECTION_EACH: Final = ", a connection a report"
BEHIND_CADDY: Final = ", behind Caddy with TLS"
GO: Final = "Go, net/http and lib/pq, a commit each, PostgreSQL"
CPU_OF_ONE_US: Final = {"sqlite": 250, "postgresql": 200}
MAIN: Final = 64  # the number of connections of most targets


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table, and the function that measures it once."""

    name: str
    connections: int
    measure: Callable[[], Figures]

    @property
    def key(self) -> tuple[str, int]:
        return (self.name, self.connections)


Rounds = dict[tuple[str, int], list[Figures]]


def ours(kind: str) -> str:
    return f"this service, {DATABASES[kind]}"


def naive(kind: str) -> str:
    return f"FastAPI + SQLAlchemy, a commit each, {DATABASES[kind]}"


class Bench:
    """The rows of one round, each with a closure that measures it."""

    def __init__(self, stage: Stage, options: argparse.Namespace, filled: dict[str, URL]) -> None:
        self._stage = stage
        self._seconds = options.seconds
        self._messages = options.messages
        self._filled = filled
        self._go = contenders.build_go_receiver(stage.folder)
        self._run_numbers = count(1)

    def rows(self) -> Iterator[Row]:
        """The rows in the order of a round: those to compare run close together in time."""
        for connections in AT_ONCE:
            yield self._row(BARE, connections, self._baseline, "bare")
            yield self._row(DOES_NOTHING, connections, self._baseline, "only_answers")
            for kind in DATABASES:
                yield self._row(ours(kind), connections, self._ours, kind, "growing")
            if self._go is not None:
                yield self._row(GO, connections, self._in_go)
            if connections == MAIN:
                yield from self._rows_at_main_load()
        for kind in DATABASES:
            yield self._row(f"{ours(kind)}: 1,000 ids a lookup", 1, self._lookups, kind, "batches")

    def _rows_at_main_load(self) -> Iterator[Row]:
        for name, baseline in ((BARE, "bare"), (DOES_NOTHING, "only_answers")):
            row = f"{name}{A_CONNECTION_EACH}"
            yield self._row(row, MAIN, self._baseline, baseline, "closing")
        for kind in DATABASES:
            row = f"{ours(kind)}{A_CONNECTION_EACH}"
            yield self._row(row, MAIN, self._ours, kind, "growing", "closing")
        if shutil.which("caddy"):
            row = f"{ours('postgresql')}{BEHIND_CADDY}"
            yield self._row(row, MAIN, self._ours, "postgresql", "growing", "proxied")
        yield self._row(PGBENCH, MAIN, self._pgbench, "as they are")
        yield self._row(PGBENCH_STRIPPED, MAIN, self._pgbench, "stripped")
        for kind in DATABASES:
            yield self._row(naive(kind), MAIN, self._naive, kind)
            name = f"{ours(kind)}, ids without order"
            yield self._row(name, MAIN, self._ours, kind, "scattered")
            yield self._row(f"{ours(kind)}: lookup by id", MAIN, self._lookups, kind, "lookups")

    def _row(
        self, name: str, connections: int, how: Callable[..., Figures], *arguments: str
    ) -> Row:
        return Row(name, connections, lambda: how(connections, *arguments))

    def _two_loads(
        self, order: str = "growing", kind: str = "reports"
    ) -> tuple[load.Load, load.Load]:
        """One load to warm up with, and one to measure."""
        run = next(self._run_numbers)
        keep_alive = kind != "closing"
        return (
            load.new_reports(2 * run, order, keep_alive=keep_alive),
            load.new_reports(2 * run + 1, order, keep_alive=keep_alive),
        )

    def _baseline(self, connections: int, name: str, kind: str = "reports") -> Figures:
        loads = self._two_loads(kind=kind)
        with contenders.baseline(name, self._stage.server_cores) as running:
            figures, _ = measure.under_load(running, loads, connections, self._seconds)
        return figures

    def _naive(self, connections: int, kind: str) -> Figures:
        with contenders.new_database_of(kind, self._stage) as database:
            with contenders.baseline("naive", self._stage.server_cores, database) as running:
                figures, runs = self._measured(running, self._two_loads(), connections, kind)
            missing = measure.missing_of(runs, database, measure.NAIVE_IDS, connections)
        return replace(figures, missing=missing)

    def _in_go(self, connections: int) -> Figures:
        assert self._go is not None
        kind = "postgresql"
        with contenders.new_database_of(kind, self._stage) as database:
            with contenders.go_receiver(self._go, database, self._stage.server_cores) as running:
                figures, runs = self._measured(running, self._two_loads(), connections, kind)
            missing = measure.missing_of(runs, database, measure.NAIVE_IDS, connections)
        return replace(figures, missing=missing)

    def _ours(self, connections: int, kind: str, order: str, load_kind: str = "reports") -> Figures:
        loads = self._two_loads(order, load_kind)
        cores = self._stage.server_cores
        with contenders.new_database_of(kind, self._stage) as database:
            with ExitStack() as opened:
                running = opened.enter_context(contenders.ours(database, cores))
                if load_kind == "proxied":
                    running = opened.enter_context(contenders.behind_caddy(running, cores))
                figures, runs = self._measured(running, loads, connections, kind)
            missing = measure.missing_of(runs, database, measure.OUR_IDS, connections)
        return replace(figures, missing=missing)

    def _measured(
        self, running: Running, loads: tuple[load.Load, load.Load], connections: int, kind: str
    ) -> tuple[Figures, list[Run]]:
        stage = self._stage if kind == "postgresql" else None
        return measure.under_load(running, loads, connections, self._seconds, stage=stage)

    def _pgbench(self, _connections: int, tables: str) -> Figures:
        with contenders.new_database_of("postgresql", self._stage) as database:
            filling.make_tables(database)
            if tables == "stripped":
                filling.strip_tables(database)
            run = 2 * next(self._run_numbers)
            return measure.pgbench(database, run, self._seconds, self._stage.server_cores)

    def _lookups(self, connections: int, kind: str, what: str) -> Figures:
        step = filling.id_step(self._messages)
        how = load.lookups if what == "lookups" else load.batch_lookups
        asked = how(self._messages, step)
        with contenders.ours(self._filled[kind], self._stage.server_cores) as running:
            figures, _ = measure.under_load(running, (asked, asked), connections, self._seconds)
        return figures


@contextmanager
def filled_databases(stage: Stage, messages: int) -> Iterator[dict[str, URL]]:
    """A filled database of each kind, for the lookups."""
    with ExitStack() as opened, Progress() as progress:
        filled = {}
        for kind, shown in DATABASES.items():
            filled[kind] = opened.enter_context(contenders.new_database_of(kind, stage))
            task = progress.add_task(f"{shown}: {messages:,} messages to look up", total=messages)
            filling.fill(filled[kind], messages, partial(progress.advance, task))
        progress.stop()
        yield filled


def run_rounds(bench: Bench, rounds: int) -> Rounds:
    figures: Rounds = defaultdict(list)
    with Progress() as progress:
        rows = list(bench.rows())
        task = progress.add_task("", total=rounds * len(rows))
        for number in range(1, rounds + 1):
            for row in rows:
                what = f"round {number} of {rounds}: {row.name}, {row.connections} connections"
                progress.update(task, description=what)
                try:
                    figures[row.key].append(row.measure())
                except LostReportsError as error:
                    sys.exit(f"FAILED: {row.name}, {row.connections} connections: {error}")
                progress.advance(task)
    return figures


def middle(figures: list[Figures], name: str) -> float | None:
    values = [getattr(each, name) for each in figures]
    return None if None in values else median(values)


def ratio(rounds: Rounds, one: tuple[str, int], other: tuple[str, int], of: str = "per_s") -> float:
    """The median of the ratios within each round, in which the machine's drift cancels out."""
    pairs = zip(rounds[one], rounds[other], strict=True)
    return float(median(getattr(a, of) / max(getattr(b, of), 1e-9) for a, b in pairs))


def figures_table(rounds: Rounds) -> Table:
    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    rows = []
    for name, connections in sorted(rounds, key=lambda key: (key[1] != 1, key[1])):
        key = (name, connections)
        figures = rounds[key]
        is_comparable = "1,000 ids" not in name
        how = A_CONNECTION_EACH if name.endswith(A_CONNECTION_EACH) else ""
        rows.append(
            (
                name,
                f"{connections}",
                shown(middle(figures, "per_s"), ",.0f"),
                shown(middle(figures, "p50_ms"), ".2f"),
                shown(middle(figures, "p99_ms"), ".2f"),
                shown(middle(figures, "cpu_us"), ",.0f"),
                shown(middle(figures, "database_us"), ",.0f"),
                shown(middle(figures, "wal_bytes"), ",.0f"),
                shown(middle(figures, "peak_mib"), ",.0f"),
                *(
                    f"{ratio(rounds, key, (baseline + how, connections)):.2f} ×"
                    if is_comparable
                    else "–"
                    for baseline in (DOES_NOTHING, BARE)
                ),
            )
        )
    columns = (
        *("what", "connections", "requests/s", "p50 ms", "p99 ms", "CPU µs a request"),
        *("PostgreSQL's CPU µs", "its WAL bytes", "peak MiB"),
        *("to FastAPI that only answers", "to bare uvicorn"),
    )
    count = len(next(iter(rounds.values())))
    return Table(f"Medians of {count} interleaved rounds", columns, rows)


def targets(rounds: Rounds) -> Iterator[Target]:
    for kind, database in DATABASES.items():
        our = (ours(kind), MAIN)
        yield Target.at_least(
            f"{database}: reports/s, to the FastAPI endpoint (goal 2 ×)",
            1.5,
            ratio(rounds, our, (DOES_NOTHING, MAIN)),
        )
        if kind == "postgresql":
            for name in (PGBENCH, PGBENCH_STRIPPED):
                yield Target.at_least(
                    f"{database}: reports/s, to {name}", 1, ratio(rounds, our, (name, MAIN))
                )
        yield Target.at_least(
            f"{database}: reports/s, to the naive receiver",
            15,
            ratio(rounds, our, (naive(kind), MAIN)),
        )
        yield Target.at_least(
            f"{database}: reports/s{A_CONNECTION_EACH}, to the FastAPI endpoint",
            1.2,
            ratio(
                rounds,
                (f"{ours(kind)}{A_CONNECTION_EACH}", MAIN),
                (f"{DOES_NOTHING}{A_CONNECTION_EACH}", MAIN),
            ),
        )
        for baseline in (DOES_NOTHING, BARE):
            worst = max(
                ratio(rounds, (ours(kind), at_once), (baseline, at_once), "p99_ms")
                for at_once in AT_ONCE
                if at_once > 1
            )
            yield Target.at_most(
                f"{database}: p99 to that of {baseline}, worst of 16, 64 and 256 connections",
                5,
                worst,
            )
        yield from _latency_of_one(rounds, kind)
        yield Target.at_most(
            f"{database}: the server's CPU a report at one connection",
            CPU_OF_ONE_US[kind],
            middle(rounds[ours(kind), 1], "cpu_us") or 0,
            "µs",
        )
        yield Target.at_least(
            f"{database}: lookups/s, to the FastAPI endpoint",
            0.6,
            ratio(rounds, (f"{ours(kind)}: lookup by id", MAIN), (DOES_NOTHING, MAIN)),
        )
    if (GO, MAIN) in rounds:
        yield from _beside_go(rounds)
    batches = rounds[f"{ours('postgresql')}: 1,000 ids a lookup", 1]
    p99_ms = median(figures.p99_ms for figures in batches)
    yield Target.at_most("PostgreSQL: a lookup of 1,000 ids, p99", 30, p99_ms, "ms")


def _beside_go(rounds: Rounds) -> Iterator[Target]:
    for connections, limit in ((16, 1), (64, 1.5), (256, 1.5)):
        one, other = (ours("postgresql"), connections), (GO, connections)
        wanted = f"PostgreSQL: reports/s at {connections} connections, to the receiver in Go"
        yield Target.at_least(wanted, limit, ratio(rounds, one, other))
    one, other = (ours("postgresql"), MAIN), (GO, MAIN)
    wanted = f"PostgreSQL: p99 at {MAIN} connections, to the receiver in Go"
    yield Target.at_most(wanted, 1, ratio(rounds, one, other, "p99_ms"))


def _latency_of_one(rounds: Rounds, kind: str) -> Iterator[Target]:
    """A single report may take one commit longer than the baseline's answer."""
    commit_ms = middle(rounds[ours(kind), 1], "commit_ms") or 0
    for baseline in (DOES_NOTHING, BARE):
        pairs = zip(rounds[ours(kind), 1], rounds[baseline, 1], strict=True)
        yield Target.at_most(
            f"{DATABASES[kind]}: p50 at one connection, over that of {baseline}, within one commit",
            commit_ms,
            median(our.p50_ms - other.p50_ms for our, other in pairs),
            "ms",
        )


def left_out(rounds: Rounds) -> Iterator[str]:
    if (GO, MAIN) not in rounds:
        yield "Go isn't installed (`apt-get install golang-go golang-github-lib-pq-dev`)."
    if (f"{ours('postgresql')}{BEHIND_CADDY}", MAIN) not in rounds:
        yield "Caddy isn't installed (`apt-get install caddy`)."


def notes(rounds: Rounds, messages: int) -> str:
    missing = sum(figures.missing for row in rounds.values() for figures in row)
    refused = {
        key: sum(figures.refused for figures in row)
        for key, row in rounds.items()
        if any(figures.refused for figures in row)
    }
    found = "Every sent report was found in its database afterwards."
    if missing:
        found = f"All that was acknowledged was found; neither answered nor found: {missing}."
    lines = [
        found,
        f"Lookups: among {messages:,} messages.",
        *(f"Left out: {what}" for what in left_out(rounds)),
        *(f"Not answered 2xx: {many} of {name}, {at}" for (name, at), many in refused.items()),
    ]
    return "\n\n".join(lines)


def main() -> None:
    """Measure, print the table, write it to the page; exit with 1 if a report was lost."""
    parser = parser_of("benchmarks", main.__doc__)
    add_measuring(parser, seconds=4)
    parser.add_argument("--messages", type=positive, default=1_000_000, help="to look up among")
    options = parser.parse_args()
    with set_up() as stage, filled_databases(stage, options.messages) as filled:
        rounds = run_rounds(Bench(stage, options, filled), options.rounds)
        facts = [
            *stage.describe(),
            f"{options.rounds} rounds, {options.seconds} s of load a row, new ids",
        ]
        tables = [figures_table(rounds), targets_table(list(targets(rounds)))]
        publish(options, "measured", facts, tables, notes(rounds, options.messages))


if __name__ == "__main__":
    main()
