"""The spool: callbacks wait on local disk while the server database is away.

It is a SQLite file, with the same promise as the database: a callback that was put in is on disk.
It keeps raw queries, not parsed reports, so a later version can drain the spool of an earlier one.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    cast,
    delete,
    event,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.exc import DatabaseError, OperationalError

from app.store import faults
from app.store.engine import Database, open_database

log = logging.getLogger(__name__)

PAGE_BYTES: Final = 4096  # SQLite's default

_metadata = MetaData()
_spooled = Table(
    "spooled",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("received_at", BigInteger, nullable=False),  # us since 1970 UTC
    Column("query", Text, nullable=False),  # raw, printable ASCII
    sqlite_autoincrement=True,  # never use an id again: the drain remembers ids
)

# SQLite gives what a disk has damaged in a row another type, and the driver refuses a text that
# isn't UTF-8. One such row must not keep the others from being read.
_READABLE: Final = (
    func.coalesce(cast(_spooled.c.received_at, BigInteger), 0),
    func.coalesce(cast(_spooled.c.query, LargeBinary), literal(b"")),
)
_END_OF_TIME_US: Final = 253_402_300_800_000_000  # the year 10000


def possible_time(received_at: int) -> int:
    """The time of receipt, or now if no clock can have said so."""
    return received_at if 0 < received_at < _END_OF_TIME_US else time.time_ns() // 1000


def is_closed_to_us(file: Path) -> bool:
    """True if another user has made the spool, or a file beside it, so that we may not open it."""
    files = (file, Path(f"{file}-wal"), Path(f"{file}-shm"), file.with_suffix(".lock"))
    return any(each.exists() and not os.access(each, os.R_OK | os.W_OK) for each in files)


def _lock_of(file: Path) -> IO[str] | None:
    """The lock of a spool, until it is closed. None if another process has it."""
    lock = file.with_suffix(".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


PAGES_IN_USE: Final = """
SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count
"""


def _bytes_in_use(connection: Connection) -> int:
    return int(connection.exec_driver_sql(PAGES_IN_USE).scalar_one()) * PAGE_BYTES


@contextmanager
def locked(file: Path) -> Iterator[IO[str] | None]:
    """Hold the lock of a spool, damaged or not. Yields None if another process has it."""
    lock = _lock_of(file)
    try:
        yield lock
    finally:
        if lock is not None:
            lock.close()


@dataclass(frozen=True, slots=True)
class Spooled:
    """A callback in the spool. `received_at` in microseconds since 1970 UTC."""

    id: int
    received_at: int
    query: bytes  # any, if the disk has damaged it


class Spool:
    """One file of one process, used by the writer's thread and the one that drains.

    Raises SQLAlchemy's errors if it is full (`max_bytes`, or the disk), read-only or damaged.
    """

    def __init__(self, file: Path, lock: IO[str], max_bytes: int) -> None:
        self.file = file
        self._lock = lock
        self._max_bytes = max_bytes
        self._one_at_a_time = threading.Lock()
        self._must_be_replaced = False
        self._database = self._open()
        with self._database.write.begin() as connection:
            self._count = connection.scalar(select(func.count()).select_from(_spooled)) or 0
            self._bytes_in_use = _bytes_in_use(connection)

    @classmethod
    def claim(cls, folder: Path, max_bytes: int) -> Self:
        """Take the folder's first spool that no other process has: replicas may share a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            file = folder / f"spool-{number}.db"
            try:
                spool = cls.take(file, max_bytes)
            except (DatabaseError, PermissionError) as error:
                if not (faults.is_damage(error) or is_closed_to_us(file)):
                    raise  # no space or no permission, so the next file would fail too
                log.error(  # noqa: TRY400 - SQLite's text is enough
                    "this spool is damaged; the next one is used",
                    extra={"file": file, "error": faults.description(error)},
                )
                spool = None
            if spool is not None:
                return spool
            number += 1

    @classmethod
    def take(cls, file: Path, max_bytes: int) -> Self | None:
        """Take a spool. None if another process has it, or this one already does."""
        lock = _lock_of(file)
        if lock is None:
            return None
        try:
            return cls(file, lock, max_bytes)
        except BaseException:
            lock.close()
            raise

    def __len__(self) -> int:
        """The number of callbacks that are not in the database yet."""
        return self._count

    @property
    def bytes_in_use(self) -> int:
        """The part of `max_bytes` that is taken: the file is never smaller, and may be larger."""
        return self._bytes_in_use

    def put(self, callbacks: Sequence[tuple[int, str | bytes]]) -> None:
        """Keep callbacks, each as (received_at, query). They are on disk when this returns."""
        rows = [{"received_at": at, "query": query} for at, query in callbacks]
        with self._one_at_a_time:
            with self._database.batch() as connection:
                connection.execute(insert(_spooled), rows)
                in_use = _bytes_in_use(connection)
            self._count += len(rows)
            self._bytes_in_use = in_use

    def after(self, last_id: int, limit: int) -> list[Spooled]:
        """At most `limit` callbacks after `last_id`, in the order of arrival."""
        statement = (
            select(_spooled.c.id, *_READABLE)
            .where(_spooled.c.id > last_id)
            .order_by(_spooled.c.id)
            .limit(limit)
        )
        with self._one_at_a_time, self._database.read.connect() as connection:
            found = connection.execute(statement).all()
        return [Spooled(row_id, possible_time(at), query) for row_id, at, query in found]

    def remove(self, ids: Sequence[int]) -> None:
        """Delete callbacks that are in the database now, or note that there is no space to do so.

        Deleting writes, so it fails on a disk that the spool itself has filled.
        """
        with self._one_at_a_time:
            self._count -= len(ids)
            try:
                with self._database.write.begin() as connection:
                    connection.execute(delete(_spooled).where(_spooled.c.id.in_(ids)))
                    in_use = _bytes_in_use(connection)
            except OperationalError:
                self._must_be_replaced = True
            else:
                self._bytes_in_use = in_use

    def forget_up_to(self, last_id: int, *, leaving: int) -> None:
        """Begin a new file if rows could not be deleted and all of them are in the database."""
        with self._one_at_a_time:
            if not self._must_be_replaced or leaving:
                return
            with self._database.read.connect() as connection:
                newest = connection.scalar(select(func.max(_spooled.c.id))) or 0
            if newest > last_id:
                return
            self._database.close()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.file}{suffix}").unlink(missing_ok=True)
            self._database = self._open()
            self._must_be_replaced = False
            self._count = 0
            with self._database.read.connect() as connection:
                self._bytes_in_use = _bytes_in_use(connection)

    def require_in_place(self) -> None:
        """Raise `OperationalError` if the file was taken away."""
        self._database.require_in_place()

    def close(self) -> None:
        self._database.close()
        self._lock.close()

    def _open(self) -> Database:
        database = open_database(URL.create("sqlite", database=str(self.file)))
        pages = self._max_bytes // PAGE_BYTES

        @event.listens_for(database.write, "connect")
        def bound(connection: Any, _record: object) -> None:
            # SQLite keeps to this limit itself. Drained rows leave their pages for new ones.
            connection.execute(f"PRAGMA max_page_count={pages}")

        with database.write.begin() as connection:
            _metadata.create_all(connection)
        return database
