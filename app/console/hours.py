"""Counts by the hour: the chart's bars, today beside other days, and a silence that is unusual."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Final, NamedTuple

from sqlalchemy import Connection

from app.console.charts import Bar
from app.console.zones import local, name_of
from app.store import stats

WEEK: Final = 7
MAX_ROWS: Final = 50_000
# A silence is worth a warning if so many reports would usually have come in it.
EXPECTED_IN_SILENCE: Final = 10
SHORTEST_SILENCE_S: Final = 300

ByHour = Mapping[int, Mapping[str, int]]  # of the hour since 1970 UTC, by state


class Span(NamedTuple):
    """A time to look back: its name, its length, and the hours of each bar."""

    name: str
    days: int
    hours_a_bar: int
    bar_name: str

    @property
    def is_compared(self) -> bool:
        """True if the rates are shown beside those of the time before. A month takes too long."""
        return self.days <= WEEK


SPANS: Final = {
    "24h": Span("24 hours", 1, 1, "hour"),
    "7d": Span("7 days", 7, 3, "3 hours"),
    "30d": Span("30 days", 30, 24, "day"),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A number of today beside the same hours of another day."""

    name: str
    total: int
    change: float | None  # of today against it; None if it is 0


@dataclass(frozen=True, slots=True)
class Today:
    """The whole hours of the reader's day."""

    until: str | None  # the time of day; None in the first hour
    total: int
    others: Iterable[Comparison]


@dataclass(frozen=True, slots=True)
class Silence:
    """The time since the last report, and if it is unusual for this hour of the day."""

    last_at: int | None
    is_unusual: bool
    usual_a_hour: int


def days_counted(span: Span) -> int:
    """A span, or the week to compare with, and a day more: the reader's days are not UTC's."""
    return max(span.days, WEEK + 1) + 1


def count_by_hour(connection: Connection, span: Span, now_hour: int) -> ByHour:
    since = (now_hour + 1 - days_counted(span) * stats.HOURS_A_DAY) * stats.HOUR
    found: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for hour, state, number in stats.count(connection, ["hour"], since, None, MAX_ROWS):
        found[hour][state] += number
    return found


def first_hour(span: Span, now_hour: int, zone: tzinfo) -> int:
    """The first hour of a span: whole hours of the last day, or whole days of the reader's."""
    if span.days == 1:
        return now_hour + 1 - stats.HOURS_A_DAY
    return _midnight(now_hour, zone, days_ago=span.days - 1)


def bars_of(by_hour: ByHour, span: Span, now_hour: int, zone: tzinfo) -> list[Bar]:
    """One bar for each part of the span; the latest one is not over yet."""
    edges = [*_edges(span, now_hour, zone), now_hour + 1]
    bars = []
    for first, end in pairwise(edges):
        by_state: Counter[str] = Counter()
        for hour in range(first, end):
            by_state.update(by_hour.get(hour, {}))
        begin = local(first * stats.HOUR, zone)
        bars.append(Bar(_label(begin, span), _name(begin, span), by_state))
    return bars


def _edges(span: Span, now_hour: int, zone: tzinfo) -> Iterator[int]:
    """The first hour of each bar, by the reader's clock, also where that is put on or back."""
    last = None
    for hour in range(first_hour(span, now_hour, zone), now_hour + 1):
        begin = local(hour * stats.HOUR, zone)
        part = (begin.date(), begin.hour // span.hours_a_bar)
        if part != last or span.hours_a_bar == 1:
            yield hour
        last = part


def _label(begin: datetime, span: Span) -> str:
    """The short name below some of the bars."""
    if span.days == 1:
        return begin.strftime("%H:%M") if begin.hour % 3 == 0 else ""
    if span.days == WEEK:
        return begin.strftime("%a %-d") if begin.hour < span.hours_a_bar else ""
    return begin.strftime("%-d %b") if begin.weekday() == 0 else ""


def _name(begin: datetime, span: Span) -> str:
    if span.hours_a_bar == stats.HOURS_A_DAY:
        return begin.strftime("%a, %-d %b %Y")
    end = begin + timedelta(hours=span.hours_a_bar)
    return f"{begin.strftime('%a, %-d %b, %H:%M')} to {end.strftime('%H:%M')}"


def _midnight(now_hour: int, zone: tzinfo, days_ago: int = 0) -> int:
    """The first whole hour of the reader's day."""
    day = local(now_hour * stats.HOUR, zone).date() - timedelta(days=days_ago)
    begin = datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()
    return -int(-begin // 3600)


def _total(by_hour: ByHour, hours: Iterable[int]) -> int:
    return sum(sum(by_hour.get(hour, {}).values()) for hour in hours)


def today_of(by_hour: ByHour, now_hour: int, zone: tzinfo) -> Today:
    """The whole hours of today beside the same ones of yesterday and a week ago."""
    hours = range(_midnight(now_hour, zone), now_hour)
    total = _total(by_hour, hours)

    def beside(name: str, days: int) -> Comparison:
        then = _total(by_hour, (hour - days * stats.HOURS_A_DAY for hour in hours))
        return Comparison(name, then, (total - then) / then if then else None)

    until = local(now_hour * stats.HOUR, zone)
    return Today(
        f"{until.strftime('%H:%M')} {name_of(until)}" if hours else None,
        total,
        [beside("yesterday", 1), beside("a week ago", WEEK)],
    )


def silence_of(last_at: int | None, by_hour: ByHour, now_hour: int) -> Silence:
    """Compare the time without a report with this hour of the last seven days."""
    hours = [now_hour - day * stats.HOURS_A_DAY for day in range(1, WEEK + 1)]
    usual = _total(by_hour, hours) / WEEK
    if not last_at or not usual:
        return Silence(last_at or None, is_unusual=False, usual_a_hour=round(usual))
    silent_s = time.time() - last_at / 1_000_000
    limit_s = max(SHORTEST_SILENCE_S, EXPECTED_IN_SILENCE * 3600 / usual)
    return Silence(last_at, silent_s > limit_s, round(usual))
