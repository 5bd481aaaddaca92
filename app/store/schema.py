"""The schema's version: made by the migrations alone, checked before anything is served.

Alembic is loaded only to migrate: loading it takes a fifth of the time that `serve` needs to start.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, false, inspect, text, update

import migrations
from app.store.faults import NotWritableError
from app.store.tables import deliveries, reports

if TYPE_CHECKING:
    from alembic.config import Config

# Any number will do that no other program takes a lock on in the same database.
MIGRATION_LOCK: Final = 7_266_331
TURN_EVERY_S: Final = 0.2
_NO_TIME_LIMIT: Final = """
SELECT count(set_config(name, '0', true)) FROM pg_settings WHERE name = 'transaction_timeout'
"""

MIGRATIONS: Final = Path(migrations.__file__).parent
# Without them reports would be lost from the history, and from the statistics.
TRIGGERS: Final = frozenset(
    {f"count_deliveries_on_{event}" for event in ("insert", "update", "delete")}
    | {"move_only_report"}
)
_ENABLED: Final = {
    "postgresql": """SELECT tgname FROM pg_trigger
        WHERE tgrelid = to_regclass('deliveries') AND tgenabled IN ('A',
            CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END
        )""",
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'deliveries'",
}
OLDER: Final = "this program is older than its database; run the newer version"


def alembic_config() -> "Config":
    from alembic.config import Config

    config = Config()
    # A `%` in an installation's path would be read as interpolation.
    folder = str(MIGRATIONS).replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.set_main_option("path_separator", "os")
    return config


class SchemaError(Exception):
    """The database can't be brought to this program's schema."""


def upgrade(
    engine: Engine, progress: Callable[[str], object] = lambda _: None
) -> tuple[str | None, str | None]:
    """Bring the schema up to date, and return the revisions before and after.

    Several at once take turns. A migration that takes long tells its steps to `progress`.
    """
    with engine.connect() as connection:
        before = current_revision(connection)
        _refuse_another_encoding(connection)
    if before == newest_revision():
        return before, before
    if _is_newer(before):
        raise SchemaError(OLDER)
    _migrate(engine, progress)
    with engine.connect() as connection:
        return before, current_revision(connection)


def _migrate(engine: Engine, progress: Callable[[str], object]) -> None:
    from alembic import command
    from alembic.util.exc import CommandError

    config = alembic_config()
    if engine.dialect.name == "postgresql":
        # Transactions, not the autocommit of the connections that serve.
        engine = engine.execution_options(isolation_level="READ COMMITTED")
    with _in_turn(engine) as require_turn, engine.connect() as connection:

        def tell(step: str) -> None:
            require_turn()
            progress(step)

        config.attributes |= {"connection": connection, "progress": tell}
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise SchemaError(str(error)) from None


@contextmanager
def _in_turn(engine: Engine) -> Iterator[Callable[[], object]]:
    """Let two that migrate at once take turns; the second finds nothing to do.

    The lock has a connection of its own, as a migration may be several transactions. Yields a
    function that raises the driver's error if that connection is gone.
    """
    if engine.dialect.name != "postgresql":
        yield lambda: None
        return
    with engine.begin() as connection:
        # A prepared statement's snapshot would stay, and one that waits has one, too: the building
        # of an index waits for all.
        driver: Any = connection.connection.driver_connection
        driver.prepare_threshold = None
        connection.exec_driver_sql(_NO_TIME_LIMIT)
        try_lock = f"SELECT pg_try_advisory_xact_lock({MIGRATION_LOCK})"
        while not connection.exec_driver_sql(try_lock).scalar_one():
            time.sleep(TURN_EVERY_S)
        yield lambda: connection.exec_driver_sql("SELECT 1")


def _refuse_another_encoding(connection: Connection) -> None:
    """Refuse an encoding that lacks the letters of some labels."""
    if connection.dialect.name == "postgresql":
        encoding = connection.execute(text("SHOW server_encoding")).scalar()
        if encoding != "UTF8":
            raise SchemaError(f"its encoding is {encoding}; create it with ENCODING 'UTF8'")


def current_revision(connection: Connection) -> str | None:
    """The revision that Alembic wrote down; None before the first migration."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def newest_revision() -> str:
    return max(known_revisions())


def mismatch(connection: Connection) -> str | None:
    """The fault of the schema and its remedy; None if it is current."""
    revision = current_revision(connection)
    if revision == newest_revision():
        missing = TRIGGERS - set(connection.scalars(text(_ENABLED[connection.dialect.name])))
        if missing:
            names = ", ".join(sorted(missing))
            return (
                f"`deliveries` lacks enabled triggers ({names}): is it being restored? If not, "
                "enable them or, where they are gone, restore a copy into a new database"
            )
        return None
    if _is_newer(revision):
        return OLDER
    found = f"its schema is {revision}" if revision else "it has no schema"
    return f"{found}, this program needs {newest_revision()}; run `paasoo-dlr migrate`"


def _is_newer(revision: str | None) -> bool:
    """True if a newer version of this program made the schema."""
    return revision is not None and revision not in known_revisions()


@cache
def known_revisions() -> frozenset[str]:
    """All that this program has a migration for: each file's name begins with its revision."""
    files = (MIGRATIONS / "versions").glob("[0-9]*_*.py")
    return frozenset(file.name.partition("_")[0] for file in files)


def is_read_only(connection: Connection) -> bool:
    """True on a standby, and where an administrator has made the server read-only."""
    return connection.execute(text("SHOW transaction_read_only")).scalar() == "on"


def require_writable(connection: Connection, *, may_be_newer: bool) -> None:
    """Raise `NotWritableError` on a schema of another version, or on a standby.

    `may_be_newer` is for a process that has found the schema current before: it was migrated since,
    which the previous version must bear. Raises the driver's error if a table is locked, or if
    writing to it is not allowed.
    """
    wrong = mismatch(connection)
    if wrong is not None and not (may_be_newer and wrong == OLDER):
        raise NotWritableError(wrong)
    if is_read_only(connection):
        raise NotWritableError("the database is read-only")
    for table in (reports, deliveries):
        # This changes no row, yet waits for a lock on the table, as a write would.
        column = next(iter(table.primary_key.columns))
        connection.execute(update(table).values({column: column}).where(false()))
