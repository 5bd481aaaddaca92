"""The meaning of a database error: whose fault it is, if a retry helps, and what to log."""

import sqlite3
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

# The beginnings of SQLite's codes for a disk that is full, a file in use, one that we may not open
# or write to, and no memory: nothing of what is in the file is damaged.
_NO_DAMAGE: Final = (
    *("SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_READONLY"),
    *("SQLITE_NOMEM", "SQLITE_IOERR_NOMEM", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC"),
    *("SQLITE_IOERR_TRUNCATE", "SQLITE_IOERR_DELETE", "SQLITE_IOERR_LOCK", "SQLITE_IOERR_SHM"),
)


# `deliveries` refuses a change that would lose a report, as a trigger has not moved it.
_WOULD_LOSE_A_REPORT: Final = "ck_deliveries_only_report"


class _ToldApartError(Exception):
    """`kind` tells faults apart, where their words have a count or an address in them."""

    def __init__(self, why: str, kind: str | None = None) -> None:
        super().__init__(why)
        self.kind = kind or why


class DatabaseFaultError(_ToldApartError):
    """The database takes no reports now, and no single row is to blame."""


class NotWritableError(DatabaseFaultError):
    """The database answers but can't be written to: it is read-only, for example."""


class NoCertaintyError(_ToldApartError):
    """The commit returned, and yet the rows may be lost: the text says why."""


def no_certainty(why: str, kind: str | None = None) -> OperationalError:
    """The error of a commit whose outcome is unknown, for those who catch SQLAlchemy's."""
    return OperationalError(None, None, NoCertaintyError(why, kind))


def unusable(cause: psycopg.OperationalError) -> OperationalError:
    """The error of a server that answers and must not be used, for those who catch SQLAlchemy's."""
    return OperationalError(None, None, cause)


def of_driver(error: sqlite3.Error) -> Exception:
    """The error of SQLite's driver, for those who catch SQLAlchemy's."""
    return DBAPIError.instance(None, None, error, sqlite3.Error, hide_parameters=True)


class OldPrimaryError(psycopg.OperationalError):
    """The address leads to a server that another has taken over from."""

    def __init__(self) -> None:
        super().__init__("an old primary answers, from which another server has taken over")


class ServerHangsError(psycopg.OperationalError):
    """The connection to the server stands, but the server doesn't answer."""


def is_fault_of_data(error: Exception) -> bool:
    """True if a row is to blame, so that the batch would pass without it.

    A value that the driver can't even encode counts too. Everything else is the database's own
    fault: no connection, no disk space, no lock, no such table.
    """
    if isinstance(error, MemoryError):
        return False
    return isinstance(error, DataError | IntegrityError) or not isinstance(error, SQLAlchemyError)


def would_lose_a_report(error: Exception) -> bool:
    """True of a change that the database refused because it would lose another report."""
    cause = _cause(error)
    return isinstance(cause, psycopg.Error) and cause.diag.constraint_name == _WOULD_LOSE_A_REPORT


def is_of_an_old_primary(error: Exception) -> bool:
    """True if the server was refused because another has taken over from it."""
    return isinstance(_cause(error), OldPrimaryError)


def is_collision(error: Exception) -> bool:
    """True if another transaction got in the way, so a retry will probably pass."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return getattr(cause, "sqlstate", None) in _COLLISIONS


def is_damage(error: Exception) -> bool:
    """True if what is in a SQLite file can't be read, now or later."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    # Of a text that it can't decode the driver itself complains, without a code.
    name = getattr(cause, "sqlite_errorname", "")
    return isinstance(cause, sqlite3.Error) and not name.startswith(_NO_DAMAGE)


def was_cut(error: Exception) -> bool:
    """True if the connection was lost to a server that will probably take another."""
    return (
        isinstance(error, DBAPIError)
        and error.connection_invalidated
        and not isinstance(error.orig, ServerHangsError)
    )


def sqlstate(error: Exception) -> str | None:
    """PostgreSQL's code, if the server itself answered with the error."""
    return getattr(_cause(error), "sqlstate", None)


def description(error: Exception) -> str:
    """The kind of an error and its code, for the log: a driver's text may quote the row.

    Without a code there was no connection either, so the text quotes no row and says why. (SQLite's
    driver has none for a text that it can't decode, and quotes it.)
    """
    cause = _cause(error)
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    if (
        code is None
        and isinstance(error, OperationalError)
        and not isinstance(cause, sqlite3.Error)
    ):
        code = words(error)
    name = type(cause).__name__
    return f"{name} {code}" if code else name


def kind(error: Exception) -> str:
    """The description without the words of a warning."""
    cause = _cause(error)
    return cause.kind if isinstance(cause, NoCertaintyError) else description(error)


def words(error: Exception) -> str:
    """The driver's text on one line, without PostgreSQL's details, which quote the row."""
    cause = _cause(error)
    primary = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    return " ".join((primary or str(cause)).split())


def _cause(error: Exception) -> BaseException:
    return getattr(error, "orig", None) or error
