"""Keep the files of the service to their owner: an earlier version, or a copy, may be readable."""

import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.commands.first_run import ADMIN_KEY_FILE, TOKEN_FILE
from app.settings import Settings

log = logging.getLogger(__name__)

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
OF_A_DATA_FOLDER: Final = ("spool-*.db*", "spool-*.lock", TOKEN_FILE, ADMIN_KEY_FILE)


def close_to_others(settings: Settings) -> None:
    """Take all rights but the owner's from the data folder and its files. Warns where it can't."""
    if settings.data_dir.is_dir() and not is_closed(settings.data_dir):
        if is_of_the_service_alone(settings.data_dir):
            _close(settings.data_dir)
        else:
            log.warning("%s: others may enter it, and it isn't ours alone", settings.data_dir)
    for file in files_of(settings):
        if not is_closed(file):
            _close(file)


def files_of(settings: Settings) -> Iterator[Path]:
    """The service's own files, those of the embedded database included. Not each may exist."""
    for pattern in OF_A_DATA_FOLDER:
        yield from settings.data_dir.glob(pattern)
    if settings.is_embedded:
        for ending in ("", "-wal", "-shm", ".lock"):
            yield Path(f"{settings.database.database}{ending}")


def is_of_the_service_alone(folder: Path) -> bool:
    """True unless it is one like `/tmp` or `/var/lib`: closing that would lock other programs out.

    The service makes no folder in its own; a file system has `lost+found`.
    """
    is_shared = bool(folder.stat().st_mode & stat.S_ISVTX)
    return not is_shared and all(
        entry.name == "lost+found" or not entry.is_dir() for entry in folder.iterdir()
    )


def is_closed(path: Path) -> bool:
    """True if nobody but its owner has a right to it."""
    # A log of SQLite's may be gone by now.
    return not path.exists() or not path.stat().st_mode & OTHERS


def _close(path: Path) -> None:
    # Not by a descriptor: SQLite loses its locks on a file that its own process opens and closes.
    try:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~OTHERS)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("%s: others may read it, and that can't be changed: %s", path, error.strerror)
