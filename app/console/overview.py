"""The overview: is all well, by the hour, by country and by network, and what needs a person."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from app.api.parts import Parts, parts_of
from app.api.times import EPOCH, rfc3339
from app.console import charts
from app.console.access import PageRoute, Reader
from app.console.messages import country_of_network
from app.console.pages import counted, page
from app.reports import FINAL_STATES, State
from app.store import console, quarantine, read, stats

router = APIRouter(route_class=PageRoute, include_in_schema=False)

MAX_ROWS: Final = 50_000
# Of contradictory deliveries: counting them reads each.
MOST_COUNTED: Final = 1000
DAYS_OF_HOURS: Final = 30
WEEK: Final = 7
# A silence is worth a warning if so many reports would usually have come in it.
EXPECTED_IN_SILENCE: Final = 10
SHORTEST_SILENCE_S: Final = 300


class Span(NamedTuple):
    """A time to look back: its name, its length, and the hours of each bar."""

    name: str
    days: int
    hours_a_bar: int
    bar_name: str


SPANS: Final = {
    "24h": Span("24 hours", 1, 1, "hour"),
    "7d": Span("7 days", 7, 3, "3 hours"),
    "30d": Span("30 days", 30, 24, "day"),
}


class Need(NamedTuple):
    """Something that a person should look at, and the page that shows it, if one does."""

    text: str
    path: str = ""


ByState = Mapping[str, int]
ByHour = Mapping[int, ByState]


@dataclass(frozen=True, slots=True)
class Place:
    """A network, or a country, with its deliveries."""

    name: str | None
    country: str | None
    total: int
    rate: float | None
    failure: str | None  # the commonest reason
    failures: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A number of today beside the same hours of another day."""

    name: str
    total: int
    change: float | None  # of today against it; None if it is 0


@dataclass(frozen=True, slots=True)
class Silence:
    """The time since the last report, and if it is unusual for this hour of the day."""

    last_at: int | None
    is_unusual: bool
    usual_a_hour: int


@router.get("/")
def show_overview(request: Request, _session: Reader) -> Response:
    """Everything is counted by hour in the database; no delivery is read but the last."""
    parts = parts_of(request)
    key = request.query_params.get("span", "24h")
    chosen = SPANS.get(key, SPANS["24h"])
    now_hour = time.time_ns() // 1000 // stats.HOUR
    since = (now_hour + 1 - chosen.days * stats.HOURS_A_DAY) * stats.HOUR
    with parts.database.read.connect() as connection:
        latest = read.page(connection, read.Filters(), 1, None)
        by_hour = _by_hour(connection, now_hour)
        counts = stats.count(connection, ["network", "reason"], since, None, MAX_ROWS)
        refused = quarantine.count(connection)
        contradictory = console.count_conflicting(connection, since, MOST_COUNTED + 1)
    totals = _totals(counts)
    last_at = latest[0].last_received_at if latest else None
    bars = _bars(by_hour, now_hour, chosen)
    return page(
        request,
        "overview.html",
        spans=SPANS,
        span=key if key in SPANS else "24h",
        chosen=chosen,
        since=rfc3339(since),
        silence=_silence(last_at, by_hour, now_hour),
        today=_today(by_hour, now_hour),
        chart=charts.stacked(bars),
        bars=bars,
        totals=totals,
        countries=_countries(counts),
        networks=_networks(counts),
        needs=[
            *_needs_of_machines(parts),
            *_needs_of_messages(refused, contradictory, totals, rfc3339(since)),
        ],
    )


def _by_hour(connection: Connection, now_hour: int) -> ByHour:
    """Counts by state for each hour of the last 30 days."""
    since = (now_hour + 1 - DAYS_OF_HOURS * stats.HOURS_A_DAY) * stats.HOUR
    found: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for hour, state, number in stats.count(connection, ["hour"], since, None, MAX_ROWS):
        found[hour][state] += number
    return found


def _bars(by_hour: ByHour, now_hour: int, chosen: Span) -> list[charts.Bar]:
    """One bar for each part of the span; the latest ends with this hour, or with today."""
    width = chosen.hours_a_bar
    end = (now_hour // width + 1) * width
    bars = []
    for first in range(end - chosen.days * stats.HOURS_A_DAY, end, width):
        by_state: Counter[str] = Counter()
        for hour in range(first, first + width):
            by_state.update(by_hour.get(hour, {}))
        begin = EPOCH + timedelta(hours=first)
        bars.append(charts.Bar(_short(begin, width), _whole(begin, width), by_state))
    return bars


def _short(begin: datetime, width: int) -> str:
    return begin.strftime("%H:%M" if width == 1 else "%-d %b")


def _whole(begin: datetime, width: int) -> str:
    if width >= stats.HOURS_A_DAY:
        return begin.strftime("%-d %b %Y (UTC)")
    end = begin + timedelta(hours=width)
    return f"{begin.strftime('%-d %b, %H:%M')} to {end.strftime('%H:%M')} UTC"


def _total(by_hour: ByHour, hours: Iterable[int]) -> int:
    return sum(sum(by_hour.get(hour, {}).values()) for hour in hours)


def _today(by_hour: ByHour, now_hour: int) -> dict[str, Any]:
    """The whole hours of today (UTC) beside the same ones of yesterday and a week ago."""
    midnight = now_hour - now_hour % stats.HOURS_A_DAY
    hours = range(midnight, now_hour)
    total = _total(by_hour, hours)

    def beside(name: str, days: int) -> Comparison:
        then = _total(by_hour, (hour - days * stats.HOURS_A_DAY for hour in hours))
        return Comparison(name, then, (total - then) / then if then else None)

    others = [beside("yesterday", 1), beside("a week ago", WEEK)]
    return {"hours": len(hours), "total": total, "others": others}


def _silence(last_at: int | None, by_hour: ByHour, now_hour: int) -> Silence:
    """Compare the time without a report with this hour of the last seven days."""
    hours = [now_hour - day * stats.HOURS_A_DAY for day in range(1, WEEK + 1)]
    usual = _total(by_hour, hours) / WEEK
    if not last_at or not usual:
        return Silence(last_at or None, is_unusual=False, usual_a_hour=round(usual))
    silent_s = time.time() - last_at / 1_000_000
    limit_s = max(SHORTEST_SILENCE_S, EXPECTED_IN_SILENCE * 3600 / usual)
    return Silence(last_at, silent_s > limit_s, round(usual))


def _totals(counts: Sequence[Any]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for _network, _reason, state, number in counts:
        totals[state] += number
    return totals


def _networks(counts: Sequence[Any]) -> list[Place]:
    return _places((network or None, row) for network, *row in counts)


def _countries(counts: Sequence[Any]) -> list[Place]:
    return _places((country_of_network(network), row) for network, *row in counts)


def _places(rows: Iterable[tuple[str | None, Sequence[Any]]]) -> list[Place]:
    """Add the counts up by name: the worst delivery rate first, then the most deliveries."""
    by_state: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
    by_reason: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
    for name, (reason, state, number) in rows:
        by_state[name][state] += number
        if reason and state in FINAL_STATES:
            by_reason[name][reason] += number
    places = [_place(name, by_state[name], by_reason[name]) for name in by_state]
    return sorted(places, key=lambda it: (it.rate is None, it.rate, -it.total, it.name or ""))


def _place(name: str | None, states: Counter[str], reasons: Counter[str]) -> Place:
    final = sum(states[state] for state in FINAL_STATES)
    failure, failures = reasons.most_common(1)[0] if reasons else (None, 0)
    return Place(
        name,
        name if name is None or name.isalpha() else country_of_network(name),
        states.total(),
        states[State.DELIVERED] / final if final else None,
        failure,
        failures,
    )


def _needs_of_messages(
    refused: int, contradictory: int, totals: ByState, since: str
) -> Iterator[Need]:
    yield from _if_any(refused, "refused callback", "in the quarantine.", "/quarantine")
    yield from _if_any(
        contradictory,
        "message",
        "with reports that contradict each other.",
        f"/deliveries?conflicting=true&since={since}",
        most=MOST_COUNTED,
    )
    yield from _if_any(
        totals.get(State.UNKNOWN, 0),
        "message",
        "unclear: the reports say neither yes nor no.",
        f"/deliveries?state=unknown&since={since}",
    )
    yield from _if_any(
        totals.get(State.EXPIRED, 0),
        "message",
        "without a report in time.",
        # Most of them have no report at all, so no list by the time of the last one has them.
        "/deliveries?state=expired",
    )


def _needs_of_machines(parts: Parts) -> Iterator[Need]:
    """The most urgent first."""
    if not parts.outage.database_answers:
        yield Need("The database takes no reports. New ones go to the spool, or are refused.")
    if parts.recovery.damaged:
        yield Need("A file of the spool is damaged: run “paasoo-dlr spool recover”.")
    yield from _if_any(len(parts.spool or ()), "report", "in the spool for the database.")
    known = parts.balance.known if parts.balance is not None else None
    if known is not None and float(known.balance) <= 0:
        yield Need(f"The account at PaaSoo has no balance: {known.balance} {known.currency}.")


def _if_any(
    number: int, noun: str, rest: str, path: str = "", most: int | None = None
) -> Iterator[Need]:
    if most is not None and number > most:
        yield Need(f"More than {counted(most, noun)} {rest}", path)
    elif number:
        yield Need(f"{counted(number, noun)} {rest}", path)
