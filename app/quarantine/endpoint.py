"""The list of what was refused, and why."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import Row

from app.guards import administrator
from app.query import cursors
from app.query.requests import ReadEngine, problems, refuse_unknown_parameters
from app.query.schemas import Time
from app.store import quarantine

router = APIRouter(
    prefix="/v1/quarantine",
    tags=["quarantine"],
    dependencies=[Depends(administrator), Depends(refuse_unknown_parameters)],
    responses=problems(401, 403, 414, 422, 503),
)


class RefusedCallback(BaseModel):
    """A raw query that was refused; the same one again only counts."""

    id: str = Field(description="Names this raw query.")
    received_at: Time = Field(description="When it came first.")
    last_received_at: Time = Field(description="When it came last.")
    times_received: int = Field(description="How often it came.")
    code: str = Field(description="Why it was refused, for programs.")
    detail: str = Field(description="Why it was refused, for people.")
    query: str = Field(description="The raw query as received; other than ASCII percent-encoded.")

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        return cls.model_validate(row, from_attributes=True)


class QuarantinePage(BaseModel):
    """A page of what was refused."""

    items: list[RefusedCallback] = Field(description="Latest first, by `received_at`.")
    next_cursor: str | None = Field(description="For the next page; null on the last.")


@router.get("")
def list_refused(
    engine: ReadEngine,
    limit: Annotated[int, Query(ge=1, le=1000, description="Rows a page.")] = 100,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> QuarantinePage:
    """What was refused, latest first."""
    after = None if cursor is None else cursors.decode(cursor, int, str)
    with engine.connect() as connection:
        rows = quarantine.page(connection, limit + 1, after)
    items = [RefusedCallback.of(row) for row in rows[:limit]]
    more = len(rows) > limit
    next_cursor = cursors.encode((items[-1].received_at, items[-1].id)) if more else None
    return QuarantinePage(items=items, next_cursor=next_cursor)
