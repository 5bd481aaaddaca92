"""The schema's version: made by the migrations alone, checked before anything is served."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

import migrations


def alembic_config() -> Config:
    config = Config()
    # A `%` in an installation's path would be read as interpolation.
    folder = str(Path(migrations.__file__).parent).replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.set_main_option("path_separator", "os")
    return config


def upgrade(engine: Engine) -> tuple[str | None, str | None]:
    """Bring the schema up to date; the revisions before and after. Several at once take turns."""
    config = alembic_config()
    with engine.connect() as connection:
        before = current_revision(connection)
    if engine.dialect.name == "postgresql":
        # All or nothing, and under one lock: not the autocommit of the connections that serve.
        engine = engine.execution_options(isolation_level="READ COMMITTED")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    with engine.connect() as connection:
        return before, current_revision(connection)


def current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str | None:
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def is_current(connection: Connection) -> bool:
    """Whether the database's schema is the one that this program was written for."""
    return current_revision(connection) == newest_revision()
