"""The environment of a benchmark: cores, a folder on disk, a durable PostgreSQL, versions."""

import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil
import psycopg
import yaml
from sqlalchemy import URL

from tests.postgres import StoppableServer

ROOT: Final = Path(__file__).parents[1]
# PostgreSQL's settings that must be on for a commit to mean "on disk".
DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")
VERSION: Final = "server_version"
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})

Cores = frozenset[int]


@dataclass(frozen=True, slots=True)
class DatabaseUse:
    """The CPU time that PostgreSQL has taken so far, and the end of its log."""

    cpu_s: float
    wal_bytes: int


class UnableError(Exception):
    """A benchmark can't run here, for the reason in its one line."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The cores of the processes, and the places of their data.

    On two cores PostgreSQL shares the load's core: in production both are other machines.
    """

    folder: Path
    server: StoppableServer
    server_cores: Cores
    load_cores: Cores
    database_cores: Cores
    settings: dict[str, str]  # as PostgreSQL shows them
    commit: str  # at the start

    @property
    def postgres(self) -> URL:
        return self.server.url

    def database_use(self) -> DatabaseUse:
        """CPU time of all PostgreSQL's processes, ended ones too, and the end of its log."""
        *others, first = self.server.processes()
        times = first.cpu_times()
        cpu_s = times.user + times.system
        cpu_s += getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
        for process in others:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu_s += times.user + times.system
        with psycopg.connect(self.postgres.render_as_string(hide_password=False)) as connection:
            found = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()
        return DatabaseUse(cpu_s, int(found[0][0]))

    def describe(self) -> list[str]:
        """The conditions of the figures, one line each."""
        cores = (self.server_cores, self.load_cores, self.database_cores)
        server, load, database = (_named(some) for some in cores)
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        machine = f"{os.cpu_count()} × {_cpu_model()}"
        memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory"
        versions = [f"{name} {version(name)}" for name in ("uvicorn", "fastapi", "sqlalchemy")]
        postgres = f"PostgreSQL {self.settings[VERSION]}"
        databases = f"SQLite {sqlite3.sqlite_version}, {postgres}"
        set_up = [f"{name}={value}" for name, value in self.settings.items() if name != VERSION]
        return [
            f"{day}, {machine}, {memory}, {platform.system()}, {self.commit}",
            f"Python {platform.python_version()}, {', '.join(versions)}, {databases}",
            f"server on {server}, load on {load}, PostgreSQL on {database}",
            f"SQLite: WAL, synchronous=FULL; PostgreSQL: {', '.join(set_up)}",
        ]


def _commit() -> str:
    """The commit that is measured, or else the version.

    Ignore changes to the page, which another benchmark may just have written.
    """
    git = (shutil.which("git") or "false", "-C", str(ROOT))
    found = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        return f"version {version('paasoo-dlr')}"
    changed = [*git, "diff", "--quiet", "HEAD", "--", ".", ":(exclude)docs/performance.md"]
    is_changed = subprocess.run(changed, check=False).returncode
    return f"at {found.stdout.strip()}{', changed since' if is_changed else ''}"


@contextmanager
def set_up(servers: int = 1) -> Iterator[Stage]:
    """Set the stage for so many servers, until the block ends.

    If that isn't possible, print one line and exit with code 2.
    """
    try:
        with ExitStack() as opened:
            yield _build(opened, servers)
    except UnableError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _build(opened: ExitStack, servers: int) -> Stage:
    if shutil.which("wrk") is None:
        raise UnableError("wrk is not installed: `apt-get install wrk` or `brew install wrk`")
    _keep_off_memory()
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="dlr-bench-")))
    available = _available_cores()
    others = available[servers:]
    # If the servers take all cores, the load and PostgreSQL share them.
    load = frozenset(others[:1] or available)
    database = frozenset(others[1:]) or load
    tuned = _settings_of_compose()
    with running_on(database):
        server = opened.enter_context(StoppableServer.started(tuned))
    # wrk and the checks inherit these cores; servers are pinned when they start.
    opened.enter_context(running_on(load))
    settings = _settings_of(server.url, (*DURABLE, *tuned, VERSION))
    if off := [name for name in DURABLE if settings[name] != "on"]:
        raise UnableError(f"PostgreSQL is not durable: {', '.join(off)} must be on")
    return Stage(
        folder=folder,
        server=server,
        server_cores=frozenset(available[:servers]),
        load_cores=load,
        database_cores=database,
        settings=settings,
        commit=_commit(),
    )


@contextmanager
def running_on(cores: Cores) -> Iterator[None]:
    """Pin processes that start in this block to these cores, if the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _available_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _named(cores: Cores) -> str:
    if not hasattr(os, "sched_setaffinity"):
        return "any core"
    return ("core " if len(cores) == 1 else "cores ") + ", ".join(map(str, sorted(cores)))


def _keep_off_memory() -> None:
    """Put temporary files here if they would be in memory: a commit must reach a disk."""
    folder = Path(tempfile.gettempdir()).resolve()
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    mounted = max(
        (mount for mount in mounts if folder.is_relative_to(mount)),
        key=lambda mount: len(mount.parts),
        default=None,
    )
    if mounted is not None and mounts[mounted] in IN_MEMORY:
        on_disk = ROOT / ".bench"
        on_disk.mkdir(exist_ok=True)
        tempfile.tempdir = str(on_disk)


def _settings_of_compose() -> dict[str, str]:
    """PostgreSQL's settings in `docker-compose.yml`, with the defaults of its variables."""
    written = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", (ROOT / "docker-compose.yml").read_text())
    services = yaml.safe_load(written)["services"]
    return dict(word.split("=") for word in services["db"]["command"] if "=" in word)


def _settings_of(postgres: URL, names: Iterable[str]) -> dict[str, str]:
    with psycopg.connect(postgres.render_as_string(hide_password=False)) as connection:
        shown = {name: connection.execute("SELECT current_setting(%s)", (name,)) for name in names}
        return {name: cursor.fetchall()[0][0] for name, cursor in shown.items()}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
