"""Deliveries in bulk: in large batches, through the same statement that records reports.

So the filled database has every index, trigger and column that the migrations make.
"""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import psycopg
from sqlalchemy import URL, Connection, inspect, text

from app.callback.parse import parse
from app.ops import upkeep
from app.reports import DeliveryReport
from app.store import schema, write
from app.store.engine import Database, open_database

DAYS: Final = 30
BATCH: Final = 10_000
# SQLite writes each changed page once per transaction, so long transactions save much.
BATCHES_A_TRANSACTION: Final = 50
# Filled ids are spread evenly below `e000…`; growing new ones begin with `f`.
ID_SPACE: Final = 0xE000_0000
SPREAD: Final = 61803399  # as in load.lua

NETWORKS: Final = (
    *("52099", "52501", "52503", "51503", "51502", "46000", "46001", "45204", "45205", "41001"),
    *("31026", "40410", "40445", "50219", "50212", "51010", "51089", "45412", "20810", "26201"),
)
RARE_NETWORK: Final = "99901"
RARE_CODE: Final = "777"
ONE_NUMBER: Final = "6599999999"
FEW: Final = 5
DELIVERED: Final = "status=0&statuscode=delivered&errcode=1"
FAILURES: Final = (
    "status=404&statuscode=Absent%20Subscriber%20Temporary&errcode=2",
    "status=404&statuscode=Absent%20Subscriber%20Permanent&errcode=3",
    "status=404&statuscode=Call%20Barred%20by%20User&errcode=4",
    "status=404&statuscode=Anti-Spam%20Rejection&errcode=5",
    "status=404&statuscode=Unroutable",
    "status=401&statuscode=rejected",
    "status=501&statuscode=System%20Error",
)


def id_step(deliveries: int) -> int:
    """The distance between two filled ids."""
    return ID_SPACE // deliveries


def make_tables(url: URL) -> None:
    """Make the tables with the migrations."""
    database = open_database(url, hurried=False)
    schema.upgrade(database.write)
    database.close()


def strip_tables(url: URL) -> None:
    """Leave the two tables only their keys: no trigger, no other index. For PostgreSQL."""
    database = open_database(url, hurried=False)
    with database.write.begin() as connection:
        connection.execute(text("ALTER TABLE deliveries DISABLE TRIGGER USER"))
        for table in ("reports", "deliveries"):
            for index in inspect(connection).get_indexes(table):
                connection.execute(text(f"DROP INDEX {index['name']}"))
    database.close()


def fill(url: URL, deliveries: int, on_progress: Callable[[int], None], days: int = DAYS) -> None:
    """Make the tables and fill them with deliveries of the last days, one per message."""
    make_tables(url)
    _record(url, _reports(deliveries, days), on_progress)


def fill_odd(url: URL, deliveries: int) -> None:
    """Add what lists may be searched for in vain: `RARE_NETWORK`, `RARE_CODE`, `ONE_NUMBER`."""
    now = time.time_ns() // 1000
    start = now - DAYS * 24 * 3600 * 1_000_000
    kinds = (
        (f"to={ONE_NUMBER}&{DELIVERED}&network=52099", deliveries),
        (f"to=6588888888&{DELIVERED}&network={RARE_NETWORK}", FEW),
        (f"to=6588888888&status=0&statuscode=delivered&errcode={RARE_CODE}&network=52099", FEW),
    )
    reports = (
        parse(
            f"type=dlr&messageid=e{kind}{number:012x}&{rest}".encode(),
            start + (now - start) * number // many,
        )
        for kind, (rest, many) in enumerate(kinds)
        for number in range(many)
    )
    _record(url, reports, lambda _: None)


def _record(
    url: URL, reports: Iterator[DeliveryReport], on_progress: Callable[[int], None]
) -> None:
    database = open_database(url, hurried=False)
    if database.is_embedded:
        _prepare_sqlite(database)
    batch = list(islice(reports, BATCH))
    while batch:
        with database.write.begin() as connection:
            for _ in range(BATCHES_A_TRANSACTION):
                write.record(connection, batch)
                on_progress(len(batch))
                if not (batch := list(islice(reports, BATCH))):
                    break
    upkeep.compact(database, threading.Event())  # a running service does this every few seconds
    database.close()
    if not database.is_embedded:
        _let_postgresql_settle(url)


def bytes_on_disk(connection: Connection) -> int:
    """The size of the database with its indexes."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        return int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
    statement = "SELECT pg_database_size(current_database())"
    return int(connection.exec_driver_sql(statement).scalar_one())


def contradict(url: URL, deliveries: int, every: int) -> None:
    """Report a failure of each so many of them, too, although most of them were delivered."""
    now = time.time_ns() // 1000
    step = id_step(deliveries)
    reports = [
        parse(f"type=dlr&{_who(number, step)}&{FAILURES[0]}".encode(), now - deliveries + number)
        for number in range(0, deliveries, every)
    ]
    database = open_database(url, hurried=False)
    with database.write.begin() as connection:
        write.record(connection, [it for it in reports if isinstance(it, DeliveryReport)])
    database.close()


def _who(number: int, step: int) -> str:
    return f"messageid={number * step:08x}000000&to=65{number * SPREAD % 100_000_000:08}"


def _reports(deliveries: int, days: int) -> Iterator[DeliveryReport]:
    """Reports, parsed as in a callback. Ids and times grow together; recipients have no order."""
    now = time.time_ns() // 1000
    start = now - days * 24 * 3600 * 1_000_000
    step = id_step(deliveries)
    meanings = list(_meanings())
    for number in range(deliveries):
        query = f"type=dlr&{_who(number, step)}&{meanings[number % len(meanings)]}"
        yield parse(query.encode(), start + (now - start) * number // deliveries)


def _meanings() -> Iterator[str]:
    """One report in ten is a failure, on every network and for every reason."""
    for number in range(10 * len(NETWORKS) * len(FAILURES)):
        is_failure = number % 10 == 0
        meaning = FAILURES[number // 10 % len(FAILURES)] if is_failure else DELIVERED
        yield f"{meaning}&network={NETWORKS[number // 7 % len(NETWORKS)]}"


def _prepare_sqlite(database: Database) -> None:
    """Make SQLite fast rather than durable while filling: a crash only costs the filling."""
    with database.write.connect() as connection:
        connection.rollback()  # a PRAGMA has no effect within a transaction
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA synchronous=OFF")
        driver.execute("PRAGMA cache_size=-1000000")


def _let_postgresql_settle(url: URL) -> None:
    """Do now the work that autovacuum and the checkpointer would do in the next minutes."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
