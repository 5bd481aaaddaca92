"""Access to the database for endpoints; in an outage they answer 503 at once."""

from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine

from app.api.parts import parts_of
from app.errors import DatabaseUnavailableError


def refuse_while_away(request: Request) -> None:
    """Raise `DatabaseUnavailableError` in an outage: a connection would take long to fail."""
    if parts_of(request).outage.is_on:
        raise DatabaseUnavailableError


async def _reading_engine(request: Request) -> Engine:
    refuse_while_away(request)
    return parts_of(request).database.read


# An engine, not a connection. A dependency that opens a connection holds it while it waits for a
# thread; with every thread waiting for a connection, that would be a deadlock.
ReadEngine = Annotated[Engine, Depends(_reading_engine)]
