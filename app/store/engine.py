"""Connections, each with the same promise: a commit that returned is on disk."""

import logging
import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from app.store import faults, postgresql
from app.store.fair_pool import FairPool
from app.store.open_files import OpenFiles

log = logging.getLogger(__name__)

# Limits for a lock that another session holds, and for a server that doesn't answer.
SQLITE_LOCK_TIMEOUT_S = 1
READ_TIMEOUT_S = 3.0
WRITE_TIMEOUT_S = 1.5
SQLITE_CHECKPOINT_PAGES = 4000  # 16 MB
SQLITE_CACHE_KIB = 32 * 1024
TELL_OF_IDS_EACH_S = 3600
# IMMEDIATE takes the write lock here, where SQLite can still wait for it.
BEGIN_ON_SQLITE = "BEGIN IMMEDIATE"
ANOTHER_SERVER = "another server answers than the one written to"


@dataclass(slots=True)
class Database:
    """The engines of one database: one for what is read, one for reports, one for other writes.

    Reports have a connection of their own: they wait for none that another write has. The embedded
    database has a single connection that writes.
    """

    read: Engine
    batches: Engine
    write: Engine
    look: Engine  # a new connection each time, to see which server answers now
    files: OpenFiles | None = None  # of the embedded database
    # The server that the change feed is settled on, once one is, and `feed.base` there.
    server: postgresql.Server | None = None
    feed_base: int = 0
    successor: postgresql.Server | None = None  # that took over from `server`, once seen
    generation: int = 0  # of connections: the number of times that all were let go
    told_of_ids_at: float = -math.inf

    @property
    def is_embedded(self) -> bool:
        return self.files is not None

    @contextmanager
    def batch(self) -> Iterator[Connection]:
        """A connection for one statement of reports, which PostgreSQL commits by itself.

        Raises `OperationalError` like a failed commit if its outcome is not certain.
        """
        with self._certain(self.batches) as connection:
            yield connection

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        """As `batch`, for a statement of anything else."""
        with self._certain(self.write) as connection:
            yield connection

    @contextmanager
    def embedded_batch(self) -> Iterator[DBAPICursor]:
        """As `batch`, for the embedded database, over the driver's own cursor.

        For a small batch SQLAlchemy costs as much as SQLite.
        """
        try:
            with closing(self.write.raw_connection()) as pooled:
                cursor = pooled.cursor()
                cursor.execute(BEGIN_ON_SQLITE)
                self._require_files(pooled.dbapi_connection)
                yield cursor
                cursor.execute("COMMIT")
                self._require_files(pooled.dbapi_connection)
        except sqlite3.Error as error:  # the pool has rolled back
            raise faults.of_driver(error) from error

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction of several statements on the engine that writes. Raises as `batch`."""
        engine = self.write
        if not self.is_embedded:  # PostgreSQL's connections are in autocommit
            engine = engine.execution_options(isolation_level="READ COMMITTED")
        with self._certain(engine) as connection:
            yield connection

    @contextmanager
    def _certain(self, engine: Engine) -> Iterator[Connection]:
        with engine.connect() as connection:
            with connection.begin():
                # Before anything is written into the wrong file.
                self._require_files(connection.connection.dbapi_connection)
                if self.server is not None and self.is_another(postgresql.server_of(connection)):
                    raise faults.no_certainty("another server answers than before")
                yield connection
            self._require_files(connection.connection.dbapi_connection)
            if not self.is_embedded:
                self.heed_warnings(postgresql.driver_connection(connection))

    def heed_warnings(self, connection: postgresql.ServerConnection) -> None:
        """Raise `OperationalError` if the server warned that the commit may be lost."""
        if of_ids := connection.warning_of_ids:
            self._tell_of_ids(of_ids.words)
        if warning := connection.warning:
            why = f"the server warned: {warning.words}"
            raise faults.no_certainty(why, kind=f"warning {warning.sqlstate}")

    def _tell_of_ids(self, words: str) -> None:
        if time.monotonic() - self.told_of_ids_at >= TELL_OF_IDS_EACH_S:
            self.told_of_ids_at = time.monotonic()
            log.error(
                "PostgreSQL runs out of transaction ids, and will refuse every write: vacuum it",
                extra={"error": words},
            )

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

    def require_in_place(self) -> None:
        """Raise `OperationalError` if a file of the embedded database was taken away."""

        def ask_for_size() -> int:
            with closing(self.write.raw_connection()) as pooled:
                return _size_in_bytes(pooled.dbapi_connection)

        if self.files is not None:
            self.files.require_in_place(ask_for_size)

    def _require_files(self, writing: Any) -> None:
        """As `require_in_place`, for the thread that has the driver's connection that writes."""
        if self.files is not None:
            self.files.require_in_place(lambda: _size_in_bytes(writing))

    def is_outdated(self, server: postgresql.Server) -> bool:
        """True for a server from which a later one, that we have seen, took over."""
        known = (self.server, self.successor)
        return any(later is not None and server.is_outdated_by(later) for later in known)

    def is_another(self, server: postgresql.Server) -> bool:
        """True for any but the server settled on, once there is one."""
        return self.server not in {None, server}

    def note_successor(self, server: postgresql.Server) -> None:
        """Never go back to the server settled on, if this one has taken over from it.

        A pooler may still have connections to the old one, and what is written there will be lost.
        """
        if self.server is not None and self.server.is_outdated_by(server):
            self.successor = server

    def close(self) -> None:
        """Let go of every connection. New ones, which any use opens, may find another server."""
        if self.files is not None and self.files.is_overwritten:
            return  # SQLite's last connection would write its log into the file
        for engine in (self.read, self.batches, self.write):
            used = engine.pool
            engine.dispose(close=False)
            event.listen(used, "checkin", _close_returned)
            used.dispose()
        self.generation += 1


def _close_returned(_connection: object, record: ConnectionPoolEntry) -> None:
    """Close a connection that was in use as its pool was disposed of."""
    record.invalidate()


def _size_in_bytes(connection: Any) -> int:
    """The size of a SQLite database, as this connection sees it."""
    pages, page_bytes = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    return int(pages * page_bytes)


def open_database(url: URL, *, hurried: bool = True) -> Database:
    """Create the engines without connecting: a server database may be away at start.

    `hurried` is for `serve`, whose callers can't wait long; commands have no time limit.
    """
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url, hurried)
    read_timeout_s, write_timeout_s = (READ_TIMEOUT_S, WRITE_TIMEOUT_S) if hurried else (None, None)

    def is_outdated(server: postgresql.Server) -> bool:
        return database.is_outdated(server)

    latest: postgresql.LatestHost = []
    # A batch is one statement, so a transaction around it would only add round trips.
    batches, write = (
        postgresql.engine(
            url, write_timeout_s, is_outdated, latest, pool_size=size, pool_timeout=READ_TIMEOUT_S
        )
        for size in (1, 2)
    )
    read = postgresql.engine(
        url,
        read_timeout_s,
        is_outdated,
        latest,
        pool_size=8,
        pool_timeout=READ_TIMEOUT_S,
        pool_pre_ping=True,
    )
    # It goes by the order of the address, and so may lead the others to another server.
    look = postgresql.engine(
        url, read_timeout_s, is_outdated, latest, latest_first=False, poolclass=NullPool
    )
    database = Database(read, batches, write, look)
    _refuse_another_server(database)
    return database


def _refuse_another_server(database: Database) -> None:
    """Let nobody read from another server than the one that is written to."""

    @event.listens_for(database.read, "connect")
    def refuse(connection: postgresql.ServerConnection, _record: object) -> None:
        if database.is_another(connection.server):
            raise postgresql.AnotherServerError(ANOTHER_SERVER)

    @event.listens_for(database.read, "begin")
    def refuse_behind_a_pooler(connection: Connection) -> None:
        if postgresql.is_pooled(connection) and database.is_another(
            postgresql.server_of(connection)
        ):
            raise faults.unusable(postgresql.AnotherServerError(ANOTHER_SERVER))


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
        connection.exec_driver_sql(BEGIN_ON_SQLITE)

    @event.listens_for(read, "connect")
    def prepare_reading(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA query_only=ON")

    files = OpenFiles(Path(url.database))
    for engine in (write, read):
        files.watch(engine)
    return Database(read, write, write, read, files)
