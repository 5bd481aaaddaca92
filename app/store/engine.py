"""Connections, each with the same promise: a commit that returned is on disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, create_engine, event

from app.store.fair_pool import FairPool
from app.store.faults import ServerHangsError

# Limits for a server that doesn't answer, or a lock that another session holds.
CONNECT_TIMEOUT_S = 2  # libpq's minimum
READ_TIMEOUT_S = 3.0
WRITE_TIMEOUT_S = 1.5
# The server ends a late statement itself; we wait this much longer for it to do so.
GRACE_S = 0.5
SQLITE_LOCK_TIMEOUT_S = 1
SQLITE_CHECKPOINT_PAGES = 4000  # 16 MB
SQLITE_CACHE_KIB = 32 * 1024


@dataclass(frozen=True, slots=True)
class Database:
    """Two engines for one database: one reads over many connections, one writes."""

    read: Engine
    write: Engine

    @property
    def is_embedded(self) -> bool:
        return self.write.dialect.name == "sqlite"

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction of several statements on the engine that writes."""
        engine = self.write
        if not self.is_embedded:  # PostgreSQL's connections are in autocommit
            engine = engine.execution_options(isolation_level="READ COMMITTED")
        with engine.begin() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection whose reads all see the database as it is at one moment."""
        if self.is_embedded:
            with self.read.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                yield connection
            return
        engine = self.read.execution_options(isolation_level="REPEATABLE READ")
        with engine.connect() as connection:
            yield connection

    def close(self) -> None:
        self.read.dispose()
        self.write.dispose()


def open_database(url: URL, *, hurried: bool = True) -> Database:
    """Create the engines without connecting: a server database may be away at start.

    `hurried` is for `serve`, whose callers can't wait long; commands have no time limit.
    """
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url, hurried)
    if hurried:
        return _open_postgresql(url, READ_TIMEOUT_S, WRITE_TIMEOUT_S)
    return _open_postgresql(url, None, None)


def _open_sqlite(url: URL, hurried: bool) -> Database:
    assert url.database
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    connect_args = {"timeout": SQLITE_LOCK_TIMEOUT_S, "check_same_thread": False}
    options: dict[str, Any] = {"connect_args": connect_args, "hide_parameters": True}
    write = create_engine(url, poolclass=FairPool, pool_size=1, max_overflow=0, **options)
    read = create_engine(url, pool_size=8, max_overflow=8, **options)

    @event.listens_for(write, "connect")
    def prepare_writing(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        connection.execute("PRAGMA journal_mode=WAL")
        # FULL, because in WAL mode NORMAL may lose the last commits in a power failure.
        connection.execute("PRAGMA synchronous=FULL")
        # Checkpoint seldom: a page that several commits wrote is copied into the database once.
        connection.execute(f"PRAGMA wal_autocheckpoint={SQLITE_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA cache_size=-{SQLITE_CACHE_KIB}")
        if hurried:
            # Keep SQLite's statement journal in memory, which halves the bytes written. Not for
            # commands: one may sort millions of rows, and a migration index them.
            connection.execute("PRAGMA temp_store=MEMORY")

    @event.listens_for(write, "begin")
    def begin_writing(connection: Any) -> None:
        # IMMEDIATE takes the write lock here, where SQLite can still wait for it.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(read, "connect")
    def prepare_reading(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA query_only=ON")

    return Database(read, write)


class ImpatientConnection(psycopg.Connection[Any]):
    """Gives up on a server that hangs, which the server's own timeouts can't notice."""

    patience_s: float = CONNECT_TIMEOUT_S

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.patience_s)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()  # a late answer would be taken for that of the next statement
            raise ServerHangsError("the server doesn't answer") from error


def _open_postgresql(
    url: URL, read_timeout_s: float | None, write_timeout_s: float | None
) -> Database:
    # A batch is one statement, so a transaction around it would only add round trips.
    write = _postgresql_engine(url, write_timeout_s, pool_size=2, isolation_level="AUTOCOMMIT")
    read = _postgresql_engine(
        url, read_timeout_s, pool_size=8, isolation_level="AUTOCOMMIT", pool_pre_ping=True
    )

    @event.listens_for(write, "connect")
    def insist_on_durability(connection: Any, _record: object) -> None:
        # The server's configuration may let commits return before they are on disk.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )

    return Database(read, write)


def _postgresql_engine(url: URL, timeout_s: float | None, **options: Any) -> Engine:
    milliseconds = 0 if timeout_s is None else int(timeout_s * 1000)
    engine = create_engine(
        url,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "paasoo-dlr",
            "client_encoding": "utf8",  # independent of the database's encoding
            "options": f"{url.query.get('options', '')} -c statement_timeout={milliseconds}",
        },
        hide_parameters=True,  # an error's text would quote phone numbers
        pool_timeout=READ_TIMEOUT_S,
        **options,
    )
    if timeout_s is None:
        return engine
    patience_s = timeout_s + GRACE_S

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, args: Any, options: Any) -> Any:
        connection = ImpatientConnection.connect(*args, **options)
        connection.patience_s = patience_s
        return connection

    return engine
