"""The endpoints of the quarantine: list refused callbacks, replay them, delete them."""

from typing import Annotated, Any, Self

from fastapi import Body, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from app.api import cursors
from app.api.database import ReadEngine, refuse_while_away
from app.api.parameters import Limit, PageCursor
from app.api.parts import parts_of
from app.api.responses import problems
from app.api.routes import api_router
from app.api.times import TimeOutput
from app.errors import RefusedCallbackNotFoundError, documented
from app.quarantine.replay import replay
from app.reports import is_printable_ascii
from app.settings import Role
from app.store import quarantine

router = api_router("/v1/quarantine", tag="quarantine", role=Role.ADMIN)


class RefusedCallback(BaseModel):
    """A refused raw query. A repeat of it only counts."""

    id: str = Field(description="Id of this raw query.")
    received_at: TimeOutput = Field(description="Time when it came first.")
    last_received_at: TimeOutput = Field(description="Time when it came last.")
    times_received: int = Field(description="Number of times that it came.")
    code: str = Field(description="The reason for the refusal, for programs.")
    detail: str = Field(description="The reason for the refusal, for people.")
    query: str = Field(description="The raw query as received, non-ASCII bytes percent-encoded.")

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        return cls.model_validate(row, from_attributes=True)


class QuarantinePage(BaseModel):
    """A page of refused callbacks."""

    items: list[RefusedCallback] = Field(description="Latest first, by `received_at`.")
    next_cursor: str | None = Field(description="For the next page; null on the last.")


@router.get("")
def list_refused(
    engine: ReadEngine,
    limit: Limit = 100,
    cursor: PageCursor = None,
) -> QuarantinePage:
    """List refused callbacks, latest first."""
    after = None if cursor is None else cursors.decode(cursor, int, str)
    with engine.connect() as connection:
        rows = quarantine.page(connection, limit + 1, after)
    items = [RefusedCallback.of(row) for row in rows[:limit]]
    more = len(rows) > limit
    next_cursor = cursors.encode((items[-1].received_at, items[-1].id)) if more else None
    return QuarantinePage(items=items, next_cursor=next_cursor)


class ReplayWanted(BaseModel):
    """The rows to replay: all of them, unless `ids` is given."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Annotated[str, Field(pattern="^[0-9a-f]{1,32}$")]] = Field(
        default_factory=list,
        max_length=1000,
        description="Ids of the rows; an unknown one is ignored.",
    )


class ReplayResult(BaseModel):
    """The result of a replay."""

    replayed: int = Field(description="Rows that are valid reports now, and were stored.")
    still_rejected: int = Field(description="Rows that are still refused, and stay.")


@router.post("/replay", responses=problems(413))
def replay_refused(wanted: Annotated[ReplayWanted, Body()], request: Request) -> ReplayResult:
    """Parse refused callbacks again under today's rules, and store those that are valid now.

    They are stored with their original times, and leave the quarantine.
    """
    refuse_while_away(request)
    ids = wanted.ids if "ids" in wanted.model_fields_set else None
    result = ReplayResult(replayed=0, still_rejected=0)
    for batch in replay(parts_of(request).database, ids):
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
    """Delete a refused callback for good."""
    refuse_while_away(request)
    if not is_printable_ascii(id):  # a database may refuse to look for it
        raise RefusedCallbackNotFoundError(id)
    with parts_of(request).database.statement() as connection:
        removed = quarantine.remove(connection, [id])
    if not removed:
        raise RefusedCallbackNotFoundError(id)
