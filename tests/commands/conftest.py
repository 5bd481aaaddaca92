"""A database to run commands on, and to inspect afterwards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import URL, Row, Table, func, select

from app.callback.parse import parse
from app.reports import Refusal
from app.store import quarantine, submissions, write
from app.store.engine import Database, open_database
from app.store.submissions import Submission
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

    def rows(self, table: Table) -> Sequence[Row[Any]]:
        with self.database.read.connect() as connection:
            return connection.execute(select(table).order_by(*table.primary_key)).all()

    def count(self, table: Table) -> int:
        with self.database.read.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


@pytest.fixture
def stored(database_url: URL) -> Iterator[Stored]:
    database = open_database(database_url, hurried=False)
    yield Stored(database_url, database)
    database.close()


def many(count: int, **changes: object) -> list[str]:
    """Reports of so many messages."""
    return [a_report(messageid=f"m-{number:05}", **changes) for number in range(count)]
