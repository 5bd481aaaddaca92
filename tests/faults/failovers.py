"""Failovers under load, one after the other: nothing is lost that the standby had, or skipped.

Of two replicas one finds the primary by an address that moves, the other in a list of both hosts.
Every other primary isn't killed but freezes: for others a machine without its network looks so. As
a program it runs the long show.
"""

import argparse
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import httpx2
from rich.progress import Progress
from sqlalchemy import URL, select

from app.query.schemas import delivery_of
from app.store.engine import open_database
from app.store.read import SHOWN
from tests.databases import migrate
from tests.faults.doors import Door, opened
from tests.faults.ledger import Ledger, Load
from tests.faults.programs import (
    AUTHORIZED,
    call_back,
    is_ready,
    port_of,
    settings_for,
    spool_is_empty,
)
from tests.process import Serving, serving, until
from tests.replication import Pair, replicated

REPORTS_BETWEEN: Final = 500
# The standby of an asynchronous primary is held up for so long before the crash.
LAG_S: Final = 0.5
BACK_WITHIN_S: Final = 60
# A promise: from the moment in which the new primary takes writes.
FOLLOWED_WITHIN_S: Final = 10
# More than a pool of readers keeps, so that none of its connections is left out.
LOOKUPS_AT_ONCE: Final = 16
# Of four failovers: so each of the two machines freezes, and is killed.
FREEZING: Final = (0, 3)
IN_STEP: Final = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
MARKS: Final = "SELECT count(*) FROM deliveries WHERE message_id LIKE 'mark-{}-%'"


class FeedReader(threading.Thread):
    """Reads the feed to its end, over every outage, and remembers each state it was shown."""

    def __init__(self, http: httpx2.Client) -> None:
        super().__init__(daemon=True)
        self.shown: set[tuple[str, ...]] = set()
        self._http = http
        self._finishing = threading.Event()

    def finish(self) -> None:
        """End at the end of the feed."""
        self._finishing.set()

    def run(self) -> None:
        parameters: dict[str, Any] = {"limit": 1000, "wait": 1}
        while True:
            was_finishing = self._finishing.is_set()
            answer = self._http.get("/v1/changes", params=parameters, headers=AUTHORIZED)
            if answer.status_code != 200:
                time.sleep(0.05)  # as `Retry-After` asks, only sooner
                continue
            page = answer.json()
            parameters["cursor"] = page["next_cursor"]
            self.shown |= {state_of(item) for item in page["items"]}
            if not page["items"] and was_finishing:
                return


def state_of(delivery: Any) -> tuple[str, ...]:
    fields = ("messageid", "to", "state", "status", "statuscode", "errcode", "network")
    return tuple(str(delivery[field]) for field in fields)


@dataclass
class Cluster:
    """Two PostgreSQL servers, each on a machine with a port of its own, and a moving address."""

    pair: Pair
    address: Door
    machines: list[Door]  # the primary's first

    def __post_init__(self) -> None:
        # Written once into the settings, so the machines keep their places in it.
        self._ports = ",".join(str(machine.port) for machine in self.machines)

    @property
    def url(self) -> URL:
        """Leads to the address that moves."""
        return URL.create(
            "postgresql+psycopg", "postgres", None, "127.0.0.1", self.address.port, "dlr"
        )

    @property
    def url_of_both(self) -> URL:
        hosts = {"host": "127.0.0.1,127.0.0.1", "port": self._ports}
        query = {**hosts, "target_session_attrs": "read-write"}
        return URL.create("postgresql+psycopg", "postgres", database="dlr", query=query)

    def take_over(self) -> None:
        """Promote the standby, and move the address there."""
        self.pair.standby.promote()
        self.pair.primary = self.pair.standby
        self.address.lead_to(self.pair.primary.socket)
        self.machines.reverse()

    def bring_back(self) -> None:
        """Let the machine of the old primary come back as a standby of the new one."""
        self.machines[1].lead_to(self.pair.stand_by().socket)


@contextmanager
def clustered() -> Iterator[Cluster]:
    with replicated() as pair, ExitStack() as opening:
        sockets = [node.socket for node in (pair.primary, pair.standby)]
        machines = [opening.enter_context(opened([socket])) for socket in sockets]
        address = opening.enter_context(opened(sockets[:1]))
        pair.primary.execute("CREATE DATABASE dlr")
        cluster = Cluster(pair, address, machines)
        migrate(cluster.url)
        yield cluster


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one failover."""

    promoted: float  # after the fault
    followed: float  # after the promotion: both replicas are ready, and answer many lookups at once
    committed: float  # after the fault: reports that came then are in the new primary


@dataclass
class Failovers:
    """A row of failovers: what they act on, and what was seen of them."""

    cluster: Cluster
    programs: list[Serving]
    ledger: Ledger
    is_synchronous: bool
    perhaps_lost: set[int] = field(default_factory=set)
    times: list[Times] = field(default_factory=list)

    def run_one(self) -> None:
        """Fail over, and bring the machine of the old primary back."""
        pair, number = self.cluster.pair, len(self.times)
        old = pair.primary
        if self.is_synchronous:
            old.configure(synchronous_standby_names="*")
            until(lambda: bool(old.execute(IN_STEP)))
        answered = self.ledger.answers.total()
        until(self.ledger.has_answers(answered + REPORTS_BETWEEN), BACK_WITHIN_S)
        is_frozen = self.is_synchronous and number % 4 in FREEZING
        began_at = time.monotonic()
        if is_frozen:
            old.freeze()
        elif self.is_synchronous:
            old.kill()
        else:
            self._kill_ahead_of_the_standby()
        marks = [threading.Thread(target=self._mark, args=(it, number)) for it in self.programs]
        for mark in marks:
            mark.start()
        try:
            self.cluster.take_over()
            self._follow(began_at, number)
        finally:
            if is_frozen:
                old.kill()
        for mark in marks:
            mark.join()
        self.cluster.bring_back()

    def _kill_ahead_of_the_standby(self) -> None:
        """Kill a primary that has acknowledged reports which its standby lacks."""
        primary, standby = self.cluster.pair.primary, self.cluster.pair.standby
        before = set(self.ledger.acknowledged)
        ((reached,),) = primary.execute("SELECT pg_current_wal_lsn()")
        has_it = f"SELECT 1 WHERE pg_last_wal_receive_lsn() >= '{reached}'"
        until(lambda: bool(standby.execute(has_it)))
        standby.freeze()
        time.sleep(LAG_S)  # the fault itself
        primary.kill()
        # Answers may still be on their way: those of both replicas' last commits.
        until(lambda: not any(map(is_ready, self.programs)))
        self.perhaps_lost |= self.ledger.acknowledged - before
        standby.wake()

    def _mark(self, program: Serving, number: int) -> None:
        """Send a report that can be told from all others."""
        assert call_back(program, f"mark-{number}-{port_of(program)}") == 200

    def _follow(self, began_at: float, number: int) -> None:
        """Wait until both replicas work on the new primary, and note the times."""
        promoted_at = time.monotonic()
        primary, marks = self.cluster.pair.primary, MARKS.format(number)
        with ThreadPoolExecutor(2) as waiting:
            followed = waiting.submit(until, self._all_pools_answer, BACK_WITHIN_S)
            until(lambda: primary.execute(marks, "dlr") == [(len(self.programs),)], BACK_WITHIN_S)
            committed_at = time.monotonic()
            followed.result()
        followed_s = time.monotonic() - promoted_at
        seed = f"seed {self.ledger.seed}"
        assert followed_s < FOLLOWED_WITHIN_S, f"{seed}: followed after {followed_s:.1f} s"
        self.times.append(Times(promoted_at - began_at, followed_s, committed_at - began_at))

    def _all_pools_answer(self) -> bool:
        with ThreadPoolExecutor(LOOKUPS_AT_ONCE) as threads:
            lookups = [
                threads.submit(program.http.get, "/v1/deliveries?limit=1", headers=AUTHORIZED)
                for program in self.programs
                for _ in range(LOOKUPS_AT_ONCE)
            ]
            statuses = {lookup.result().status_code for lookup in lookups}
        return statuses == {200} and all(is_ready(program) for program in self.programs)


@contextmanager
def replicas(cluster: Cluster) -> Iterator[list[Serving]]:
    """Two replicas, each with a URL of its own form."""
    with ExitStack() as running:
        programs = []
        for url in (cluster.url, cluster.url_of_both):
            folder = running.enter_context(tempfile.TemporaryDirectory())
            settings = settings_for(url, DLR_DATA_DIR=folder, DLR_LOG_LEVEL="warning")
            programs.append(running.enter_context(serving(**settings)))
        yield programs


def fail_over_often(
    seed: int,
    times: int,
    is_synchronous: bool,
    a_second: float = math.inf,
    on_progress: Callable[[], object] = lambda: None,
) -> str:
    """Fail over so many times. Returns the summary in one line; raises `AssertionError`."""
    ledger = Ledger(seed)
    with clustered() as cluster, replicas(cluster) as programs:
        failovers = Failovers(cluster, programs, ledger, is_synchronous)
        readers = [FeedReader(program.http) for program in programs]
        load = Load(ledger, [port_of(program) for program in programs], a_second=a_second)
        for thread in (*readers, load):
            thread.start()
        try:
            for _ in range(times):
                failovers.run_one()
                on_progress()
        finally:
            load.stop()
        until(lambda: all(map(spool_is_empty, programs)), BACK_WITHIN_S)
        for reader in readers:
            reader.finish()
        for reader in readers:
            reader.join()
        assert ledger.answers.keys() == {200}, f"seed {seed}: {ledger.answers}"
        assert not ledger.unanswered, f"seed {seed}: {ledger.unanswered} unanswered"
        ledger.check(cluster.url, failovers.perhaps_lost)
        lost = ledger.lost(cluster.url)
        deliveries = _check_feed(cluster.url, ledger, lost, readers)
        return _summary(failovers, len(lost), deliveries)


def _check_feed(url: URL, ledger: Ledger, lost: set[int], readers: list[FeedReader]) -> int:
    """The number of deliveries. Raises `AssertionError` if a reader wasn't shown each.

    Those whose latest report was lost are left out: a reader that was shown the state of then isn't
    shown the one before, which is the state again.
    """
    went_back = {(fields["messageid"], fields["to"]) for fields in map(ledger.fields, lost)}
    database = open_database(url, hurried=False)
    with database.read.connect() as connection:
        states = {state_of(delivery_of(row)) for row in connection.execute(select(*SHOWN))}
    database.close()
    expected = {state for state in states if state[:2] not in went_back}
    for reader in readers:
        unseen = expected - reader.shown
        assert not unseen, (
            f"seed {ledger.seed}: {len(unseen)} states never shown: {list(unseen)[:3]}"
        )
    return len(states)


def _summary(failovers: Failovers, lost: int, deliveries: int) -> str:
    ledger, times = failovers.ledger, failovers.times
    kind = "synchronous" if failovers.is_synchronous else "asynchronous"
    answers = ", ".join(f"{count} answers {status}" for status, count in ledger.answers.items())
    seconds = "; ".join(
        f"{name}: {median(found):.1f} s, at most {max(found):.1f} s"
        for name, found in (
            ("from the fault to the promotion", [it.promoted for it in times]),
            ("from then until every pool is there", [it.followed for it in times]),
            ("from the fault until new reports are there", [it.committed for it in times]),
        )
    )
    return (
        f"{len(times)} {kind} failovers: {len(ledger.acknowledged)} reports acknowledged"
        f" ({answers}, {ledger.unanswered} unanswered), lost {lost} (not yet at the standby: at"
        f" most {len(failovers.perhaps_lost)}), statistics equal to a recount, the feed skipped"
        f" nothing of {deliveries} deliveries; {seconds}"
    )


def main() -> None:
    """Fail over often under load, with a synchronous or an asynchronous standby."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_000)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    show(options.seed, options.times, not options.asynchronous)


def show(seed: int, times: int, is_synchronous: bool) -> None:
    """Run the long show, with progress, and print its summary."""
    with Progress() as progress:
        task = progress.add_task("failovers", total=times)
        summary = fail_over_often(
            seed, times, is_synchronous, on_progress=lambda: progress.advance(task)
        )
    print(summary, flush=True)


if __name__ == "__main__":
    main()
