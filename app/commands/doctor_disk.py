"""What `doctor` finds on the local disk: the data folder, its space, and the spool."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.commands.findings import Finding, counted, error, ok, warning
from app.commands.private import files_of, is_closed, is_of_the_service_alone
from app.settings import Settings
from app.store import spool_files
from app.store.spool import is_closed_to_us

MIB: Final = 1024**2
LITTLE_SPACE: Final = 1024 * MIB
NO_SPACE: Final = 64 * MIB
# Of the spool's limit: time to act before it is full.
MUCH_OF_THE_SPOOL: Final = 0.8


def look_at_folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir.absolute()
    if folder.is_symlink() and not folder.exists():
        words = f"{folder} leads to {folder.readlink()}, which isn't there: is its disk mounted?"
        yield error("data folder", words)
        return
    if not folder.exists():
        parent = _existing(folder)
        if os.access(parent, os.W_OK | os.X_OK):
            yield ok("data folder", f"{folder}: none yet, and the first `serve` makes it")
        else:
            words = f"{folder} can't be made, as {parent} is not writable: change one of the two"
            yield error("data folder", words)
        return
    found = folder.stat()
    shown = f"{folder}, {stat.S_IMODE(found.st_mode):04o}, of user {found.st_uid}"
    if not folder.is_dir():
        yield error("data folder", f"{folder} is no folder: name one in DLR_DATA_DIR")
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        words = f"{shown}: user {os.geteuid()} can't work in it. Give it to the user of `serve`"
        yield error("data folder", words)
    else:
        wrong = [*_of_rights(settings, folder), *_of_owners(settings, found.st_uid)]
        yield from wrong or [ok("data folder", shown)]


def _of_rights(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Everyone else's rights: the files hold phone numbers and secrets."""
    remedy = "or restart `serve`, which does it"
    if not is_closed(folder):
        if is_of_the_service_alone(folder):
            words = f"{folder}: others may enter it. chmod 700 {folder}, {remedy}"
        else:
            words = f"{folder}: others may enter it, and it isn't the service's alone: name another"
        yield warning("data folder", words)
    if open_files := [str(file) for file in files_of(settings) if not is_closed(file)]:
        words = f"others may use {', '.join(open_files)}. chmod 600, {remedy}"
        yield warning("data folder", words)


def _of_owners(settings: Settings, owner: int) -> Iterator[Finding]:
    """Files of another user than the folder's, as a command that root ran leaves them."""
    foreign = [
        str(file) for file in files_of(settings) if file.exists() and file.stat().st_uid != owner
    ]
    if foreign:
        words = (
            f"{', '.join(foreign)}: not of the folder's user {owner}, so `serve` may not open it"
        )
        yield error("data folder", f"{words}. chown it")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(it for it in (path, *path.parents) if it.exists())


def look_at_space(settings: Settings) -> Iterator[Finding]:
    folders = [settings.data_dir.absolute()]
    if settings.is_embedded:
        folders.append(Path(settings.database.database or "").absolute().parent)
    on_disk = {_existing(it).stat().st_dev: _existing(it) for it in reversed(folders)}
    for folder in on_disk.values():
        yield _judge_space(settings, folder)


def _judge_space(settings: Settings, folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    words = f"{free // MIB:,} MiB in {folder}"
    if free < NO_SPACE:
        taken = "reports are answered 503 once it is full"
        return error("free space", f"{words}: {taken}. Make space, or move the folder")
    if settings.has_spool and free < settings.spool_max_bytes:
        limit = f"DLR_SPOOL_MAX_BYTES lets the spool take {settings.spool_max_bytes // MIB:,} MiB"
        return warning("free space", f"{words}, and {limit}: make space, or set less")
    if free < LITTLE_SPACE:
        return warning("free space", f"{words}: make space before it is full")
    return ok("free space", words)


def look_at_spool(settings: Settings) -> Iterator[Finding]:
    files = sorted(settings.data_dir.glob("spool-*.db"))
    if settings.is_embedded:
        if files:
            names = ", ".join(map(str, files))
            words = f"{names}: of a server database, and not drained into the embedded one"
            yield warning("spool", f"{words}. Give DLR_DATABASE_URL")
        else:
            yield ok("spool", "none: the embedded database has no use for it")
        return
    if not settings.has_spool:
        words = "off (DLR_SPOOL): reports are answered 503 while the database is away; turn it on"
        yield warning("spool", words)
    found = [finding for file in files for finding in _judge_spool(settings, file)]
    yield from found
    if not found and settings.has_spool:
        yield ok("spool", f"nothing waits in {settings.data_dir.absolute()}")


def _judge_spool(settings: Settings, file: Path) -> Iterator[Finding]:
    """Nothing, if nothing waits in it."""
    if is_closed_to_us(file):
        yield error("spool", f"{file} can't be read by this user: give it to the user of `serve`")
        return
    try:
        waiting, size = spool_files.contents_of(file)
    except sqlite3.OperationalError as failure:
        yield warning("spool", f"{file} could not be looked at: {failure}")
        return
    except sqlite3.DatabaseError as failure:
        words = f"{file} is damaged ({failure}), and has acknowledged reports in it"
        yield error("spool", f"{words}: stop `serve`, then `paasoo-dlr spool recover {file}`")
        return
    if waiting and size > MUCH_OF_THE_SPOOL * settings.spool_max_bytes:
        words = f"{counted(waiting, 'callback')} in {file}, {size // MIB:,} MiB, and at most"
        limit = f"{settings.spool_max_bytes // MIB:,} MiB (DLR_SPOOL_MAX_BYTES)"
        yield error("spool", f"{words} {limit}; then 503. Bring the database back, or set more")
    elif waiting:
        words = (
            f"{counted(waiting, 'callback')} in {file}, acknowledged and not in the database yet"
        )
        yield warning("spool", f"{words}: a running `serve` drains it once the database is back")
