"""What was refused, and why: to list, to read again under today's rules, and to delete."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Body, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from app.api import cursors
from app.api.database import ReadEngine, refuse_while_away
from app.api.parameters import refuse_unknown_parameters
from app.api.responses import problems
from app.api.times import TimeOutput
from app.errors import RefusedCallbackNotFoundError, documented
from app.guards import administrator
from app.quarantine.replay import replay
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
    received_at: TimeOutput = Field(description="When it came first.")
    last_received_at: TimeOutput = Field(description="When it came last.")
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


class ReplayWanted(BaseModel):
    """Which rows to replay; all of them, unless `ids` is given."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Annotated[str, Field(pattern="^[0-9a-f]{1,32}$")]] = Field(
        default_factory=list,
        max_length=1000,
        description="Their ids; one that isn't there counts as nothing.",
    )


class ReplayResult(BaseModel):
    """What a replay did."""

    replayed: int = Field(description="Rows that are valid reports now, and stored as such.")
    still_rejected: int = Field(description="Rows that are refused still, and stay where they are.")


@router.post("/replay")
def replay_refused(wanted: Annotated[ReplayWanted, Body()], request: Request) -> ReplayResult:
    """Read what was refused again, under today's rules; store what is valid now.

    It is stored with the times when it came, and leaves the quarantine.
    """
    refuse_while_away(request)
    ids = wanted.ids if "ids" in wanted.model_fields_set else None
    result = ReplayResult(replayed=0, still_rejected=0)
    for batch in replay(request.app.state.database, ids):
        result.replayed += batch.replayed
        result.still_rejected += batch.still_rejected
    return result


@router.delete(
    "/{id}",
    status_code=204,
    responses={
        404: documented(
            "Nothing with this id is in the quarantine. "
            f"`code`: `{RefusedCallbackNotFoundError.code}`."
        )
    },
)
def delete_refused(id: str, request: Request) -> None:  # noqa: A002 - the name in the path
    """Delete what was refused, for good."""
    refuse_while_away(request)
    with request.app.state.database.write.begin() as connection:
        removed = quarantine.remove(connection, [id])
    if not removed:
        raise RefusedCallbackNotFoundError(id)
