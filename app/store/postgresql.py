"""Connections to PostgreSQL, straight or through a pooler, with the limits of each transaction.

Through a pooler a session's settings may reach other clients, or be lost, so each transaction sets
its own. Straight, a session keeps them, whatever the server's configuration is changed to.
"""

import time
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, create_engine, event

from app.store.faults import ServerHangsError

CONNECT_TIMEOUT_S: Final = 2  # libpq's minimum
# The server ends a late statement itself; we wait this much longer for it to do so.
GRACE_S: Final = 0.5

# `on`, unless the server asks for more: a commit that returned must be on disk.
_SETTINGS: Final = """
    set_config('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, {is_local}),
    set_config('statement_timeout', '{timeout_ms}', {is_local})"""
# One history of commits: the cluster, and its timeline, which changes when a standby takes over.
_SERVER: Final = """(SELECT system_identifier FROM pg_control_system()) || '/' || CASE
    WHEN pg_is_in_recovery() THEN 'standby' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END
"""
UNKNOWN_SERVER: Final = "unknown"
# A PostgreSQL that is no PostgreSQL, or an administrator, may refuse the functions above.
_NOT_TOLD: Final = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.FeatureNotSupported,
)


class AnotherServerError(psycopg.OperationalError):
    """The address leads to another server than the one that is written to."""


class ServerConnection(psycopg.Connection[Any]):
    """Gives up on a server that hangs, and remembers what the server warned of."""

    patience_s: float | None = CONNECT_TIMEOUT_S
    is_pooled = False
    server = UNKNOWN_SERVER
    warning: str | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.patience_s)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()  # a late answer would be taken for that of the next statement
            raise ServerHangsError("the server doesn't answer") from error

    def note(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self.warning = f"{notice.sqlstate} {notice.message_primary}"


def engine(url: URL, timeout_s: float | None, **options: Any) -> Engine:
    """An engine in autocommit whose statements end after `timeout_s`, or never."""
    created = create_engine(
        url,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "paasoo-dlr",
            "client_encoding": "utf8",  # independent of the database's encoding
        },
        hide_parameters=True,  # an error's text would quote phone numbers
        isolation_level="AUTOCOMMIT",
        **options,
    )
    timeout_ms = 0 if timeout_s is None else int(timeout_s * 1000)
    in_session = "SELECT" + _SETTINGS.format(timeout_ms=timeout_ms, is_local="false")
    in_transaction = "SELECT" + _SETTINGS.format(timeout_ms=timeout_ms, is_local="true")

    @event.listens_for(created, "do_connect")
    def connect(_dialect: object, _record: object, args: Any, options: Any) -> ServerConnection:
        connection = ServerConnection.connect(*args, **options, autocommit=True)
        _explore(connection)
        if not connection.is_pooled:
            connection.execute(in_session)
        connection.patience_s = None if timeout_s is None else timeout_s + GRACE_S
        connection.add_notice_handler(connection.note)
        return connection

    @event.listens_for(created, "begin")
    def begin(connection: Connection) -> None:
        raw = _raw(connection)
        raw.warning = None
        if raw.is_pooled:
            raw.autocommit = False
            connection.exec_driver_sql(in_transaction)
            if raw.server != UNKNOWN_SERVER:
                raw.server = connection.exec_driver_sql(f"SELECT {_SERVER}").scalar_one()

    return created


def _explore(connection: ServerConnection) -> None:
    """Find out which server answers, and if a pooler is between: it hides the server's process."""
    found = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert found
    connection.is_pooled = found[0] != connection.pgconn.backend_pid
    if connection.is_pooled:
        connection.prepare_threshold = None  # the next transaction may get another session
    try:
        row = connection.execute(f"SELECT {_SERVER}").fetchone()
    except _NOT_TOLD:
        return
    assert row
    connection.server = row[0]


def _raw(connection: Connection) -> ServerConnection:
    raw: Any = connection.connection.dbapi_connection
    assert isinstance(raw, ServerConnection)
    return raw


def server_of(connection: Connection) -> str:
    """The server's history of commits: the cluster's identifier and its timeline."""
    return _raw(connection).server


def clock_difference_s(connection: Connection) -> float:
    """The server's clock minus ours, in seconds; 0 for the embedded database."""
    if connection.dialect.name != "postgresql":
        return 0
    began = time.time()
    now = connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one()
    return float(now) - (began + time.time()) / 2


def is_pooled(connection: Connection) -> bool:
    """True if a pooler is between us and the server."""
    return _raw(connection).is_pooled


def warning_of(connection: Connection) -> str | None:
    """The SQLSTATE and the text of what the server warned of since the transaction began.

    A commit that it warns about may be on this server alone, and lost with it: a wait for a
    synchronous standby that was cancelled, for example.
    """
    return _raw(connection).warning
