"""The measured processes: each is a server of its own, started for one row of the table."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx2
import psutil
from sqlalchemy import URL

from benchmarks.baselines import make_naive_tables
from benchmarks.stage import ROOT, Cores, Stage, running_on
from tests.flow.proxies import caddy
from tests.postgres import new_database
from tests.process import PROGRAM, free_port, run, until

TOKEN: Final = "a-token-of-the-benchmarks"
KEY: Final = "a-key-of-the-benchmarks"
START_WITHIN_S: Final = 60
END_WITHIN_S: Final = 30
DRAIN_WITHIN_S: Final = 60
GO_PACKAGES: Final = Path("/usr/share/gocode")  # as Debian and Ubuntu install them


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    process: psutil.Popen
    port: int
    proxy: str | None = None  # the address of one in front

    @property
    def address(self) -> str:
        """The address that a load goes to."""
        return self.proxy or f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """CPU time so far, in seconds, of all its threads."""
        times = self.process.cpu_times()
        return times.user + times.system

    def peak_mib(self) -> float:
        """The most memory that it had resident; or the current, if the system doesn't keep that."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return self.process.memory_info().rss / 2**20
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**10

    def client(self) -> httpx2.Client:
        """A client of the server with an admin's key."""
        return httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=60,
            trust_env=False,
        )

    def get(self, path: str) -> httpx2.Response:
        with self.client() as client:
            return client.get(path)

    def metric(self, name: str) -> float:
        """A metric of the service."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        raise LookupError(name)

    def commits(self) -> tuple[float, float]:
        """The number of commits, and their time in seconds; zero for a baseline."""
        try:
            return self.metric("dlr_commit_seconds_count"), self.metric("dlr_commit_seconds_sum")
        except LookupError:
            return 0, 0


@contextmanager
def baseline(name: str, cores: Cores, database: URL | None = None) -> Iterator[Running]:
    """One of `baselines.py` under uvicorn, with the same loop and parser as the service."""
    environment = {}
    if database is not None:
        environment["BENCH_DATABASE_URL"] = database.render_as_string(hide_password=False)
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", f"benchmarks.baselines:{name}"),
        *("--app-dir", str(ROOT), "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--ws", "none"),
        *("--no-access-log", "--log-level", "warning"),
        *(["--factory"] if name == "naive" else []),
    ]
    with _running(command, environment, port, cores) as running:
        yield running


@contextmanager
def ours(database: URL, cores: Cores) -> Iterator[Running]:
    """Migrate a database and run `paasoo-dlr serve` on it."""
    port = free_port()
    with TemporaryDirectory(prefix="dlr-data-") as folder:
        environment = {
            "DLR_DATABASE_URL": database.render_as_string(hide_password=False),
            "DLR_DATA_DIR": folder,
            "DLR_CALLBACK_TOKENS": TOKEN,
            "DLR_API_KEYS": f"bench:admin:{KEY}",
            "DLR_DRAIN_SECONDS": "0",
            "DLR_LOG_LEVEL": "warning",
        }
        migrated = run("migrate", **environment)
        assert migrated.code == 0, migrated.stderr
        command = [str(PROGRAM), "serve", "--port", str(port)]
        with _running(command, environment, port, cores) as running:
            yield running
            # If the database was away for a moment, wait for the spool: the check looks for all
            # reports in the database.
            until(lambda: running.metric("dlr_spool_waiting") == 0, DRAIN_WITHIN_S)


@contextmanager
def behind_caddy(running: Running, cores: Cores) -> Iterator[Running]:
    """The same server behind Caddy with TLS, set up as `deploy/Caddyfile` says."""
    domain = "https://127.0.0.1"
    with (
        TemporaryDirectory(prefix="dlr-caddy-") as folder,
        running_on(cores),
        caddy(running.port, Path(folder), domain) as port,
    ):
        yield replace(running, proxy=f"{domain}:{port}")


def build_go_receiver(folder: Path) -> Path | None:
    """Compile `receiver.go`. None if Go or its driver for PostgreSQL is not installed."""
    go = shutil.which("go")
    if go is None or not (GO_PACKAGES / "src/github.com/lib/pq").exists():
        return None
    program = folder / "receiver"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GOPATH": str(GO_PACKAGES),
        "GO111MODULE": "off",
    }
    source = ROOT / "benchmarks" / "receiver.go"
    subprocess.run([go, "build", "-o", str(program), str(source)], env=environment, check=True)
    return program


@contextmanager
def go_receiver(program: Path, database: URL, cores: Cores) -> Iterator[Running]:
    """`receiver.go` on the tables of the naive receiver."""
    make_naive_tables(database)
    address = database.set(drivername="postgresql").update_query_dict({"sslmode": "disable"})
    environment = {"BENCH_DATABASE_URL": address.render_as_string(hide_password=False)}
    port = free_port()
    with _running([str(program), str(port)], environment, port, cores) as running:
        yield running


def replicas(opened: ExitStack, database: URL, number: int, stage: Stage) -> list[Running]:
    """Replicas of the service on one database, each on a core of its own if there are enough."""
    cores = sorted(stage.server_cores)
    return [
        opened.enter_context(ours(database, frozenset({cores[place % len(cores)]})))
        for place in range(number)
    ]


@contextmanager
def new_database_of(kind: str, stage: Stage) -> Iterator[URL]:
    """An empty database of its own: `sqlite` on the stage's disk, or `postgresql`."""
    with ExitStack() as opened:
        if kind == "postgresql":
            yield opened.enter_context(new_database(stage.postgres))
        else:
            folder = opened.enter_context(TemporaryDirectory(dir=stage.folder))
            yield URL.create("sqlite", database=str(Path(folder, "dlr.db")))


@contextmanager
def _running(
    command: Sequence[str], environment: dict[str, str], port: int, cores: Cores
) -> Iterator[Running]:
    with TemporaryDirectory(prefix="dlr-log-") as folder:
        log = Path(folder, "log")
        with log.open("wb") as output, running_on(cores):
            process = psutil.Popen(
                command,
                env={"PATH": os.defpath, **environment},
                cwd=folder,  # it has no `.env`
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            running = Running(process, port)
            _wait_for_answers(running, log)
            yield running
            process.terminate()  # a graceful end stores all admitted reports
            process.wait(END_WITHIN_S)
        finally:
            if process.is_running():
                process.kill()
                process.wait()


def _wait_for_answers(running: Running, log: Path) -> None:
    """Wait until `/readyz` doesn't answer 503; a baseline, which lacks that path, answers 404."""
    deadline = time.monotonic() + START_WITHIN_S
    while True:
        assert running.process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if running.get("/readyz").status_code != 503:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.02)
