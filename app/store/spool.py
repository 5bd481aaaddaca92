"""The spool: where callbacks wait on local disk while the server database is away.

SQLite carries it, with the same promise as the database: what was put in is on disk. It keeps
what arrived, not what was understood of it, so a later version drains what an earlier one kept.
"""

import fcntl
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

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
    func,
    insert,
    select,
)

from app.store.engine import open_database

PAGE_BYTES: Final = 4096  # SQLite's default

_metadata = MetaData()
_spooled = Table(
    "spooled",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("received_at", BigInteger, nullable=False),  # us since 1970 UTC
    Column("query", Text, nullable=False),  # raw, printable ASCII
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
        self._database = open_database(URL.create("sqlite", database=str(file)))
        self._one_at_a_time = threading.Lock()
        with self._one_at_a_time, self._begin() as connection:
            _metadata.create_all(connection)
            # SQLite keeps the bound itself. What is drained leaves its pages for what comes next.
            connection.exec_driver_sql(f"PRAGMA max_page_count={max_bytes // PAGE_BYTES}")
            self._count = connection.scalar(select(func.count()).select_from(_spooled)) or 0

    @classmethod
    def claim(cls, folder: Path, max_bytes: int) -> Self:
        """The first spool of the folder that no other process has: replicas may share a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while (spool := cls._open(folder / f"spool-{number}.db", max_bytes)) is None:
            number += 1
        return spool

    @classmethod
    def abandoned(cls, folder: Path, max_bytes: int) -> Iterator[Self]:
        """The spools that a process left behind which is not coming back."""
        for file in sorted(folder.glob("spool-*.db")):
            spool = cls._open(file, max_bytes)
            if spool is not None:
                yield spool
                spool.close()

    @classmethod
    def _open(cls, file: Path, max_bytes: int) -> Self | None:
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
        return self._count

    def put(self, callbacks: Sequence[tuple[int, str]]) -> None:
        """Keep callbacks, each as (received_at, query). On disk when this returns."""
        rows = [{"received_at": at, "query": query} for at, query in callbacks]
        with self._one_at_a_time:
            with self._begin() as connection:
                connection.execute(insert(_spooled), rows)
            self._count += len(rows)

    def oldest(self, limit: int) -> list[Spooled]:
        """At most `limit` of what waits, oldest first."""
        statement = select(_spooled).order_by(_spooled.c.id).limit(limit)
        with self._one_at_a_time, self._begin() as connection:
            return [Spooled(*row) for row in connection.execute(statement)]

    def remove(self, drained: Sequence[Spooled]) -> None:
        """Forget what is in the database by now: neighbours, as `oldest` gave them."""
        with self._one_at_a_time:
            with self._begin() as connection:
                connection.execute(
                    delete(_spooled).where(_spooled.c.id.between(drained[0].id, drained[-1].id))
                )
            self._count -= len(drained)

    def close(self) -> None:
        self._database.close()
        self._lock.close()

    def _begin(self) -> AbstractContextManager[Connection]:
        return self._database.write.begin()
