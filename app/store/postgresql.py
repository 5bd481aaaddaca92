"""Connections to PostgreSQL, straight or through a pooler, with the limits of each transaction.

Through a pooler a session's settings may reach other clients, or be lost, so each transaction sets
its own. Straight, a session keeps them, whatever the server's configuration is changed to.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event

from app.store import faults
from app.store.faults import OldPrimaryError, ServerHangsError

CONNECT_TIMEOUT_S: Final = 2  # libpq's minimum
# The server ends a late statement itself; we wait this much longer for it to do so.
GRACE_S: Final = 0.5
# A process that vanishes within a transaction, with its machine, must not keep its locks for long:
# another one waits for the leases of its webhooks, for example.
IDLE_IN_TRANSACTION_S: Final = 5.0

# `on`, unless the server asks for more: a commit that returned must be on disk.
_SETTINGS: Final = """
    set_config('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, {is_local}),
    set_config('statement_timeout', '{timeout_ms}', {is_local}),
    set_config('idle_in_transaction_session_timeout', '{idle_ms}', {is_local})"""
# The cluster, and its timeline, which changes when a standby takes over.
_PLACE: Final = """(SELECT system_identifier FROM pg_control_system()) || '/' || CASE
    WHEN pg_is_in_recovery() THEN 'standby' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END
"""
_HISTORY: Final = "(SELECT history FROM feed)"
UNKNOWN_PLACE: Final = "unknown"
_UNKNOWN: Final = f"'{UNKNOWN_PLACE}'"
# A PostgreSQL that is no PostgreSQL, or an administrator, may refuse the functions above, and a
# database that was not migrated has no `feed.history`.
_NOT_TOLD: Final = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
)


class Server(NamedTuple):
    """One history of commits. Two that are promoted from one primary may share their place.

    `history` is `feed.history`: a place and a token, new with every server that the change feed is
    settled on, so the two differ in it.
    """

    place: str  # the cluster's identifier and the timeline
    history: str | None

    def is_outdated_by(self, other: "Server") -> bool:
        """True for an old primary: the other server took over from it."""
        cluster, _, timeline = self.place.partition("/")
        other_cluster, _, other_timeline = other.place.partition("/")
        if other_timeline == "standby":  # its timeline isn't known, or it was just promoted
            return False
        return cluster == other_cluster and timeline < other_timeline  # eight digits each


# The functions of PostgreSQL that warn, at each commit, that ids run out. Such a commit is good.
_OF_THE_END_OF_IDS: Final = frozenset({"GetNewTransactionId", "GetNewMultiXactId"})


class Warned(NamedTuple):
    """A warning of the server's."""

    sqlstate: str
    text: str

    @property
    def words(self) -> str:
        return f"{self.sqlstate} {self.text}"


# True for a server that must never be used.
IsOutdated = Callable[[Server], bool]
# The host and the port of the latest connection, shared by the engines of a database.
LatestHost = list[tuple[str, int]]


CONNECT_ARGS: Final = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "application_name": "paasoo-dlr",
    "client_encoding": "utf8",  # independent of the database's encoding
    # Some connections are used seldom, and a firewall forgets them without a word.
    "keepalives_idle": 60,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


class AnotherServerError(psycopg.OperationalError):
    """The address leads to another server than the one that is written to."""


class ServerConnection(psycopg.Connection[Any]):
    """Gives up on a server that hangs, and remembers what the server warned of."""

    patience_s: float | None = CONNECT_TIMEOUT_S
    is_pooled = False
    # SQL for the place and the history; NULL or a constant if the server doesn't tell.
    place_sql = _UNKNOWN
    history_sql = "NULL"
    server = Server(UNKNOWN_PLACE, None)
    # True if an earlier host of the address is an old primary.
    passed_over_an_old_primary = False
    # Of the latest transaction. Its commit may be on this server alone, and lost with it: the wait
    # for a synchronous standby was cancelled, for example.
    warning: Warned | None = None
    # Transaction ids run out: the server will soon refuse every write, unless it is vacuumed.
    warning_of_ids: Warned | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.patience_s)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()  # a late answer would be taken for that of the next statement
            raise ServerHangsError("the server doesn't answer") from error

    def note(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized != "WARNING":
            return
        warned = Warned(notice.sqlstate or "", notice.message_primary or "")
        if notice.source_function in _OF_THE_END_OF_IDS:
            self.warning_of_ids = warned
        else:
            self.warning = warned


def engine(
    url: URL,
    timeout_s: float | None,
    is_outdated: IsOutdated,
    latest: LatestHost,
    *,
    latest_first: bool = True,
    **options: Any,
) -> Engine:
    """An engine in autocommit whose statements end after `timeout_s`, or never.

    It refuses, as a failed connection, each server that `is_outdated` holds for. Of several hosts
    it tries the one of the latest connection first: a host that is silent costs two seconds.
    """
    created = create_engine(
        url,
        connect_args=dict(CONNECT_ARGS),
        hide_parameters=True,  # an error's text would quote phone numbers
        isolation_level="AUTOCOMMIT",
        **options,
    )
    event.listen(created, "handle_error", _let_go_if_read_only)
    in_transaction = _settings("true", timeout_s)

    @event.listens_for(created, "do_connect")
    def connect(_dialect: object, _record: object, args: Any, options: Any) -> ServerConnection:
        known = _beginning_with(latest[0], options) if latest_first and latest else options
        connection = _connect(args, known, is_outdated)
        latest[:] = [(connection.info.host, connection.info.port)]
        _prepare(connection, timeout_s)
        return connection

    @event.listens_for(created, "begin")
    def begin(connection: Connection) -> None:
        raw = driver_connection(connection)
        raw.warning = raw.warning_of_ids = None
        if raw.is_pooled:
            _begin_through_a_pooler(connection, in_transaction, is_outdated)

    return created


def _let_go_if_read_only(context: ExceptionContext) -> None:
    """Use the session no more: it stays read-only when the server no longer is."""
    if isinstance(context.original_exception, psycopg.errors.ReadOnlySqlTransaction):
        context.is_disconnect = True


def _prepare(connection: ServerConnection, timeout_s: float | None) -> None:
    """Set the limits and the durability of the session; through a pooler each transaction does."""
    with _closed_on_error(connection):
        if not connection.is_pooled:
            connection.execute(_settings("false", timeout_s))
        connection.patience_s = None if timeout_s is None else timeout_s + GRACE_S
        _find_history(connection)  # a migration may hold its table, so after the time limit
        connection.add_notice_handler(connection.note)


def _begin_through_a_pooler(connection: Connection, settings: str, is_outdated: IsOutdated) -> None:
    """Begin a transaction with its own settings, and find out which server it is on."""
    raw = driver_connection(connection)
    raw.autocommit = False
    ask = f"{settings}, {raw.place_sql}, {raw.history_sql}"
    raw.server = Server(*connection.exec_driver_sql(ask).one()[-2:])
    if is_outdated(raw.server):
        raise faults.unusable(OldPrimaryError())


def _settings(is_local: str, timeout_s: float | None) -> str:
    """SQL that makes the settings: of the session, or of the transaction alone."""
    limits_s = (0.0, 0.0) if timeout_s is None else (timeout_s, IDLE_IN_TRANSACTION_S)
    timeout_ms, idle_ms = (int(limit_s * 1000) for limit_s in limits_s)
    return "SELECT" + _SETTINGS.format(is_local=is_local, timeout_ms=timeout_ms, idle_ms=idle_ms)


def _connect(args: Any, options: Mapping[str, Any], is_outdated: IsOutdated) -> ServerConnection:
    """Connect to the first host that is no old primary. libpq would stay with the old primary."""
    connection = _connect_to_one(args, options)
    if not is_outdated(connection.server):
        return connection
    connection.close()
    for one in _each_host(options):
        with suppress(psycopg.OperationalError):
            connection = _connect_to_one((), one)
            if not is_outdated(connection.server):
                connection.passed_over_an_old_primary = True
                return connection
            connection.close()
    raise OldPrimaryError


def _connect_to_one(args: Any, options: Mapping[str, Any]) -> ServerConnection:
    connection = ServerConnection.connect(*args, **options, autocommit=True)
    with _closed_on_error(connection):
        _find_place(connection)
    return connection


@contextmanager
def _closed_on_error(connection: ServerConnection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _each_host(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options for each single host, if there are several."""
    names = _lists_in(options)
    lists = (str(options[name]).split(",") for name in names)
    for values in zip(*lists, strict=True):
        yield {**options, **dict(zip(names, values, strict=True))}


def _lists_in(options: Mapping[str, Any]) -> list[str]:
    return [name for name in ("host", "hostaddr", "port") if "," in str(options.get(name, ""))]


def _beginning_with(latest: tuple[str, int], options: Mapping[str, Any]) -> dict[str, Any]:
    """The same options, with this host before the others."""
    host, port = latest

    def is_another(one: Mapping[str, Any]) -> bool:
        return one.get("host") != host or str(one.get("port") or port) != str(port)

    hosts = sorted(_each_host(options), key=is_another)
    reordered = {name: ",".join(one[name] for one in hosts) for name in _lists_in(options)}
    return {**options, **reordered}


def _find_place(connection: ServerConnection) -> None:
    """Find out which server answers, and if a pooler is between: it hides the server's process."""
    found = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert found
    connection.is_pooled = found[0] != connection.pgconn.backend_pid
    if connection.is_pooled:
        connection.prepare_threshold = None  # the next transaction may get another session
    with suppress(*_NOT_TOLD):
        row = connection.execute(f"SELECT {_PLACE}").fetchone()
        assert row
        connection.server = Server(row[0], None)
        connection.place_sql = _PLACE


def _find_history(connection: ServerConnection) -> None:
    with suppress(*_NOT_TOLD):
        row = connection.execute(f"SELECT {_HISTORY}").fetchone()
        assert row
        connection.server = connection.server._replace(history=row[0])
        connection.history_sql = _HISTORY


def driver_connection(connection: Connection) -> ServerConnection:
    raw: Any = connection.connection.dbapi_connection
    assert isinstance(raw, ServerConnection)
    return raw


def server_of(connection: Connection) -> Server:
    """The server, as it was when the connection or, through a pooler, the transaction began."""
    return driver_connection(connection).server


def place_of(connection: Connection) -> str:
    """The server's place now: a connection may be older than its promotion."""
    place: str = connection.exec_driver_sql(
        f"SELECT {driver_connection(connection).place_sql}"
    ).scalar_one()
    return place


def passed_over_an_old_primary(connection: Connection) -> bool:
    """True if a host that comes earlier in the address is an old primary."""
    return driver_connection(connection).passed_over_an_old_primary


def clock_difference_s(connection: Connection) -> float:
    """The server's clock minus ours, in seconds; 0 for the embedded database."""
    if connection.dialect.name != "postgresql":
        return 0
    began = time.time()
    now = connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one()
    return float(now) - (began + time.time()) / 2


def is_pooled(connection: Connection) -> bool:
    """True if a pooler is between us and the server."""
    return driver_connection(connection).is_pooled


# A table that isn't there is the schema's fault, and NULL here.
_MISSING_RIGHTS: Final = """
SELECT DISTINCT r FROM unnest(%(tables)s::text[]) AS t,
    unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r
WHERE NOT has_table_privilege(to_regclass(t), r) ORDER BY r
"""


def missing_rights(connection: Connection, tables: Iterable[str]) -> Sequence[str]:
    """The rights, of `SELECT`, `INSERT` and so on, that this user lacks on some of the tables."""
    return connection.exec_driver_sql(_MISSING_RIGHTS, {"tables": list(tables)}).scalars().all()


def setting(connection: Connection, name: str) -> str:
    """A setting as it is in force on this connection."""
    ask = "SELECT current_setting(%(name)s)"
    value: str = connection.exec_driver_sql(ask, {"name": name}).scalar_one()
    return value


def statement_timeout_ms(connection: Connection) -> int:
    ask = "SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout'"
    value: int = connection.exec_driver_sql(ask).scalar_one()
    return value


def is_standby(connection: Connection) -> bool:
    value: bool = connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one()
    return value
