"""Export: all deliveries in one stream, as they are at one moment."""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Row, select

from app.reports import State
from app.store.engine import Database
from app.store.read import SHOWN
from app.store.tables import deliveries

# Rows that are in memory at once.
BATCH: Final = 1000


def stream(
    database: Database, state: State | None, since: int | None, until: int | None
) -> Iterator[Row[Any]]:
    """Deliveries, oldest report first: what was never reported comes before all.

    `since` (inclusive) and `until` (exclusive) in microseconds since 1970 UTC, of the last report:
    with one of them, what was never reported is left out.
    """
    last = deliveries.c.last_received_at
    statement = select(*SHOWN).order_by(last, deliveries.c.message_id, deliveries.c.recipient)
    if state is not None:
        statement = statement.where(deliveries.c.state == state.value)
    if since is not None:
        statement = statement.where(last >= since)
    if until is not None:
        statement = statement.where(last < until)
    if since is not None or until is not None:
        statement = statement.where(last > 0)
    with database.snapshot() as connection:
        yield from connection.execute(statement, execution_options={"yield_per": BATCH})
