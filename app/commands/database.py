"""Open the database for a command: exclusively on SQLite, with every failure as one line."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import typer
from sqlalchemy.exc import SQLAlchemyError

from app.commands.private import close_to_others
from app.settings import Settings, SettingsError
from app.store import changes, faults, schema
from app.store.engine import Database, open_database

IF_AWAY: Final = "is it running, and are its address, user and password right?"
IF_NOT_ALLOWED: Final = "give the service's user all rights on its tables"
IF_ODD: Final = "the server answers, but its tables are odd: was a copy restored over others?"
_NOT_ALLOWED: Final = "42501"
# The classes of a statement that doesn't fit the tables.
_ODD: Final = frozenset({"21", "42"})


def say_which(settings: Settings) -> None:
    """Say on stderr which database a command works on: without its variable, it is another."""
    typer.echo(f"database: {settings.database_shown}", err=True)


def remedy_of(error: Exception) -> str:
    """Say what an operator should look at when the database failed with this error."""
    state = faults.sqlstate(error) or ""
    if state == _NOT_ALLOWED:
        return IF_NOT_ALLOWED
    return IF_ODD if state[:2] in _ODD else IF_AWAY


@contextmanager
def opened_database(settings: Settings, *, hurried: bool = False) -> Iterator[Database]:
    """Open the database. Database errors in the block become `SettingsError`."""
    close_to_others(settings)
    try:
        database = open_database(settings.database, hurried=hurried)
    except OSError as error:
        raise SettingsError(f"{settings.database_setting}: can't be opened: {error}") from None
    try:
        yield database
    except (SQLAlchemyError, schema.SchemaError) as error:
        raise SettingsError(f"{settings.database_setting}: {faults.words(error)}") from None
    finally:
        database.close()


@contextmanager
def database_to_read(settings: Settings) -> Iterator[Database]:
    """Open a database with a current schema, only to read: `serve` may run beside it."""
    file = settings.database.database or ""
    if settings.is_embedded and not Path(file).exists():
        raise SettingsError(f"{settings.database_setting}: there is no database yet: {file}")
    with opened_database(settings) as database:
        with database.read.connect() as connection:
            wrong = schema.mismatch(connection)
        if wrong is not None:
            raise SettingsError(f"{settings.database_setting}: {wrong}")
        yield database


@contextmanager
def database_to_write(settings: Settings, *, instead: str) -> Iterator[Database]:
    """Open a database to write to. On SQLite a running `serve` is an error that says `instead`."""
    with the_only_process_on(settings, instead=instead), database_to_read(settings) as database:
        changes.settle(database)
        yield database


@contextmanager
def the_only_process_on(
    settings: Settings, *, patience_s: float = 0, instead: str | None = None
) -> Iterator[None]:
    """Lock the SQLite file for this process, or raise `SettingsError` after `patience_s`."""
    if not settings.is_embedded:
        yield
        return
    file = Path(f"{settings.database.database}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("w")
    except OSError as error:
        raise SettingsError(f"{settings.database_setting}: can't write there: {error}") from None
    with opened:
        deadline = time.monotonic() + patience_s
        while not is_locked_by_us(opened) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not is_locked_by_us(opened):
            raise SettingsError(
                f"{settings.database_setting}: {settings.database.database} is served by another"
                f" process; {instead or 'SQLite is for one, PostgreSQL for many'}"
            )
        yield


def is_locked_by_us(opened: IO[str]) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
