"""The files of a SQLite database, watched: SQLite goes on in a file that no path leads to."""

from pathlib import Path

from app.store import faults


class OpenFiles:
    """A database file and its write-ahead log, by device and inode, as they were first seen."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._paths = (file, Path(f"{file}-wal"))
        self._known: dict[Path, tuple[int, int]] = {}
        self._size = 0

    def require_in_place(self) -> None:
        """Raise `OperationalError` if a file was moved, deleted, replaced or shortened."""
        for path in self._paths:
            try:
                found = path.stat()
            except FileNotFoundError:
                if path not in self._known:
                    continue
                raise faults.no_certainty(f"{path} was moved or deleted; restart") from None
            place = (found.st_dev, found.st_ino)
            if self._known.setdefault(path, place) != place:
                raise faults.no_certainty(f"{path} was replaced by another file; restart")
            if path == self._file:
                if found.st_size < self._size:
                    raise faults.no_certainty(f"{path} was overwritten; restart")
                self._size = found.st_size
