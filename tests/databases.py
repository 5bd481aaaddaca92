"""Databases for tests: migrated once, emptied after each test, and used again."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Self

import psycopg
from alembic.config import Config
from sqlalchemy import URL, Connection

from app.store import schema
from app.store.engine import open_database
from app.store.tables import metadata
from tests.postgres import new_database

# Positions in the feed must only grow, so its beginning stays, and so does the one row of the rate.
# Triggers on `deliveries` count what is deleted, so the counts go after it. The service writes to
# `webhooks` before it writes down the tries, so they are locked in this order.
_FIRST = ["deliveries", "webhooks"]
_TABLES = [*_FIRST, *sorted(metadata.tables.keys() - {*_FIRST, "feed", "pull_rate"})]
_NO_TURN_TAKEN = "UPDATE pull_rate SET next_at = 0"
_TRUNCATE = f"TRUNCATE {', '.join(_TABLES)}; {_NO_TURN_TAKEN}"
# TRUNCATE makes new files for every table and index, and every session forgets its plans: for few
# rows that takes far longer than DELETE. The lock keeps out a writer whose rows DELETE doesn't see.
_DELETE = "; ".join(
    [
        f"LOCK TABLE {', '.join(_TABLES)} IN SHARE ROW EXCLUSIVE MODE",
        *(f"DELETE FROM {table}" for table in _TABLES),
        _NO_TURN_TAKEN,
    ]
)
_SIZE = "SELECT " + " + ".join(f"pg_table_size('{table}')" for table in _TABLES)
_FEW_BYTES = 1024**2  # deleted rows count, too
# A digest of what a test may change beside rows: tables, triggers, functions, settings, the version
# of the schema, the beginning of the feed.
_STRUCTURE = b"""
SELECT md5(string_agg(part, '' ORDER BY part)) FROM (
    SELECT concat(relname, relacl, reloptions, pg_attribute) AS part
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT pg_trigger::text FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT pg_constraint::text FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT pg_proc::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT setconfig::text FROM pg_db_role_setting JOIN pg_database
        ON pg_database.oid = setdatabase WHERE datname = current_database()
    UNION ALL SELECT version_num FROM alembic_version
    UNION ALL SELECT base::text FROM feed
) AS parts
"""
_END_SESSIONS = b"""
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def alembic_on(connection: Connection) -> Config:
    """For Alembic's commands."""
    if connection.dialect.name == "postgresql":
        connection.rollback()
        connection.execution_options(isolation_level="READ COMMITTED")  # as `schema` migrates
    config = schema.alembic_config()
    config.attributes["connection"] = connection
    return config


class MigratedDatabases:
    """Databases that are used again: to empty one takes a fraction of the time to make one."""

    def __init__(self, server: URL, template: URL, stack: ExitStack) -> None:
        self._server = server
        self._template = template
        self._stack = stack
        self._free: list[URL] = []
        self._structures: dict[URL, object] = {}

    @classmethod
    @contextmanager
    def on(cls, server: URL) -> Iterator[Self]:
        """Databases on a server, where they stay until the end."""
        with ExitStack() as stack:
            template = stack.enter_context(new_database(server))
            migrate(template)
            yield cls(server, template, stack)

    @contextmanager
    def one(self) -> Iterator[URL]:
        """A database as the migrations leave it."""
        url = self._free.pop() if self._free else self._new()
        yield url
        if self._is_emptied(url):
            self._free.append(url)

    def _new(self) -> URL:
        url = self._stack.enter_context(
            new_database(self._server, f"TEMPLATE {self._template.database}")
        )
        with _connected(url) as connection:
            self._structures[url] = _structure_of(connection)
        return url

    def _is_emptied(self, url: URL) -> bool:
        """False if a test has changed more than rows."""
        with _connected(url) as connection:
            connection.execute(_END_SESSIONS)
            if _structure_of(connection) != self._structures[url]:
                return False
            _empty(connection)
        return True


def _connected(url: URL) -> psycopg.Connection[Any]:
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(address, autocommit=True)


def _structure_of(connection: psycopg.Connection[Any]) -> object:
    try:
        return connection.execute(_STRUCTURE).fetchone()
    except psycopg.errors.UndefinedTable:
        return None


def migrate(url: URL) -> None:
    database = open_database(url, hurried=False)
    schema.upgrade(database.write)
    database.close()


@contextmanager
def emptying(url: URL) -> Iterator[Callable[[], None]]:
    """A function that deletes all rows, beside a running service."""
    if url.get_backend_name() == "sqlite":
        yield lambda: _empty_sqlite(url)
        return
    with _connected(url) as connection:
        yield lambda: _empty(connection)


def _empty_sqlite(url: URL) -> None:
    assert url.database
    with closing(sqlite3.connect(url.database)) as opened:
        opened.execute("PRAGMA synchronous = OFF")  # no test needs its rows gone after a crash
        with opened:
            for table in _TABLES:
                opened.execute(f"DELETE FROM {table}")
            opened.execute(_NO_TURN_TAKEN)


def _empty(connection: psycopg.Connection[Any]) -> None:
    found = connection.execute(_SIZE.encode()).fetchone()
    assert found
    connection.execute((_DELETE if found[0] < _FEW_BYTES else _TRUNCATE).encode())
