"""`make bench-scale`: the cost of millions of deliveries, compared with an empty database."""

import argparse
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from statistics import median
from typing import Final

import httpx2
from rich.progress import Progress
from sqlalchemy import URL, create_engine

from benchmarks import contenders, filling, load, measure
from benchmarks.contenders import Running
from benchmarks.measure import LostReportsError
from benchmarks.options import add_measuring, parser_of, positive
from benchmarks.page import Table, Target, publish, targets_table
from benchmarks.stage import Stage, UnableError, set_up

DATABASES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
ORDERS: Final = {"growing": "growing ids", "scattered": "ids without order"}
CONNECTIONS: Final = 64
# An empty database has nothing to look up, so it gets a few deliveries, which fit in memory.
FEW: Final = 1_000
BYTES_A_DELIVERY: Final = 2_500  # a generous estimate, with its log and temporary files
PAGE: Final = 100
FAR: Final = 1_000  # pages
REPEATS: Final = 20
# Time for caches to fill, and for PostgreSQL to log nearly all pages whole, once after a
# checkpoint: of 15 minutes it takes some ten seconds.
WARM_UP_S: Final = 15

MOST_BYTES: Final = {"sqlite": 450, "postgresql": 620}

# Filters that find few, or many in other order than that of the list.
FILTERS: Final = {
    "a rare network": {"network": filling.RARE_NETWORK},
    "a rare code": {"errcode": filling.RARE_CODE},
    "one number": {"to": filling.ONE_NUMBER},
    "a number's failures": {"to": filling.ONE_NUMBER, "state": "undelivered"},
    "a network": {"network": "52099"},
    "a code": {"errcode": "2"},
    "a reason": {"reason": "unroutable"},
    "a network and a reason": {"network": "51010", "reason": "spam_filtered"},
    "a rare network and a reason": {"network": filling.RARE_NETWORK, "reason": "unroutable"},
    "failures": {"state": "rejected"},
}

# The values of each round, by the figure's name.
Figures = dict[str, list[float]]


class Scale:
    """One kind of database, once with few deliveries and once with many."""

    def __init__(
        self, stage: Stage, options: argparse.Namespace, kind: str, opened: ExitStack
    ) -> None:
        self._stage = stage
        self._opened = opened
        self._seconds = options.seconds
        self._deliveries = options.deliveries
        self._kind = kind
        self._run_numbers = count(1)
        self.figures: Figures = defaultdict(list)

    def measure_round(self, few: URL, many: URL) -> None:
        for order in ORDERS:
            # Keep it to the end: PostgreSQL makes a checkpoint when it drops a database.
            empty = self._opened.enter_context(contenders.new_database_of(self._kind, self._stage))
            self._note(f"ingest, {order}, empty", self._ingest(empty, order))
            self._note(f"ingest, {order}, full", self._ingest(many, order))
        for name, database, messages in (("few", few, FEW), ("full", many, self._deliveries)):
            asked = load.lookups(messages, filling.id_step(messages))
            with self._serving(database) as running:
                figures, _ = measure.under_load(
                    running, (asked, asked), CONNECTIONS, self._seconds, WARM_UP_S
                )
            self._note(f"lookup p99, {name}", figures.p99_ms)
        with self._serving(many) as running:
            first_ms, far_ms = page_times_ms(running, min(FAR, self._deliveries // PAGE))
            for name, list_ms in list_times_ms(running):
                self._note(f"list, {name}", list_ms)
            self._note("first page", first_ms)
            self._note("far page", far_ms)
            asked = load.one_page(stats_path())
            figures, _ = measure.under_load(running, (asked, asked), 1, self._seconds)
            self._note("stats p99", figures.p99_ms)

    def _note(self, name: str, figure: float) -> None:
        self.figures[name].append(figure)

    def _serving(self, database: URL) -> AbstractContextManager[Running]:
        return contenders.ours(database, self._stage.server_cores)

    def _ingest(self, database: URL, order: str) -> float:
        run = 2 * next(self._run_numbers)
        with self._serving(database) as running:
            figures, runs = measure.under_load(
                running,
                (load.new_reports(run, order), load.new_reports(run + 1, order)),
                CONNECTIONS,
                self._seconds,
                WARM_UP_S,
            )
        measure.require_all_taken(runs)
        measure.missing_of(runs, database, measure.OUR_IDS, CONNECTIONS)
        return figures.per_s


def page_times_ms(running: Running, far: int) -> tuple[float, float]:
    """The median times of the first page of all deliveries, and of a page far behind it."""
    with running.client() as client:

        def page(cursor: str | None) -> httpx2.Response:
            parameters = {"limit": str(PAGE)} | ({"cursor": cursor} if cursor else {})
            return client.get("/v1/deliveries", params=parameters).raise_for_status()

        cursor = None
        for _ in range(far - 1):
            cursor = page(cursor).json()["next_cursor"]
            assert cursor, f"there are no {far} pages"
        return _median_ms(lambda: page(None)), _median_ms(lambda: page(cursor))


def stats_path() -> str:
    since = datetime.now(UTC) - timedelta(days=filling.DAYS)
    return f"/v1/stats?group_by=hour&since={since:%Y-%m-%dT%H:%M:%SZ}"


def list_times_ms(running: Running) -> Iterator[tuple[str, float]]:
    """The median times of the first two pages by each filter, with or without a time span."""
    now = datetime.now(UTC)
    since, until = (f"{now - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}" for days in (20, 10))
    with running.client() as client:

        def two_pages(parameters: dict[str, str]) -> None:
            page = client.get("/v1/deliveries", params=parameters).raise_for_status()
            if cursor := page.json()["next_cursor"]:
                after = {**parameters, "cursor": cursor}
                client.get("/v1/deliveries", params=after).raise_for_status()

        for name, given in FILTERS.items():
            spans = (given, {**given, "since": since, "until": until})
            for parameters in spans:
                two_pages(parameters)  # it is in memory where a service has run for minutes
            yield name, max(_median_ms(partial(two_pages, it)) for it in spans)


def _median_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return median(times) * 1e3


def bytes_a_delivery(database: URL, deliveries: int) -> float:
    engine = create_engine(database)
    with engine.connect() as connection:
        size = filling.bytes_on_disk(connection)
    engine.dispose()
    return size / deliveries


def measure_kind(stage: Stage, options: argparse.Namespace, kind: str) -> Figures:
    with ExitStack() as opened:
        scale = Scale(stage, options, kind, opened)
        few, many = (opened.enter_context(contenders.new_database_of(kind, stage)) for _ in "12")
        progress = opened.enter_context(Progress())
        what = f"{DATABASES[kind]}: filling {options.deliveries:,} deliveries"
        task = progress.add_task(what, total=options.deliveries)
        filling.fill(few, FEW, lambda _: None)
        filling.fill(many, options.deliveries, lambda n: progress.advance(task, n))
        scale.figures["bytes"] = [bytes_a_delivery(many, options.deliveries)]
        filling.fill_odd(many, options.deliveries // 10)
        task = progress.add_task(f"{DATABASES[kind]}: rounds", total=options.rounds)
        for _ in range(options.rounds):
            scale.measure_round(few, many)
            progress.advance(task)
    return scale.figures


def figures_table(measured: dict[str, Figures], deliveries: int) -> Table:
    def of(figures: Figures, name: str, form: str) -> str:
        return format(median(figures[name]), form)

    def rows() -> Iterator[tuple[str, ...]]:
        for kind, figures in measured.items():
            for order, ids in ORDERS.items():
                name = f"{DATABASES[kind]}: reports/s, {ids}"
                yield (
                    name,
                    of(figures, f"ingest, {order}, empty", ",.0f"),
                    of(figures, f"ingest, {order}, full", ",.0f"),
                )
            yield (
                f"{DATABASES[kind]}: lookup by id, p99 in ms",
                of(figures, "lookup p99, few", ".1f"),
                of(figures, "lookup p99, full", ".1f"),
            )
            for name, shown in (
                ("first page", f"the first {PAGE} of GET /v1/deliveries, ms"),
                ("far page", f"page {min(FAR, deliveries // PAGE):,} of it, ms"),
                ("stats p99", f"statistics of {filling.DAYS} days by hour, p99 in ms"),
            ):
                yield (f"{DATABASES[kind]}: {shown}", "", of(figures, name, ".1f"))
            yield (f"{DATABASES[kind]}: bytes on disk a delivery", "", of(figures, "bytes", ",.0f"))

    columns = ("what", "empty", f"{deliveries:,} deliveries")
    return Table(f"{CONNECTIONS} connections, medians", columns, list(rows()))


def lists_table(measured: dict[str, Figures]) -> Table:
    columns = ("list of", *(f"{DATABASES[kind]}, ms" for kind in measured))
    rows = [
        (name, *(format(median(it[f"list, {name}"]), ".1f") for it in measured.values()))
        for name in FILTERS
    ]
    title = "Two pages of a list, the slower of without and with a span of ten days"
    return Table(title, columns, rows)


def targets(measured: dict[str, Figures]) -> Iterator[Target]:
    def ratio(figures: Figures, one: str, other: str) -> float:
        pairs = zip(figures[one], figures[other], strict=True)
        return median(a / max(b, 1e-9) for a, b in pairs)

    for kind, figures in measured.items():
        database = DATABASES[kind]
        for order, ids in ORDERS.items():
            yield Target.at_least(
                f"{database}: reports/s with {ids}, to an empty database",
                0.85,
                ratio(figures, f"ingest, {order}, full", f"ingest, {order}, empty"),
            )
        yield Target.at_most(
            f"{database}: lookup p99, to one with {FEW:,} deliveries",
            2,
            ratio(figures, "lookup p99, full", "lookup p99, few"),
        )
        yield Target.at_most(
            f"{database}: the thousandth page, to the first",
            2,
            ratio(figures, "far page", "first page"),
        )
        yield Target.at_most(f"{database}: statistics, p99", 50, median(figures["stats p99"]), "ms")
        slowest = max(median(figures[f"list, {name}"]) for name in FILTERS)
        yield Target.at_most(f"{database}: two pages of any list", 100, slowest, "ms")
        disk = median(figures["bytes"])
        yield Target.at_most(f"{database}: disk a delivery", MOST_BYTES[kind], disk, "bytes")


def main() -> None:
    """Fill, measure, print, write to the page; exit code 1 if a report was lost."""
    parser = parser_of("benchmarks.scale", main.__doc__)
    add_measuring(parser, seconds=4)
    parser.add_argument("--deliveries", type=positive, default=10_000_000, help="in a full one")
    options = parser.parse_args()
    with set_up() as stage:
        free = shutil.disk_usage(stage.folder).free
        if free < options.deliveries * BYTES_A_DELIVERY:
            needed = options.deliveries * BYTES_A_DELIVERY / 2**30
            raise UnableError(f"{needed:.0f} GiB are needed on disk, {free / 2**30:.0f} are free")
        try:
            measured = {kind: measure_kind(stage, options, kind) for kind in DATABASES}
        except LostReportsError as error:
            sys.exit(f"FAILED: {error}")
        tables = [
            figures_table(measured, options.deliveries),
            lists_table(measured),
            targets_table(list(targets(measured))),
        ]
        how = f"{options.rounds} rounds, {WARM_UP_S} s to warm up, {options.seconds} s of load"
        facts = [*stage.describe(), f"{how} a figure"]
        publish(options, "measured: scale", facts, tables)


if __name__ == "__main__":
    main()
