"""Statistics: counts of deliveries by network, country, state, reason and time."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Final

from fastapi import Query, Response
from pydantic import BaseModel, BeforeValidator, Field

from app.api.database import ReadEngine
from app.api.routes import api_router
from app.api.times import EPOCH, TimeInput, TimeText
from app.errors import InvalidRequestError, encode
from app.query.countries import country_of
from app.reports import FINAL_STATES, Reason, State
from app.settings import Role
from app.store import stats

router = api_router("/v1/stats", tag="status", role=Role.READ)

# Limits the memory of one answer.
MAX_ROWS: Final = 50_000


class Key(StrEnum):
    """The keys that statistics can be grouped by."""

    NETWORK = "network"
    COUNTRY = "country"
    STATE = "state"
    REASON = "reason"
    HOUR = "hour"
    DAY = "day"


def beginning(hour: int) -> str:
    """The beginning of an hour as RFC 3339 text. Hours are numbered from 1970 UTC."""
    return (EPOCH + timedelta(hours=hour)).isoformat().replace("+00:00", "Z")


# The key that the store counts by, and the function that shows its value.
STORED: Final[dict[Key, tuple[str, Callable[[Any], str | None]]]] = {
    Key.NETWORK: ("network", lambda mcc_mnc: mcc_mnc or None),
    Key.COUNTRY: ("mcc", country_of),
    Key.STATE: ("state", str),
    Key.REASON: ("reason", lambda reason: reason or None),
    Key.HOUR: ("hour", beginning),
    Key.DAY: ("day", lambda day: beginning(day * stats.HOURS_A_DAY)),
}

# These models are for the OpenAPI document only: building one for each of hundreds of groups would
# take longer than counting the deliveries.


class Totals(BaseModel):
    """The number of deliveries, in all and by state."""

    total: int = Field(description="The number of deliveries.")
    by_state: dict[State, int] = Field(
        description="The number of deliveries in each state; every state is listed."
    )
    delivery_rate: float | None = Field(
        description="Delivered over final deliveries, from 0 to 1; null if none is final."
    )


class Keys(BaseModel):
    """The keys that were asked for by `group_by`."""

    network: str | None = Field(None, description="PaaSoo's `network`.", examples=["52099"])
    country: str | None = Field(
        None,
        description="ISO 3166-1 of the network's mobile country code; null if it has none.",
        examples=["TH"],
    )
    state: State | None = Field(None, description="State.")
    reason: Reason | None = Field(None, description="Reason.")
    hour: TimeText | None = Field(
        None, description="Its beginning, UTC.", examples=["2026-11-22T08:00:00Z"]
    )
    day: TimeText | None = Field(
        None, description="Its beginning, UTC.", examples=["2026-11-22T00:00:00Z"]
    )


class Group(Totals, Keys):
    """The deliveries that have these keys in common."""


class Stats(BaseModel):
    """Statistics."""

    groups: list[Group] = Field(
        description="The groups with any delivery, ordered by their keys, null last; "
        "none without `group_by`."
    )
    totals: Totals


# Plain strings: enumeration members take several times as long to look up.
STATES: Final = [state.value for state in State]
FINAL: Final = [state.value for state in FINAL_STATES]


def grouped(rows: Iterable[Any], keys: Sequence[Key]) -> dict[str, Any]:
    """Make `Stats` of rows that hold the stored keys, the state, and the number of deliveries."""
    nothing = dict.fromkeys(STATES, 0)
    groups: defaultdict[tuple[str | None, ...], dict[str, int]] = defaultdict(nothing.copy)
    totals = nothing.copy()
    shown = [cache(STORED[key][1]) for key in keys]
    for *values, state, deliveries in rows:
        group = tuple([show(value) for show, value in zip(shown, values, strict=True)])
        groups[group][state] += deliveries
        totals[state] += deliveries
    in_order = sorted(groups, key=lambda group: [(value is None, value) for value in group])
    names = [key.value for key in keys]
    return {
        "groups": [
            {**dict(zip(names, group, strict=True)), **figures(groups[group])}
            for group in in_order
            if keys
        ],
        "totals": figures(totals),
    }


def figures(by_state: dict[str, int]) -> dict[str, Any]:
    """Make `Totals` of the number of deliveries in each state."""
    final = sum([by_state[state] for state in FINAL])
    delivered = by_state[State.DELIVERED.value]
    return {
        "total": sum(by_state.values()),
        "by_state": by_state,
        "delivery_rate": delivered / final if final else None,
    }


def _split(given: object) -> object:
    """Split comma-separated keys; the parameter may be repeated. A repeated key counts once."""
    if not isinstance(given, list):
        return given
    names = [name.strip() for names in given for name in str(names).split(",")]
    for name in names:
        if name not in set(Key):
            raise ValueError(f"`{name}` is none of {', '.join(Key)}")
    return list(dict.fromkeys(names))


@router.get("", response_model=Stats)
def show_statistics(
    engine: ReadEngine,
    since: Annotated[TimeInput | None, Query(description="From here on.")] = None,
    until: Annotated[TimeInput | None, Query(description="Before this.")] = None,
    group_by: Annotated[
        list[Key],
        BeforeValidator(_split),
        Query(
            description="The keys to group by: comma-separated, or given several times, or both."
        ),
    ] = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Count deliveries, each at the time of its last report, or of its sending if none has come."""
    stored = [STORED[key][0] for key in group_by]
    with engine.connect() as connection:
        rows = stats.count(connection, stored, since, until, MAX_ROWS + 1)
    if len(rows) > MAX_ROWS:
        message = "gives too many groups: ask for a shorter time, or group by less"
        raise InvalidRequestError([{"field": "group_by", "message": message}])
    return Response(encode(grouped(rows, group_by)), media_type="application/json")
