"""A PostgreSQL that these tests may crash, and their seed."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.databases import MigratedDatabases
from tests.postgres import StoppableServer


@pytest.fixture
def seed() -> int:
    """A new seed each time, shown if a test fails; `DLR_TEST_SEED` repeats one."""
    return int(os.environ.get("DLR_TEST_SEED", time.time_ns() % 1_000_000_000))


@pytest.fixture(scope="session")
def stoppable_server() -> Iterator[StoppableServer]:
    with StoppableServer.started() as started:
        yield started


@pytest.fixture
def server(stoppable_server: StoppableServer) -> Iterator[StoppableServer]:
    """A server that may be crashed, and that runs again for the next test."""
    yield stoppable_server
    stoppable_server.start()


@pytest.fixture(scope="session")
def server_databases(stoppable_server: StoppableServer) -> Iterator[MigratedDatabases]:
    with MigratedDatabases.on(stoppable_server.url) as databases:
        yield databases


@pytest.fixture
def server_database(server: StoppableServer, server_databases: MigratedDatabases) -> Iterator[URL]:
    """A migrated database on the server that may be crashed."""
    with server_databases.one() as url:
        yield url
        server.start()


@contextmanager
def small_disk(tmp_path: Path, mebibytes: int) -> Iterator[Path]:
    """A disk of so few MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    size = f"size={mebibytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def disk_for_a_spool(tmp_path: Path) -> Iterator[Path]:
    """A disk so small that reports soon fill it."""
    with small_disk(tmp_path, 4) as folder:
        yield folder


@pytest.fixture
def disk_for_a_database(tmp_path: Path) -> Iterator[Path]:
    """A disk that is full only if something else fills it."""
    with small_disk(tmp_path, 64) as folder:
        yield folder
