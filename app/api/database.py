"""The database, for endpoints: refused at once while it is known to be away."""

from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine

from app.api.parts import parts_of
from app.errors import DatabaseUnavailableError


def refuse_while_away(request: Request) -> None:
    """Raise `DatabaseUnavailableError` in an outage: a connection attempt would only take time."""
    if parts_of(request).outage.is_on:
        raise DatabaseUnavailableError


async def _reading_engine(request: Request) -> Engine:
    refuse_while_away(request)
    return parts_of(request).database.read


# An engine, not a connection: a dependency that held a connection would wait, with it, for a thread
# to run its endpoint on, while the endpoints on all threads wait for a connection.
ReadEngine = Annotated[Engine, Depends(_reading_engine)]
