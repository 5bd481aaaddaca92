"""Read a SQLite file without a trace: beside the process that writes to it, or without one."""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

LOCK_TIMEOUT_S = 1


def connect(file: Path) -> sqlite3.Connection:
    """A connection that makes, changes and removes no file. Raises SQLite's errors.

    To open a database with a write-ahead log is to make the log's files, and to close it, to remove
    them; but not if it is said to be immutable. One without these files is: nobody has it open.
    """
    mode = "mode=ro" if Path(f"{file}-wal").exists() else "immutable=1"
    address = f"{file.resolve().as_uri()}?{mode}"
    return sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT_S)


def engine(file: Path) -> Engine:
    """The same for SQLAlchemy."""
    options: dict[str, Any] = {"creator": lambda: connect(file), "poolclass": NullPool}
    return create_engine("sqlite://", hide_parameters=True, **options)
