"""A PostgreSQL that these tests may crash, and their seed."""

import os
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import URL

from app.store import schema
from app.store.engine import open_database
from tests.postgres import StoppableServer, new_database


@pytest.fixture
def seed() -> int:
    """A new seed each time, shown if a test fails; `DLR_TEST_SEED` repeats one."""
    return int(os.environ.get("DLR_TEST_SEED", time.time_ns() % 1_000_000_000))


@pytest.fixture
def server() -> Iterator[StoppableServer]:
    with StoppableServer.started() as started:
        yield started


@pytest.fixture
def server_database(server: StoppableServer) -> Iterator[URL]:
    """A migrated database on the server that may be crashed."""
    with new_database(server.url) as url:
        database = open_database(url, hurried=False)
        schema.upgrade(database.write)
        database.close()
        yield url
        server.start()  # so that it can be dropped
