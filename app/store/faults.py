"""The meaning of a database error: whose fault, whether to try again, what may be logged."""

from typing import Final

import psycopg
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
)

# PostgreSQL's codes for two transactions that got in each other's way.
_COLLISIONS: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock


class DatabaseFaultError(Exception):
    """The database takes no reports now, and no row of them is to blame."""


class NotWritableError(DatabaseFaultError):
    """The database answers, and yet reports can't be written to it: it's read-only, say."""


class ServerHangsError(psycopg.OperationalError):
    """The server is connected and doesn't answer."""


def is_fault_of_data(error: Exception) -> bool:
    """True where a row is to blame, so that the batch without it would pass.

    A value that the driver can't even encode counts too. Anything else is the database's own
    fault: no connection, no room, no lock, no such table.
    """
    if isinstance(error, MemoryError):
        return False
    return isinstance(error, DataError | IntegrityError) or not isinstance(error, SQLAlchemyError)


def is_collision(error: Exception) -> bool:
    """True where another transaction got in the way: the same again may well pass."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return getattr(cause, "sqlstate", None) in _COLLISIONS


def was_cut(error: Exception) -> bool:
    """True where the connection was lost, to a server that may well take another."""
    return (
        isinstance(error, DBAPIError)
        and error.connection_invalidated
        and not isinstance(error.orig, ServerHangsError)
    )


def is_refusal(error: OperationalError) -> bool:
    """True where a server is there and won't have us: a wrong name, a wrong password."""
    passing = ("starting up", "shutting down", "recovery", "too many", "remaining connection")
    said = str(error.orig)
    return "FATAL:" in said and not any(word in said for word in passing)


def description(error: Exception) -> str:
    """The kind of an error and its code, for the log: drivers quote the row in the text.

    Where there is no code, there was no connection either, and the text says why.
    """
    cause = _cause(error)
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    if code is None and isinstance(error, OperationalError):
        code = words(error)
    name = type(cause).__name__
    return f"{name} {code}" if code else name


def words(error: Exception) -> str:
    """The driver's own words, on one line. They may quote a row: not for the log of a batch."""
    return " ".join(str(_cause(error)).split())


def _cause(error: Exception) -> BaseException:
    return getattr(error, "orig", None) or error
