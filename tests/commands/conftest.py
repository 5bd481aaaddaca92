"""A database to run commands on, and to inspect afterwards."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import URL, Row, Table, func, select, text

from app.callback.parse import parse
from app.reports import Refusal
from app.store import quarantine, submissions, write
from app.store.engine import Database, open_database
from app.store.history import HISTORY
from app.store.submissions import Submission
from app.store.tables import deliveries
from tests.process import Ended, run
from tests.service import a_report
from tests.times import YESTERDAY


@dataclass
class Stored:
    """A database between commands: on SQLite it is closed while one runs."""

    url: URL
    database: Database

    @property
    def environment(self) -> dict[str, str]:
        return {"DLR_DATABASE_URL": self.url.render_as_string(hide_password=False)}

    def run(self, *arguments: str, **environment: str) -> Ended:
        return run(*arguments, **{**self.environment, **environment})

    def record(self, *queries: str, at: int = YESTERDAY) -> None:
        with self.database.write.begin() as connection:
            write.record(connection, [parse(query.encode(), at) for query in queries])

    def refuse(self, *queries: str, at: int = YESTERDAY) -> None:
        refusals = [Refusal(query, "invalid_parameter", "not understood", at) for query in queries]
        with self.database.write.begin() as connection:
            quarantine.keep(connection, refusals, max_rows=10_000)

    def register(self, message_id: str, *recipients: str, at: int = YESTERDAY) -> None:
        submission = Submission(message_id, recipients, "order 17", at)
        with self.database.write.begin() as connection:
            submissions.register(connection, submission, at)

    def expire(self, cutoff: int, now: int) -> None:
        with self.database.write.begin() as connection:
            submissions.expire(connection, cutoff, now, 1000)

    def multiply(self, count: int) -> None:
        """Copy all deliveries so many times, each time with other message ids."""
        copied = [column.name for column in deliveries.c if column.name != "message_id"]
        columns = ", ".join(("message_id", *copied))
        copies = ", ".join(("message_id || '-' || number || :of", *copied))
        with self.database.write.begin() as connection:
            connection.execute(
                text(
                    "WITH RECURSIVE numbers (number) AS"
                    " (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < :count)"
                    f" INSERT INTO deliveries ({columns}) SELECT {copies} FROM deliveries, numbers"
                ),
                {"count": count, "of": f"-of-{count}"},
            )

    def rows(self, table: Table) -> Sequence[Row[Any]]:
        with self.database.read.connect() as connection:
            return connection.execute(select(table).order_by(*table.primary_key)).all()

    def reports(self) -> Sequence[Row[Any]]:
        """The history, wherever it stands."""
        with self.database.read.connect() as connection:
            return connection.execute(
                select(HISTORY).order_by(*HISTORY.c["message_id", "recipient", "fingerprint"])
            ).all()

    def count(self, table: Table) -> int:
        with self.database.read.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


@pytest.fixture
def stored(database_url: URL) -> Iterator[Stored]:
    with opened(database_url) as it:
        yield it


@pytest.fixture
def stored_in_file(sqlite_url: URL) -> Iterator[Stored]:
    """For tests that don't depend on the database."""
    with opened(sqlite_url) as it:
        yield it


@contextmanager
def opened(url: URL) -> Iterator[Stored]:
    database = open_database(url, hurried=False)
    yield Stored(url, database)
    database.close()


def many(count: int, **changes: object) -> list[str]:
    """Reports of so many messages."""
    return [a_report(messageid=f"m-{number:05}", **changes) for number in range(count)]
