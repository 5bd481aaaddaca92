"""A reader of the change feed, and a way to fill it."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from sqlalchemy import URL, text

from app.callback.parse import parse
from app.store import write
from app.store.engine import open_database
from tests.process import until
from tests.service import READ_KEY, a_report

_NOTHING_RUNS = text(
    "SELECT pg_snapshot_xmin(snapshot) = pg_snapshot_xmax(snapshot)"
    " FROM pg_current_snapshot() AS snapshot"
)
AUTHORIZED = {"Authorization": f"Bearer {READ_KEY}"}


def wait_until_settled(database_url: URL) -> None:
    """Wait until no transaction runs that the feed may wait for.

    Any transaction on the server delays the feed: the service's periodic work, or an autovacuum.
    """
    if database_url.get_backend_name() == "sqlite":
        return
    database = open_database(database_url, hurried=False)
    with database.read.connect() as connection:
        until(lambda: connection.scalar(_NOTHING_RUNS))
    database.close()


def changes(http: httpx2.Client, **parameters: object) -> Any:
    """One page of the feed."""
    query = {name: str(value) for name, value in parameters.items()}
    answer = http.get("/v1/changes", params=query, headers=AUTHORIZED)
    assert answer.status_code == 200, answer.text
    return answer.json()


def all_changes(http: httpx2.Client, cursor: str | None = None, limit: int = 1000) -> list[Any]:
    """The whole feed, page after page."""
    found: list[Any] = []
    while True:
        page = changes(http, limit=limit, **({} if cursor is None else {"cursor": cursor}))
        if not page["items"]:
            return found
        assert len(page["items"]) <= limit
        found += page["items"]
        cursor = page["next_cursor"]


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    kind: str
    id: str
    delivery: Any


@contextmanager
def stream(
    http: httpx2.Client,
    last_event_id: str | None = None,
    key: str = READ_KEY,
    **parameters: str,
) -> Iterator[Iterator[str]]:
    """The lines of a stream, which is open once the block is entered."""
    headers = {"Authorization": f"Bearer {key}"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    with http.stream("GET", "/v1/changes/stream", params=parameters, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        yield answer.iter_lines()


def events(lines: Iterator[str]) -> Iterator[Event]:
    """The events of a stream until its end."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name:  # a comment has none
            fields[name] = value
        elif line == "":
            yield Event(fields["event"], fields["id"], json.loads(fields["data"]))
            fields = {}


def record(database_url: URL, message_ids: Iterable[str]) -> None:
    """Record a delivery of each of these messages, all in one commit."""
    batch = [parse(a_report(messageid=one).encode(), 1) for one in message_ids]
    database = open_database(database_url, hurried=False)
    with database.write.begin() as connection:
        write.record(connection, batch)
    database.close()
