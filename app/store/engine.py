"""Connections, and the promise each one makes: a commit that returned is on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, text

# How long a connection that hangs, or a row that somebody else holds, may keep us waiting.
CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_S = 5
SQLITE_LOCK_TIMEOUT_S = 2


@dataclass(frozen=True, slots=True)
class Database:
    """Two ways into one database: many connections that read, and one that writes."""

    read: Engine
    write: Engine

    @property
    def is_embedded(self) -> bool:
        return self.write.dialect.name == "sqlite"

    def close(self) -> None:
        self.read.dispose()
        self.write.dispose()


def open_database(url: URL) -> Database:
    """Open without connecting: a server database may be away at start."""
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    return _open_postgresql(url)


def _open_sqlite(url: URL) -> Database:
    assert url.database
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    connect_args = {"timeout": SQLITE_LOCK_TIMEOUT_S, "check_same_thread": False}
    options: dict[str, Any] = {"connect_args": connect_args, "hide_parameters": True}
    write = create_engine(url, pool_size=1, max_overflow=0, **options)
    read = create_engine(url, pool_size=8, max_overflow=8, **options)

    @event.listens_for(write, "connect")
    def prepare_writing(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        connection.execute("PRAGMA journal_mode=WAL")
        # FULL, for WAL's default NORMAL may lose the last commits when the power goes.
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(write, "begin")
    def begin_writing(connection: Any) -> None:
        # IMMEDIATE takes the write lock here, where waiting for it is still possible.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(read, "connect")
    def prepare_reading(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA query_only=ON")

    return Database(read, write)


def _open_postgresql(url: URL) -> Database:
    connect_args = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "paasoo-dlr",
        "client_encoding": "utf8",  # whatever the database's own encoding is
        "options": f"-c statement_timeout={STATEMENT_TIMEOUT_S}s",
        # A server that vanished without a word is noticed within seconds.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    options: dict[str, Any] = {
        "connect_args": connect_args,
        # One statement commits a whole batch: a transaction around it only adds round trips.
        "isolation_level": "AUTOCOMMIT",
        "hide_parameters": True,  # an error's text would quote phone numbers
        "pool_timeout": STATEMENT_TIMEOUT_S,
    }
    write = create_engine(url, pool_size=1, max_overflow=1, **options)
    read = create_engine(url, pool_size=8, max_overflow=8, **options)

    @event.listens_for(write, "connect")
    def insist_on_durability(connection: Any, _record: object) -> None:
        # A server may be set up to answer before the disk has it. Ours may not.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )

    return Database(read, write)


def ping(engine: Engine) -> None:
    """Raise what the driver raises when the database can't be reached."""
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
