"""A PostgreSQL that these tests may crash, and their seed."""

import os
import time
from collections.abc import Iterator

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
