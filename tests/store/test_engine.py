"""No connection is left open that nobody uses, and no server is taken for an old one wrongly."""

import sqlite3
from itertools import permutations
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from app.store.engine import open_database
from app.store.postgresql import UNKNOWN_PLACE, Server
from tests.process import until


def is_closed(connection: Any) -> bool:
    if isinstance(connection, psycopg.Connection):
        return connection.closed
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


def test_a_connection_in_use_as_the_database_is_closed_is_closed_when_it_returns(
    database_url: URL,
) -> None:
    database = open_database(database_url)
    in_use = []
    for engine in (database.read, database.write):
        with engine.connect() as connection:
            in_use.append(connection.connection.dbapi_connection)
            database.close()
            assert not is_closed(in_use[-1])

    assert [is_closed(connection) for connection in in_use] == [True, True]


def test_a_connection_that_can_not_be_prepared_is_closed(postgres_url: URL) -> None:
    """A migration, for example, holds the table that tells the server's history."""
    database = open_database(postgres_url)
    address = postgres_url.set(drivername="postgresql")
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    with psycopg.connect(address.render_as_string(hide_password=False)) as other:
        other.execute("LOCK TABLE feed")
        with pytest.raises(OperationalError, match="statement timeout"), database.write.connect():
            pass
        until(lambda: other.execute(sessions).fetchone() == (1,))


def test_a_server_is_outdated_by_a_later_timeline_of_its_cluster_alone() -> None:
    """A standby has no timeline of its own, also one that is promoted while we look."""
    of_its_cluster = ["77/00000001", "77/00000002", "77/0000000A", "77/standby"]
    known = [Server(place, "history") for place in [*of_its_cluster, "78/0000000B", UNKNOWN_PLACE]]

    outdated = [
        (one.place, other.place)
        for one, other in permutations(known, 2)
        if one.is_outdated_by(other)
    ]

    assert outdated == [
        ("77/00000001", "77/00000002"),
        ("77/00000001", "77/0000000A"),
        ("77/00000002", "77/0000000A"),
    ]
