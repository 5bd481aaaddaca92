"""`make bench-pages`: the console's pages with a million deliveries, and callbacks beside them."""

import argparse
import multiprocessing
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from html import unescape
from itertools import count
from statistics import median, quantiles
from typing import Any, Final

import httpx2
from rich.progress import Progress
from sqlalchemy import URL

from benchmarks import contenders, filling
from benchmarks.contenders import KEY, TOKEN, Running
from benchmarks.options import parser_of, positive
from benchmarks.page import Table, Target, publish, targets_table
from benchmarks.stage import running_on, set_up

DAYS: Final = 60  # the overview compares 30 with the 30 before
CONTRADICTORY: Final = 1000  # one in so many
REFUSED: Final = 500
FAR: Final = 200  # pages
WARM_UP: Final = 5
# Those that click during the callbacks: their name, their number, and True if they do so on another
# process of the same core. That shows what the core alone costs.
PEOPLE: Final = (
    ("nobody", 0, False),
    ("one person", 1, False),
    ("ten people", 10, False),
    ("ten people, on another process", 10, True),
)
THINKING_S: Final = (0.5, 1.5)  # between the clicks of one person
MOST_MS: Final = 100
# Callbacks that come at a steady rate show what people cost: a saturated service shows its limit.
CALLBACKS_A_SECOND: Final = 300
CONNECTIONS: Final = 10


def paths(deliveries: int) -> dict[str, str]:
    """The path of each page, by its name."""
    now = datetime.now(UTC)
    a_month, a_day = (f"{now - timedelta(days=it):%Y-%m-%dT%H:%M:%SZ}" for it in (30, 1))
    one = f"{deliveries // 2 * filling.id_step(deliveries):08x}000000"
    number = f"65{deliveries // 2 * filling.SPREAD % 100_000_000:08}"
    return {
        "overview, 24 hours": "/",
        "overview, 7 days": "/?span=7d",
        "overview, 30 days": "/?span=30d",
        "search, an id": f"/search?q={one}",
        "search, a number": f"/search?q=%2B{number}",
        "search, nothing": "/search?q=order-4711",
        "a message": f"/messages/{one}",
        "list": "/deliveries",
        "list, a number": f"/deliveries?to={number}",
        "list, not delivered": "/deliveries?state=undelivered",
        "list, a network": f"/deliveries?network=52099&since={a_month}",
        "list, a country": f"/deliveries?country=SG&since={a_month}",
        "list, a country of one day": f"/deliveries?country=CN&since={a_day}",
        "list, a country and a reason": "/deliveries?country=ID&reason=spam_filtered",
        "list, contradictory": f"/deliveries?conflicting=true&since={a_month}",
        "live": "/live",
        "quarantine": "/quarantine",
        "set-up": "/set-up",
    }


@contextmanager
def signed_in(port: int) -> Iterator[httpx2.Client]:
    """A person at a browser."""
    address = f"http://127.0.0.1:{port}"
    with httpx2.Client(base_url=address, timeout=60, trust_env=False) as client:
        form = client.get("/sign-in").text
        found = re.search(r'name="token" value="([^"]+)"', form)
        assert found, form
        fields = {"token": unescape(found[1]), "key": KEY, "next": "/"}
        assert client.post("/sign-in", data=fields).status_code == 303
        yield client


def open_page(client: httpx2.Client, path: str) -> None:
    answer = client.get(path, follow_redirects=True)
    assert answer.status_code == 200, f"{path}: {answer.status_code}"


def far_path(client: httpx2.Client) -> str:
    """The address of a page far behind the first, by following the links."""
    path = "/deliveries"
    for _ in range(FAR - 1):
        text = client.get(path).text.partition('rel="next"')[0]
        path = unescape(text.rpartition('href="')[2].partition('"')[0])
    return path


def times_ms(call: Callable[[], object], times: int) -> list[float]:
    for _ in range(WARM_UP):
        call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


def percentile(values: list[float], at: int) -> float:
    return quantiles(values, n=100, method="inclusive")[at - 1]


def refuse_some(running: Running) -> None:
    with running.client() as client:
        for number in range(REFUSED):
            client.get(f"/callback/paasoo/{TOKEN}?type=dlr&x={number}")


def callback_times_ms(running: Running, seconds: int, run: int) -> list[float]:
    """The times of callbacks at a steady rate, each from the moment when it was due."""
    taken: list[list[float]] = [[] for _ in range(CONNECTIONS)]
    begin = time.perf_counter() + 0.1
    threads = [
        threading.Thread(target=call_back, args=(running.port, run, number, begin, seconds, times))
        for number, times in enumerate(taken)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [time_ms for times in taken for time_ms in times]


def call_back(  # noqa: PLR0913, PLR0917 - of a thread
    port: int, run: int, number: int, begin: float, seconds: int, times: list[float]
) -> None:
    """One connection's share of the callbacks, with as little of Python as can be."""
    every_s = CONNECTIONS / CALLBACKS_A_SECOND
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(int(seconds / every_s)):
            due = begin + (place + number / CONNECTIONS) * every_s
            time.sleep(max(0.0, due - time.perf_counter()))
            query = f"type=dlr&messageid=p{run}-{number}-{place}&to=6588888888&status=0"
            request = f"GET /callback/paasoo/{TOKEN}?{query} HTTP/1.1\r\nHost: here\r\n\r\n"
            connection.sendall(request.encode())
            answer = connection.recv(4096)
            times.append((time.perf_counter() - due) * 1e3)
            assert answer.startswith(b"HTTP/1.1 200 "), answer


@contextmanager
def people_clicking(running: Running, people: int, all_paths: list[str]) -> Iterator[None]:
    """Some people who open one page after the other, in a process of their own."""
    if not people:
        yield
        return
    methods = multiprocessing.get_context("spawn")
    ready, done = methods.Semaphore(0), methods.Event()
    process = methods.Process(target=click_on, args=(running.port, people, all_paths, ready, done))
    process.start()
    for _ in range(people):
        assert ready.acquire(timeout=60)
    try:
        yield
    finally:
        done.set()
        process.join()
    assert process.exitcode == 0


def click_on(port: int, people: int, all_paths: list[str], ready: Any, done: Any) -> None:
    # Browsers are elsewhere: they must not delay the callbacks' own process.
    os.nice(10)

    def click(person: int) -> None:
        chance = random.Random(person)
        with signed_in(port) as client:
            open_page(client, chance.choice(all_paths))
            ready.release()
            while not done.wait(chance.uniform(*THINKING_S)):
                open_page(client, chance.choice(all_paths))

    with ThreadPoolExecutor(people) as threads:
        for _ in threads.map(click, range(people)):
            pass


def measure_pages(running: Running, deliveries: int, times: int) -> tuple[Table, Target]:
    rows, slowest = [], 0.0
    with signed_in(running.port) as client:
        every = {**paths(deliveries), f"list, page {FAR}": far_path(client)}
        for name, path in every.items():
            taken = times_ms(partial(open_page, client, path), times)
            p99 = percentile(taken, 99)
            rows.append((name, f"{median(taken):.1f}", f"{p99:.1f}"))
            slowest = max(slowest, p99)
    title = f"{deliveries:,} deliveries of {DAYS} days, one reader, {times} times each"
    target = Target.at_most("the slowest page, p99", MOST_MS, slowest, "ms")
    return Table(title, ("page", "median ms", "p99 ms"), rows), target


def measure_callbacks(
    running: Running, elsewhere: Running, deliveries: int, rounds: int, seconds: int
) -> Table:
    """Callbacks with and without people, in turn."""
    measured: dict[str, list[list[float]]] = {name: [] for name, _, _ in PEOPLE}
    runs = count(1)
    all_paths = list(paths(deliveries).values())
    for _ in range(rounds):
        for name, people, is_elsewhere in PEOPLE:
            with people_clicking(elsewhere if is_elsewhere else running, people, all_paths):
                measured[name].append(callback_times_ms(running, seconds, next(runs)))
    rows = [
        (name, *(f"{median(percentile(it, at) for it in of_runs):.2f}" for at in (50, 95, 99)))
        for name, of_runs in measured.items()
    ]
    title = f"{CALLBACKS_A_SECOND} callbacks a second, medians of {rounds} rounds of {seconds} s"
    return Table(title, ("who clicks", "median ms", "p95 ms", "p99 ms"), rows)


def fill(database: URL, deliveries: int) -> None:
    with Progress() as progress:
        task = progress.add_task(f"filling {deliveries:,} deliveries", total=deliveries)
        filling.fill(database, deliveries, lambda n: progress.advance(task, n), DAYS)
    filling.contradict(database, deliveries, CONTRADICTORY)


def main() -> None:
    """Fill PostgreSQL, measure pages and callbacks, print, write to the page."""
    parser = parser_of("benchmarks.pages", main.__doc__)
    parser.add_argument("--no-write", action="store_true", help="only print the tables")
    parser.add_argument("--deliveries", type=positive, default=1_000_000)
    parser.add_argument("--times", type=positive, default=200, help="that each page is opened")
    parser.add_argument("--rounds", type=positive, default=3, help="of callbacks, in turn")
    parser.add_argument("--seconds", type=positive, default=15, help="of callbacks, each")
    options: argparse.Namespace = parser.parse_args()
    with set_up() as stage, contenders.new_database_of("postgresql", stage) as database:
        fill(database, options.deliveries)
        with (
            contenders.ours(database, stage.server_cores) as running,
            contenders.ours(database, stage.server_cores) as elsewhere,
            running_on(stage.load_cores),
        ):
            refuse_some(running)
            pages, target = measure_pages(running, options.deliveries, options.times)
            callbacks = measure_callbacks(
                running, elsewhere, options.deliveries, options.rounds, options.seconds
            )
        facts = [*stage.describe(), "the readers and the callbacks come from the load's core"]
        publish(options, "measured: pages", facts, [pages, callbacks, targets_table([target])])


if __name__ == "__main__":
    main()
