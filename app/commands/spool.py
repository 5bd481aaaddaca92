"""`paasoo-dlr spool recover`: get acknowledged callbacks out of a damaged spool."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final

import typer
from sqlalchemy.exc import SQLAlchemyError

from app.commands import progress
from app.settings import SettingsError, load_settings
from app.store import faults
from app.store.spool import Spool, locked, possible_time

ROWS_AT_ONCE: Final = 500
# Ids in a row that can't be read; behind so many there is nothing more.
MAX_UNREADABLE: Final = 100_000
KEPT_AS: Final = ".damaged"


def recover(file: Path) -> None:
    settings = load_settings()
    if not file.exists():
        raise SettingsError(f"{file}: there is no such file")
    with locked(file) as lock:
        if lock is None:
            raise SettingsError(f"{file}: `serve` is using it; stop it first")
        kept = _set_aside(file)
        try:
            with closing(Spool.claim(file.parent, settings.spool_max_bytes)) as spool:
                recovered = _copy(kept, spool)
        except SQLAlchemyError as error:
            raise SettingsError(f"{file.parent}: {faults.words(error)}") from None
    typer.echo(f"recovered {recovered} callbacks into {spool.file}, which `serve` drains")
    typer.echo(f"the damaged file is kept as {kept}")


def _set_aside(file: Path) -> Path:
    """Rename the file and its log, so that no `serve` takes it for a spool."""
    if file.name.endswith(KEPT_AS):  # an earlier recovery was interrupted
        return file
    kept = Path(f"{file}{KEPT_AS}")
    if kept.exists():
        raise SettingsError(f"{kept} is there already; move it away first")
    for suffix in ("-wal", "-shm", ""):
        part = Path(f"{file}{suffix}")
        if part.exists():
            part.rename(f"{kept}{suffix}")
    return kept


def _copy(damaged: Path, spool: Spool) -> int:
    copied = 0
    with progress.shown("recovering", None) as advance, closing(sqlite3.connect(damaged)) as opened:
        found = readable(opened)
        while rows := list(islice(found, ROWS_AT_ONCE)):
            spool.put(rows)
            advance(len(rows))
            copied += len(rows)
    return copied


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
