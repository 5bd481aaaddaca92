"""The spool: where callbacks wait on local disk while the server database is away.

SQLite carries it, with the same promise as the database: what was put in is on disk. It keeps
what arrived, not what was understood of it, so a later version drains what an earlier one kept.
"""

import fcntl
import logging
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    delete,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.exc import DatabaseError, OperationalError

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
    sqlite_autoincrement=True,  # an id is never used again, whoever remembers it
)


@dataclass(frozen=True, slots=True)
class Spooled:
    """A callback that waits. `received_at` in microseconds since 1970 UTC."""

    id: int
    received_at: int
    query: str


class Spool:
    """One file, of one process. Used by the writer's thread and the one that drains.

    Raises SQLAlchemy's errors: full (past `max_bytes`, or with the disk), read-only, damaged.
    """

    def __init__(self, file: Path, lock: IO[str], max_bytes: int) -> None:
        self.file = file
        self._lock = lock
        self._max_bytes = max_bytes
        self._one_at_a_time = threading.Lock()
        self._must_be_replaced = False
        self._database = self._open()
        with self._begin() as connection:
            self._count = connection.scalar(select(func.count()).select_from(_spooled)) or 0

    @classmethod
    def claim(cls, folder: Path, max_bytes: int) -> Self:
        """The first spool of the folder that no other process has: replicas may share a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            file = folder / f"spool-{number}.db"
            try:
                spool = cls.take(file, max_bytes)
            except OperationalError:
                raise  # no room, no permission: the next one would have neither
            except DatabaseError:
                log.exception("this spool is damaged; the next one is used", extra={"file": file})
                spool = None
            if spool is not None:
                return spool
            number += 1

    @classmethod
    def take(cls, file: Path, max_bytes: int) -> Self | None:
        """None where another process, or this one already, has it."""
        lock = file.with_suffix(".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(file, lock, max_bytes)
        except BlockingIOError:
            lock.close()
            return None
        except BaseException:
            lock.close()
            raise

    def __len__(self) -> int:
        """How many wait that are not in the database yet."""
        return self._count

    def put(self, callbacks: Sequence[tuple[int, str]]) -> None:
        """Keep callbacks, each as (received_at, query). On disk when this returns."""
        rows = [{"received_at": at, "query": query} for at, query in callbacks]
        with self._one_at_a_time:
            with self._begin() as connection:
                connection.execute(insert(_spooled), rows)
            self._count += len(rows)

    def after(self, last_id: int, limit: int) -> list[Spooled]:
        """At most `limit` of what waits, in the order of arrival, from behind `last_id`."""
        statement = (
            select(_spooled).where(_spooled.c.id > last_id).order_by(_spooled.c.id).limit(limit)
        )
        with self._one_at_a_time, self._database.read.connect() as connection:
            return [Spooled(*row) for row in connection.execute(statement)]

    def remove(self, ids: Sequence[int]) -> None:
        """Forget what is in the database by now, or note that there was no room to do so.

        To delete is to write: on a disk that the spool itself has filled it fails.
        """
        with self._one_at_a_time:
            self._count -= len(ids)
            try:
                with self._begin() as connection:
                    connection.execute(delete(_spooled).where(_spooled.c.id.in_(ids)))
            except OperationalError:
                self._must_be_replaced = True

    def forget_up_to(self, last_id: int, *, leaving: int) -> None:
        """Where rows could not be deleted, and all are in the database: begin with a new file."""
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

    def close(self) -> None:
        self._database.close()
        self._lock.close()

    def _begin(self) -> AbstractContextManager[Connection]:
        return self._database.write.begin()

    def _open(self) -> Database:
        database = open_database(URL.create("sqlite", database=str(self.file)))
        pages = self._max_bytes // PAGE_BYTES

        @event.listens_for(database.write, "connect")
        def bound(connection: Any, _record: object) -> None:
            # SQLite keeps the bound itself. What is drained leaves its pages for what comes next.
            connection.execute(f"PRAGMA max_page_count={pages}")

        with database.write.begin() as connection:
            _metadata.create_all(connection)
        return database
