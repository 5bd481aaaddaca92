"""What `doctor` finds about the database, on the very connections that `serve` uses."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.commands.database import remedy_of
from app.commands.findings import Finding, error, ok, standing_alone, warning
from app.ingest.recovery import MAX_CLOCK_DIFFERENCE_S
from app.settings import Settings
from app.store import faults, postgresql, read_only, schema, tables
from app.store.engine import READ_TIMEOUT_S, WRITE_TIMEOUT_S, Database, open_database
from app.store.replication import standbys_of

OLDEST_POSTGRESQL: Final = 130_000  # 13 has the functions of transaction numbers
# From here on, times are noticeably wrong.
CLOCK_DIFFERENCE_S: Final = 2
# A commit that returned is on the server's disk with these.
DURABLE: Final = ("on", "remote_apply")


def look(settings: Settings) -> Iterator[Finding]:
    if settings.is_embedded:
        yield from standing_alone("database", partial(_look_at_file, settings))
        return
    database = open_database(settings.database)
    try:
        with database.write.connect() as connection:
            version = postgresql.setting(connection, "server_version")
            number = int(postgresql.setting(connection, "server_version_num"))
    except SQLAlchemyError as failure:
        yield _away(settings, failure)
        return
    else:
        yield _judge_version(settings, version, number)
        for what, check in CHECKS.items():
            yield from standing_alone(what, partial(check, database))
    finally:
        database.close()


def _away(settings: Settings, failure: SQLAlchemyError) -> Finding:
    taken = "reports go to the spool" if settings.has_spool else "reports are answered 503"
    return error(
        "database",
        f"{settings.database_shown} can't be used: {remedy_of(failure)} Meanwhile {taken}."
        f" Not looked at: {', '.join(CHECKS)}. The error: {faults.words(failure)}",
    )


def _judge_version(settings: Settings, version: str, number: int) -> Finding:
    shown = f"{settings.database_shown}, PostgreSQL {version}"
    if number < OLDEST_POSTGRESQL:
        return error("database", f"{shown}: too old; 13 is the oldest that will do")
    return ok("database", shown)


def look_at_schema(database: Database) -> Iterator[Finding]:
    with database.read.connect() as connection:
        wrong = schema.mismatch(connection)
        revision = schema.current_revision(connection)
    if wrong is None:
        yield ok("schema", f"{revision}, which is current")
    else:
        yield error("schema", f"{revision or 'none'}: {wrong}")


def look_at_role(database: Database) -> Iterator[Finding]:
    with database.write.connect() as connection:
        is_standby = postgresql.is_standby(connection)
        is_read_only = schema.is_read_only(connection)
    taken = "reports go to the spool, or are refused"
    if is_standby:
        words = f"no, a standby: {taken}. Give all hosts, and target_session_attrs=read-write"
        yield error("primary", words)
    elif is_read_only:
        words = f"yes, but read-only (default_transaction_read_only): {taken}. Make it writable"
        yield error("primary", words)
    else:
        yield ok("primary", "yes, and it takes writes")


def look_at_rights(database: Database) -> Iterator[Finding]:
    """The server may take writes, and yet none of this user's."""
    with database.write.connect() as connection:
        missing = postgresql.missing_rights(connection, tables.metadata.tables)
    if missing:
        words = f"no {', '.join(missing)} on some tables, so that reports go to the spool, or are"
        advice = "grant the service's user these on every table, or give it the tables"
        yield error("rights", f"{words} refused: {advice}")
    else:
        yield ok("rights", "to read every table, and to write")


def look_at_timeouts(database: Database) -> Iterator[Finding]:
    with database.batch() as connection:
        write_ms = postgresql.statement_timeout_ms(connection)
    with database.read.connect() as connection:
        read_ms = postgresql.statement_timeout_ms(connection)
    words = f"{write_ms} ms to write, {read_ms} ms to read"
    if (write_ms, read_ms) == (WRITE_TIMEOUT_S * 1000, READ_TIMEOUT_S * 1000):
        yield ok("statement_timeout", words)
    else:
        wanted = f"{WRITE_TIMEOUT_S * 1000:.0f} and {READ_TIMEOUT_S * 1000:.0f}"
        advice = "what is between that changes it? A callback may wait longer than PaaSoo does"
        yield error("statement_timeout", f"{words}, though the service sets {wanted}: {advice}")


def look_at_durability(database: Database) -> Iterator[Finding]:
    with database.batch() as connection:
        value = postgresql.setting(connection, "synchronous_commit")
        off = [
            it for it in ("fsync", "full_page_writes") if postgresql.setting(connection, it) != "on"
        ]
    if value in DURABLE:
        yield ok("synchronous_commit", value)
    else:
        words = f"{value}, though the service sets `on`: what is between that changes it? A crash"
        yield error("synchronous_commit", f"{words} may lose reports that were acknowledged")
    for name in off:
        words = "is off: a crash of the machine may lose reports that were acknowledged; turn it on"
        yield warning(name, words)


def look_for_pooler(database: Database) -> Iterator[Finding]:
    with database.write.connect() as connection:
        is_pooled = postgresql.is_pooled(connection)
    if is_pooled:
        yield ok("pooler", "one is between: each transaction sets its own limits and durability")
    else:
        yield ok("pooler", "none is between")


def look_at_standbys(database: Database) -> Iterator[Finding]:
    with database.read.connect() as connection:
        standbys = standbys_of(connection)
    if standbys is None:
        words = "the server doesn't tell: grant the service's role pg_monitor to see them here"
        yield warning("standbys", words)
        return
    words = f"{standbys.synchronous} synchronous, {standbys.asynchronous} asynchronous"
    if standbys.are_wanted and not standbys.synchronous:
        cause = (
            "synchronous_standby_names wants one, so each commit waits, and reports go to the spool"
        )
        yield error("standbys", f"{words}: {cause}. Start it, or change that setting")
    elif standbys.may_lose_reports:
        cause = "a failover may lose the latest reports that were acknowledged"
        yield warning("standbys", f"{words}: {cause}; synchronous_standby_names prevents it")
    elif standbys.synchronous:
        yield ok("standbys", words)
    else:
        yield ok("standbys", "none follows this server")


def look_at_clock(database: Database) -> Iterator[Finding]:
    with database.read.connect() as connection:
        seconds = postgresql.clock_difference_s(connection)
    words = f"the database's is {abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}"
    advice = "let both machines keep their time (NTP): times of receipt may be wrong"
    if abs(seconds) > MAX_CLOCK_DIFFERENCE_S:
        yield error("clock", f"{words}: {advice}")
    elif abs(seconds) > CLOCK_DIFFERENCE_S:
        yield warning("clock", f"{words}: {advice}")
    else:
        yield ok("clock", words)


def _look_at_file(settings: Settings) -> Iterator[Finding]:
    """Of the embedded database. Its limits and its durability are in each connection of `serve`."""
    file = Path(settings.database.database or "")
    shown = f"{settings.database_shown}, SQLite {sqlite3.sqlite_version}"
    if not file.exists():
        words = "there is none yet, and the first `serve` makes it"
        yield warning(
            "database", f"{shown}: {words}. If you expected one, look at DLR_DATABASE_URL"
        )
        return
    engine = read_only.engine(file)
    try:
        with engine.connect() as connection:
            wrong = schema.mismatch(connection)
            revision = schema.current_revision(connection)
    except OperationalError as failure:
        words = f"{shown} can't be read: {faults.words(failure)}"
        yield error("database", f"{words}. Is it the service's, and may this user read it?")
        return
    except SQLAlchemyError as failure:
        words = f"{shown} can't be read: {faults.words(failure)}"
        yield error("database", f"{words}. Restore a backup (docs/operating.md)")
        return
    yield ok("database", shown)
    if wrong is None:
        yield ok("schema", f"{revision}, which is current")
    elif revision != schema.newest_revision() and wrong != schema.OLDER:
        yield warning(
            "schema", f"{revision or 'none'}: the next start of `serve` brings it up to date"
        )
    else:
        yield error("schema", f"{revision}: {wrong}")


Look = Callable[[Database], Iterator[Finding]]
CHECKS: Final[Mapping[str, Look]] = {
    "schema": look_at_schema,
    "primary": look_at_role,
    "rights": look_at_rights,
    "statement_timeout": look_at_timeouts,
    "synchronous_commit": look_at_durability,
    "pooler": look_for_pooler,
    "standbys": look_at_standbys,
    "clock": look_at_clock,
}
