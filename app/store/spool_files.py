"""A spool's file, read by others than the process whose spool it is. It may be damaged."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from app.store import read_only
from app.store.spool import PAGE_BYTES, PAGES_IN_USE, possible_time

# After this many ids in a row that can't be read, nothing follows.
MAX_UNREADABLE: Final = 100_000


def is_spool(file: Path) -> bool:
    """True if it has a spool's table. Raises `sqlite3.Error`."""
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True)) as opened:
        ask = "SELECT 1 FROM sqlite_master WHERE name = 'spooled'"
        return opened.execute(ask).fetchone() is not None


def contents_of(file: Path) -> tuple[int, int]:
    """The callbacks in it, and the bytes that they take of its limit. Raises `sqlite3.Error`."""
    with closing(read_only.connect(file)) as connection:
        ((waiting,),) = connection.execute("SELECT count(*) FROM spooled")
        ((pages,),) = connection.execute(PAGES_IN_USE)
    return waiting, pages * PAGE_BYTES


def readable(connection: sqlite3.Connection) -> Iterator[tuple[int, str | bytes]]:
    """Each row that can be read, as (received_at, query), in the order of ids."""
    last_id = unreadable = 0
    while unreadable < MAX_UNREADABLE:
        try:
            rows = connection.execute(
                "SELECT id, coalesce(CAST(received_at AS INTEGER), 0),"
                " coalesce(CAST(query AS BLOB), x'') FROM spooled WHERE id > ? ORDER BY id",
                (last_id,),
            )
            for last_id, received_at, query in rows:  # noqa: B007 - where to go on
                unreadable = 0
                yield possible_time(received_at), query.decode() if query.isascii() else query
        except sqlite3.Error:
            last_id, unreadable = last_id + 1, unreadable + 1
        else:
            return
