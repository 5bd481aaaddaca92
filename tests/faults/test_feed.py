"""The change feed and waiting reads under stress: several writers, crowds, slow clients."""

import asyncio
import itertools
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import pytest
from sqlalchemy import URL, select, text

from app.callback.parse import parse
from app.store import write
from app.store.engine import Database, open_database
from app.store.tables import deliveries
from tests.faults.ledger import Ledger, Load
from tests.faults.programs import call_back, port_of, settings_for
from tests.feed import AUTHORIZED, all_changes, changes, events, record, stream, wait_until_settled
from tests.flow.test_raw_sockets import KEPT_OPEN, statuses_of
from tests.flow.test_raw_sockets import ask as request_of
from tests.postgres import StoppableServer
from tests.process import Serving, client_of, serving, until
from tests.service import READ_KEY, a_report

COMMITS = 3_000
FEED = 10_000
# The fields whose change is news for a reader.
VISIBLE = ("state", "reason", "status", "statuscode", "errcode", "mcc_mnc", "conflicting")
Seen = dict[tuple[str, str], tuple[object, ...]]


@pytest.fixture
def database(postgres_url: URL) -> Iterator[Database]:
    opened = open_database(postgres_url, hurried=False)
    yield opened
    opened.close()


def metric(program: Serving, name: str) -> float:
    lines = program.http.get("/metrics", headers=AUTHORIZED).text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def shown(delivery: Any) -> tuple[object, ...]:
    return tuple(delivery["network" if name == "mcc_mnc" else name] for name in VISIBLE)


class Reader(threading.Thread):
    """Reads the feed from one replica after another, and notes each delivery, until the end."""

    def __init__(self, programs: Sequence[Serving], seed: int) -> None:
        super().__init__(daemon=True)
        self.seen: Seen = {}
        self.changes = 0
        self._random = random.Random(seed)
        self._clients = [client_of(port_of(program)) for program in programs]
        self._cursor: str | None = None
        self._finishing = threading.Event()

    def finish(self) -> None:
        """Read to the end, once no writer runs."""
        self._finishing.set()
        self.join()
        for client in self._clients:
            client.close()

    def run(self) -> None:
        while True:
            was_finishing = self._finishing.is_set()
            if not self.read(self._random.choice(self._clients)) and was_finishing:
                return

    def read(self, http: httpx2.Client) -> int:
        """Read one more page, and return its number of changes."""
        raise NotImplementedError

    def note(self, delivery: Any) -> None:
        self.changes += 1
        self.seen[delivery["messageid"], delivery["to"]] = shown(delivery)


class PageReader(Reader):
    def read(self, http: httpx2.Client) -> int:
        parameters = {} if self._cursor is None else {"cursor": self._cursor}
        limit = self._random.choice((1, 10, 100, 1000))
        page = changes(http, limit=limit, wait=0.2, **parameters)
        self._cursor = page["next_cursor"]
        for delivery in page["items"]:
            self.note(delivery)
        return len(page["items"])


class StreamReader(Reader):
    def read(self, http: httpx2.Client) -> int:
        until_now = self.changes
        leave_after = self._random.randrange(1, 500)
        with stream(http, self._cursor) as lines:
            for event in events(to_the_first_silence(lines)):
                self.note(event.delivery)
                self._cursor = event.id
                if self.changes - until_now == leave_after:
                    break
        return self.changes - until_now


def to_the_first_silence(lines: Iterator[str]) -> Iterator[str]:
    return itertools.takewhile(lambda line: not line.startswith(":"), lines)


class Holder(threading.Thread):
    """Keeps transactions open that write long after they begin, and end long after they write."""

    def __init__(self, database: Database, ledger: Ledger, seed: int) -> None:
        super().__init__(daemon=True)
        self.held = 0
        self._engine = database.write.execution_options(isolation_level="READ COMMITTED")
        self._ledger = ledger
        self._random = random.Random(seed)
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        while not self._stopping.is_set():
            with self._engine.begin() as connection:
                connection.execute(text("SELECT pg_current_xact_id()"))
                self._hold()
                # One message that the replicas write to as well, and one of its own.
                lately = self._ledger.fields(next(self._ledger.reports))
                for fields in ({"messageid": f"held-{self.name}-{self.held}"}, lately):
                    query = a_report(**{"statuscode": None, "network": None, **fields})
                    write.record(connection, [parse(query.encode(), time.time_ns() // 1000)])
                self._hold()
            self.held += 1

    def _hold(self) -> None:
        """Stay open for a while: this is the fault, not a wait."""
        time.sleep(self._random.uniform(0, 0.3))


@contextmanager
def three_replicas(url: URL, folder: Path) -> Iterator[list[Serving]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(serving(**settings_for(url, DLR_DATA_DIR=str(folder / name))))
            for name in ("a", "b", "c")
        ]


@pytest.mark.timeout(240)
def test_no_change_is_skipped_with_several_writers_and_open_transactions(
    seed: int, postgres_url: URL, database: Database, tmp_path: Path
) -> None:
    ledger = Ledger(seed)
    with three_replicas(postgres_url, tmp_path) as programs:
        readers = [PageReader(programs, seed), PageReader(programs, ~seed)]
        readers.append(StreamReader(programs, seed))  # type: ignore[arg-type]
        holders = [Holder(database, ledger, seed + number) for number in range(2)]
        load = Load(ledger, [port_of(program) for program in programs], connections=12)
        for thread in (*readers, *holders, load):
            thread.start()

        def commits() -> float:
            return sum(metric(program, "dlr_batch_reports_count") for program in programs)

        until(ledger.has_answers(COMMITS), 180)  # costs the replicas nothing, as /metrics does
        until(lambda: commits() > COMMITS, 180)
        load.stop()
        for holder in holders:
            holder.stop()
        for reader in readers:
            reader.finish()
        made = commits()

    with database.read.connect() as connection:
        expected: Seen = {
            (row.message_id, row.recipient): tuple(getattr(row, name) for name in VISIBLE)
            for row in connection.execute(select(deliveries))
        }
    held = sum(holder.held for holder in holders)
    print(f"{made:.0f} commits, {held} held open, {[reader.changes for reader in readers]} changes")
    for reader in readers:
        missed = {key for key in expected if reader.seen.get(key) != expected[key]}
        assert not missed, f"seed {seed}: {len(missed)} of {len(expected)}, as {list(missed)[:3]}"
        assert reader.seen.keys() == expected.keys()
    ledger.check(postgres_url)


def test_an_open_transaction_delays_the_feed_and_not_the_wait_for_a_message(
    postgres_url: URL, database: Database
) -> None:
    engine = database.write.execution_options(isolation_level="READ COMMITTED")
    with serving(**settings_for(postgres_url)) as program:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_current_xact_id()"))
            now = changes(program.http, cursor="now")
            assert call_back(program, "meanwhile") == 200
            path = "/v1/messages/meanwhile?wait=30"
            assert program.http.get(path, headers=AUTHORIZED).json()["final"]
            assert changes(program.http, cursor=now["next_cursor"])["items"] == []

        later = changes(program.http, cursor=now["next_cursor"], wait=10)
        assert [one["messageid"] for one in later["items"]] == ["meanwhile"]


def test_restored_database_has_its_changes_after_those_that_were_there(
    postgres_url: URL, database: Database, tmp_path: Path
) -> None:
    record(postgres_url, ["before-1", "before-2"])
    with serving(**settings_for(postgres_url)) as program:
        wait_until_settled(postgres_url)
        assert len(all_changes(program.http)) == 2
    # As in a server whose transaction numbers are far lower than those of the dump's server.
    with database.write.connect() as connection:
        connection.execute(text("UPDATE deliveries SET changed_in = changed_in + 1000000000"))

    with three_replicas(postgres_url, tmp_path) as programs:
        wait_until_settled(postgres_url)
        page = changes(programs[0].http)
        for number, program in enumerate(programs):
            assert call_back(program, f"after-{number}") == 200
        wait_until_settled(postgres_url)
        later = changes(programs[1].http, cursor=page["next_cursor"])

    assert [one["messageid"] for one in page["items"]] == ["before-1", "before-2"]
    assert [one["messageid"] for one in later["items"]] == ["after-0", "after-1", "after-2"]


async def ask(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request without reading its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    authorization = AUTHORIZED["Authorization"]
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n".encode()
    )
    return reader, writer


async def status_of(reader: asyncio.StreamReader) -> int:
    return int((await reader.readuntil(b"\r\n\r\n"))[9:12])


class Crowd(threading.Thread):
    """Asks for all these paths at once, and notes the status of each answer when it comes."""

    def __init__(self, port: int, paths: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.statuses: list[int] = []
        self._port = port
        self._paths = paths

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for path in self._paths:
                tasks.create_task(self._ask(path))

    async def _ask(self, path: str) -> None:
        reader, writer = await ask(self._port, path)
        self.statuses.append(await status_of(reader))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def connections_to(url: URL) -> int:
    with psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False)
    ) as it:
        found = it.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'paasoo-dlr'"
            " AND datname = current_database()"
        ).fetchone()
    assert found is not None
    return int(found[0])


def call_back_at_once(program: Serving, message_ids: Sequence[str]) -> set[int]:
    """Send reports one behind the other on one connection, and return the answers' statuses."""
    queries = [a_report(messageid=one).encode() for one in message_ids]
    reports = [request_of(query, head=KEPT_OPEN) for query in queries]
    answers = b""
    with socket.create_connection(("127.0.0.1", port_of(program)), timeout=30) as connection:
        connection.sendall(b"".join(reports))
        while answers.count(b"HTTP/1.1 ") < len(reports):
            answers += (received := connection.recv(65536))
            assert received
    return set(statuses_of(answers))


def test_a_thousand_waiting_requests_cost_no_threads_no_connections_and_little_time(
    postgres_url: URL,
) -> None:
    with serving(**settings_for(postgres_url)) as program:
        process = psutil.Process(program.process.pid)
        crowd = Crowd(port_of(program), [f"/v1/messages/m-{n}?wait=60" for n in range(1000)])
        crowd.start()
        until(lambda: metric(program, "dlr_waiting") == 1000)
        worked = sum(process.cpu_times()[:2])
        watched_from = time.monotonic()
        until(lambda: time.monotonic() - watched_from > 2)
        share = (sum(process.cpu_times()[:2]) - worked) / (time.monotonic() - watched_from)

        assert process.num_threads() < 25
        assert connections_to(postgres_url) < 8
        assert share < 0.2
        assert call_back(program, "m-500") == 200
        until(lambda: crowd.statuses == [200], 1)
        assert call_back_at_once(program, [f"m-{number}" for number in range(1000)]) == {200}
        crowd.join(10)

        assert crowd.statuses == [200] * 1000
        assert metric(program, "dlr_waiting") == 0


def test_sigterm_answers_waiting_requests_and_ends_streams(database_url: URL) -> None:
    with serving(**settings_for(database_url, DLR_DRAIN_SECONDS="1")) as program:
        waiting = Crowd(
            port_of(program),
            [f"/v1/messages/m-{n}?wait=60" for n in range(300)] + ["/v1/changes?wait=60"] * 20,
        )
        waiting.start()
        until(lambda: metric(program, "dlr_waiting") == 320)
        with ExitStack() as opened:
            streams = [opened.enter_context(stream(program.http)) for _ in range(20)]
            until(lambda: metric(program, "dlr_streams") == 20)
            started = time.monotonic()
            assert program.terminate() == 0
            ended_after = time.monotonic() - started
            assert [list(events(lines)) for lines in streams] == [[]] * 20  # ended properly
        waiting.join(10)

        assert ended_after < 4
        assert sorted(waiting.statuses) == [200] * 20 + [404] * 300
        assert not [line for line in program.log_lines() if line["level"] == "error"]


@pytest.fixture
def full_feed(database_url: URL) -> URL:
    """A database with 5 MB to stream."""
    record(database_url, [f"m-{number}" for number in range(FEED)])
    return database_url


def read_nothing(stack: ExitStack, program: Serving, count: int) -> None:
    """Open streams and leave them unread."""
    request = f"GET /v1/changes/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READ_KEY}"
    for _ in range(count):
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that it fills soon
        client.connect(("127.0.0.1", port_of(program)))
        client.sendall(f"{request}\r\n\r\n".encode())


def dropped(program: Serving) -> int:
    return program.stderr.count("dropped a client")


def test_clients_that_read_nothing_cost_a_bounded_memory_and_are_dropped(full_feed: URL) -> None:
    settings = settings_for(full_feed, DLR_SEND_TIMEOUT_SECONDS="3")
    with serving(**settings) as program, ExitStack() as opened:
        wait_until_settled(full_feed)
        assert len(all_changes(program.http)) == FEED
        memory = psutil.Process(program.process.pid).memory_info
        before = most = memory().rss
        read_nothing(opened, program, 100)
        while dropped(program) < 100:
            most = max(most, memory().rss)
            time.sleep(0.05)
        until(lambda: metric(program, "dlr_streams") == 0)

        print(f"{(most - before) / 2**20:.0f} MiB for 100 streams of 5 MB that nobody reads")
        assert most - before < 40 * 2**20
        assert not [line for line in program.log_lines() if line["level"] == "error"]
        wait_until_settled(full_feed)
        assert len(all_changes(program.http)) == FEED


def test_sigterm_is_not_held_up_by_clients_that_read_nothing(full_feed: URL) -> None:
    with serving(**settings_for(full_feed)) as program, ExitStack() as opened:
        read_nothing(opened, program, 10)
        until(lambda: metric(program, "dlr_streams") == 10)
        started = time.monotonic()
        code = program.terminate()
        ended_after = time.monotonic() - started

        assert code == 0
        assert ended_after < 3, program.stderr
        assert not [line for line in program.log_lines() if line["level"] == "error"]


def test_outage_answers_waiting_requests_and_ends_streams_which_resume(
    server: StoppableServer, server_database: URL
) -> None:
    with serving(**settings_for(server_database)) as program:
        assert call_back(program, "before") == 200
        waiting = Crowd(
            port_of(program), ["/v1/messages/any?wait=60", "/v1/changes?cursor=now&wait=60"]
        )
        waiting.start()
        with stream(program.http) as lines:
            seen = events(lines)
            first = next(seen)
            until(lambda: metric(program, "dlr_waiting") == 3)
            server.stop("immediate")
            assert list(seen) == []
        waiting.join(10)
        refused = program.http.get("/v1/changes/stream", headers=AUTHORIZED)
        assert call_back(program, "during") == 200
        server.start()

        assert waiting.statuses == [503, 503]
        assert refused.status_code == 503
        until(lambda: program.http.get("/readyz").status_code == 200)
        with stream(program.http, last_event_id=first.id) as lines:
            assert next(events(lines)).delivery["messageid"] == "during"
