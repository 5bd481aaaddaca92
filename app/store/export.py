"""Export: all deliveries in one stream, as a snapshot of one moment."""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Row, select

from app.reports import State
from app.store.engine import Database
from app.store.read import SHOWN
from app.store.tables import deliveries

# Rows in memory at once.
BATCH: Final = 1000


def stream(
    database: Database, state: State | None, since: int | None, until: int | None
) -> Iterator[Row[Any]]:
    """Deliveries, oldest last report first; those without a report come before all others.

    `since` (inclusive) and `until` (exclusive) bound the last report, in microseconds since 1970
    UTC. With either, deliveries without a report are left out.
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
