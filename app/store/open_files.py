"""The files of a SQLite database, watched: SQLite goes on in a file that no path leads to."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from app.store import faults


class OpenFiles:
    """A database file and its write-ahead log, by device and inode, as connections opened them.

    A file that is away may be put back. One that was overwritten has pages of two databases as soon
    as another is written, so that finding stands until a restart.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._log = Path(f"{file}-wal")
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[int, int]] = {}
        self._connections: set[int] = set()
        self._size = 0
        self._is_overwritten = False

    @property
    def is_overwritten(self) -> bool:
        return self._is_overwritten

    def watch(self, engine: Engine) -> None:
        """Note the files that each connection opens. Call it after what prepares a connection."""

        @event.listens_for(engine, "do_connect")
        def look_before(*_: object) -> None:
            # With a look before and after, it is the file in between that the connection opened.
            with self._lock:
                if self._file.exists():
                    self._note(self._file)

        @event.listens_for(engine, "connect")
        def look_after(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA schema_version")  # SQLite opens its log to read
            has_log = connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            with self._lock:
                self._note(self._file)
                if has_log:
                    self._note(self._log)
                self._connections.add(id(connection))

        @event.listens_for(engine, "close")
        def forget(connection: Any, _record: object) -> None:
            with self._lock:
                self._connections.discard(id(connection))
                if not self._connections:  # SQLite deletes the log with its last connection
                    self._known.pop(self._log, None)

    def require_in_place(self, ask_for_size: Callable[[], int]) -> None:
        """Raise `OperationalError` if a file was moved, deleted, replaced or overwritten.

        `ask_for_size` asks the connection that writes for the size of the database in bytes: after
        a VACUUM it fits into a file that has shrunk.
        """
        if not self._has_shrunk():
            return
        # Not under the lock: to ask may be to wait for the thread that has the connection.
        try:
            needed = ask_for_size()
        except sqlite3.OperationalError as error:  # locked, say
            raise faults.no_certainty(f"{self._file} has shrunk: {error}") from None
        except sqlite3.DatabaseError:
            needed = None
        with self._lock:
            size = self._note(self._file)
            self._is_overwritten |= needed is None or needed > size
            self._size = size
        self._has_shrunk()

    def _has_shrunk(self) -> bool:
        # The lock keeps an older look from taking a newer one's size for the size before.
        with self._lock:
            if self._is_overwritten:
                raise faults.no_certainty(f"{self._file} was overwritten; restart")
            sizes = {path: self._note(path) for path in self._known}
            size = sizes.get(self._file, 0)
            if size < self._size:
                return True
            self._size = size
            return False

    def _note(self, path: Path) -> int:
        """Remember which file is there, and return its size.

        Raises `OperationalError` if it is another than before, or none.
        """
        try:
            found = path.stat()
        except FileNotFoundError:
            raise faults.no_certainty(f"{path} was moved or deleted; restart") from None
        place = (found.st_dev, found.st_ino)
        if self._known.setdefault(path, place) != place:
            raise faults.no_certainty(f"{path} was replaced by another file; restart")
        return found.st_size
