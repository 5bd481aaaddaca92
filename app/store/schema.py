"""The schema's version: made by the migrations alone, checked before anything is served."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, false, text, update

import migrations
from app.store.faults import NotWritableError
from app.store.tables import deliveries, reports


def alembic_config() -> Config:
    config = Config()
    # A `%` in an installation's path would be read as interpolation.
    folder = str(Path(migrations.__file__).parent).replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.set_main_option("path_separator", "os")
    return config


class SchemaError(Exception):
    """The database can't be brought to this program's schema."""


def upgrade(engine: Engine) -> tuple[str | None, str | None]:
    """Bring the schema up to date, and return the revisions before and after.

    Several at once take turns.
    """
    config = alembic_config()
    with engine.connect() as connection:
        before = current_revision(connection)
        _refuse_another_encoding(connection)
    if engine.dialect.name == "postgresql":
        # All or nothing, and under one lock: not the autocommit of the connections that serve.
        engine = engine.execution_options(isolation_level="READ COMMITTED")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise SchemaError(
                f"the schema was made by a newer version of paasoo-dlr: {error}"
            ) from None
    with engine.connect() as connection:
        return before, current_revision(connection)


def _refuse_another_encoding(connection: Connection) -> None:
    """Refuse an encoding that lacks the letters of some labels."""
    if connection.dialect.name == "postgresql":
        encoding = connection.execute(text("SHOW server_encoding")).scalar()
        if encoding != "UTF8":
            raise SchemaError(f"its encoding is {encoding}; create it with ENCODING 'UTF8'")


def current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@cache
def newest_revision() -> str | None:
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def is_current(connection: Connection) -> bool:
    """True if the database's schema is the one that this program was written for."""
    return current_revision(connection) == newest_revision()


@cache
def known_revisions() -> frozenset[str]:
    """All that this program has a migration for."""
    scripts = ScriptDirectory.from_config(alembic_config())
    return frozenset(script.revision for script in scripts.walk_revisions())


def require_writable(connection: Connection, *, may_be_newer: bool) -> None:
    """Raise `NotWritableError` on a schema of another version, or on a standby.

    `may_be_newer` is for a process that has found the schema current before: it was migrated since,
    which the previous version must bear. Raises the driver's error if a table is locked, or if
    writing to it is not allowed.
    """
    revision = current_revision(connection)
    is_newer = revision is not None and revision not in known_revisions()
    if revision != newest_revision() and not (may_be_newer and is_newer):
        raise NotWritableError("the schema is not current; run `paasoo-dlr migrate`")
    if connection.execute(text("SHOW transaction_read_only")).scalar() == "on":
        raise NotWritableError("the database is read-only")
    for table in (reports, deliveries):
        # This changes no row, yet waits for a lock on the table, as a write would.
        column = next(iter(table.primary_key.columns))
        connection.execute(update(table).values({column: column}).where(false()))
