"""`paasoo-dlr spool recover`: get acknowledged callbacks out of a damaged spool."""

import os
import re
import sqlite3
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Final

import typer
from sqlalchemy.exc import SQLAlchemyError

from app.commands import progress
from app.commands.private import close_to_others
from app.settings import Settings, SettingsError, load_settings
from app.store import faults, spool_files
from app.store.spool import Spool, locked

ROWS_AT_ONCE: Final = 500
KEPT_AS: Final = ".damaged"
NAME: Final = re.compile(rf"spool-\d+\.db({re.escape(KEPT_AS)})?")


def recover(file: Path) -> None:
    settings = load_settings()
    if not file.exists():
        raise SettingsError(f"{file}: there is no such file")
    close_to_others(settings)
    _require_spool(file, settings)
    with locked(file) as lock:
        if lock is None:
            raise SettingsError(f"{file}: `serve` is using it; stop it first")
        kept = _set_aside(file)
        try:
            with closing(Spool.claim(file.parent, settings.spool_max_bytes)) as spool:
                recovered = _copy(kept, spool)
                _give_to_owner_of(kept, spool.file, file.with_suffix(".lock"))
        except OSError as error:
            raise SettingsError(f"{file.parent}: {error}") from None
        except SQLAlchemyError as error:
            raise SettingsError(f"{file.parent}: {faults.words(error)}") from None
    typer.echo(f"recovered {recovered} callbacks into {spool.file}, which `serve` drains")
    typer.echo(f"the damaged file is kept as {kept}")


def _require_spool(file: Path, settings: Settings) -> None:
    """Refuse any file but a spool: it is renamed, even while another process writes to it.

    A spool in the data folder is known by its name, however damaged; any other file must be
    readable so far that SQLite finds a spool's table in it.
    """
    database = Path(settings.database.database or "") if settings.is_embedded else None
    if database is not None and database.exists() and file.samefile(database):
        raise SettingsError(f"{file}: is the database, not a spool")
    is_ours = file.resolve().parent == settings.data_dir.resolve()
    is_named_so = is_ours and NAME.fullmatch(file.name) is not None
    try:
        is_spool = spool_files.is_spool(file)
    except sqlite3.Error as error:
        if not is_named_so:
            raise SettingsError(f"{file}: can't be read as a spool: {error}") from None
    else:
        if not is_spool:
            raise SettingsError(f"{file}: is not a spool: it has no table `spooled`")


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


def _give_to_owner_of(damaged: Path, spool: Path, lock: Path) -> None:
    """Let `serve` open what root has recovered."""
    owner = damaged.stat()
    for file in (lock, spool, spool.with_suffix(".lock"), *spool.parent.glob(f"{spool.name}-*")):
        with suppress(PermissionError):  # only root may, and anybody else need not
            os.chown(file, owner.st_uid, owner.st_gid)


def _copy(damaged: Path, spool: Spool) -> int:
    copied = 0
    with progress.shown("recovering", None) as advance, closing(sqlite3.connect(damaged)) as opened:
        found = spool_files.readable(opened)
        while rows := list(islice(found, ROWS_AT_ONCE)):
            spool.put(rows)
            advance(len(rows))
            copied += len(rows)
    return copied
