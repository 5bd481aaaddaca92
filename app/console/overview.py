"""The overview: is all well, by the hour, by country and by network, and what needs a person."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from app.api.parts import Parts, parts_of
from app.api.times import rfc3339
from app.console import charts, hours, places
from app.console.access import PageRoute, Reader
from app.console.hours import MAX_ROWS, SPANS, ByHour, Span
from app.console.pages import counted, page
from app.console.places import Place
from app.console.zones import local, name_of, zone_of
from app.reports import State
from app.store import console, quarantine, read, stats, webhooks

router = APIRouter(route_class=PageRoute, include_in_schema=False)

# Of contradictory deliveries: counting them reads each.
MOST_COUNTED: Final = 1000
EXPIRED_HOURS: Final = 30 * stats.HOURS_A_DAY
# Countries, or networks, that are shown.
MOST_PLACES: Final = 25


class Need(NamedTuple):
    """Something that a person should look at, and the page that shows it, if one does."""

    text: str
    path: str = ""


class Counted(NamedTuple):
    """All that the overview shows of the database."""

    last_at: int | None
    by_hour: ByHour
    by_place: Sequence[Any]
    earlier: Sequence[Any]  # by place, in the span before
    refused: int
    expired: int  # most have no report, and are counted at the time when they were sent
    contradictory: int
    failing: int


@router.get("/")
def show_overview(request: Request, _session: Reader) -> Response:
    """Is all well: by the hour, by country and by network; and what needs a person."""
    parts, zone = parts_of(request), zone_of(request)
    span = request.query_params.get("span")
    span = span if span in SPANS else "24h"
    chosen = SPANS[span]
    now_hour = time.time_ns() // 1000 // stats.HOUR
    first_hour = hours.first_hour(chosen, now_hour, zone)
    since = first_hour * stats.HOUR
    with parts.database.read.connect() as connection:
        found = _count(connection, chosen, now_hour, first_hour)
    countries = places.countries(found.by_place, found.earlier)
    networks = places.networks(found.by_place, found.earlier)
    bars = hours.bars_of(found.by_hour, chosen, now_hour, zone)
    totals = sum((Counter(bar.by_state) for bar in bars), Counter[str]())
    return page(
        request,
        "overview.html",
        spans=SPANS,
        span=span,
        chosen=chosen,
        since=rfc3339(since),
        zone_name=name_of(local(since, zone)),
        silence=hours.silence_of(found.last_at, found.by_hour, now_hour),
        today=hours.today_of(found.by_hour, now_hour, zone),
        chart=charts.stacked(bars),
        bars=bars,
        total=totals.total(),
        rate=places.rate_of(totals),
        most_places=MOST_PLACES,
        countries=countries,
        networks=networks,
        needs=[
            *_needs_of_machines(parts),
            *_if_worse(countries, "country", "countries", span),
            *_if_worse(networks, "network", "networks", span),
            *_needs_of_messages(found, totals, rfc3339(since)),
        ],
    )


def _count(connection: Connection, span: Span, now_hour: int, first_hour: int) -> Counted:
    """Counts by the hour are there already; no delivery is read but contradictory ones."""
    since = first_hour * stats.HOUR
    before = (2 * first_hour - now_hour - 1) * stats.HOUR
    latest = read.page(connection, read.Filters(), 1, None)
    return Counted(
        latest[0].last_received_at if latest else None,
        hours.count_by_hour(connection, span, now_hour),
        stats.count(connection, ["network", "reason"], since, None, MAX_ROWS),
        stats.count(connection, ["network"], before, since, MAX_ROWS) if span.is_compared else (),
        quarantine.count(connection),
        _count_expired(connection, now_hour),
        console.count_conflicting(connection, since, MOST_COUNTED + 1),
        webhooks.count_failing(connection),
    )


def _count_expired(connection: Connection, now_hour: int) -> int:
    since = (now_hour - EXPIRED_HOURS) * stats.HOUR
    by_state = stats.count(connection, ["state"], since, None, MAX_ROWS)
    return sum(row.deliveries for row in by_state if row.of_state == State.EXPIRED)


def _if_worse(found: Sequence[Place], kind: str, kinds: str, span: str) -> Iterator[Need]:
    """The need of countries, or networks: their part of the page."""
    if number := sum(it.is_worse for it in found if it.name):
        rest = f"with a worse delivery rate than in the {SPANS[span].name} before."
        yield Need(f"{counted(number, kind, kinds)} {rest}", f"/?span={span}#{kind}")


def _needs_of_messages(found: Counted, totals: Mapping[str, int], since: str) -> Iterator[Need]:
    yield from _if_any(
        found.failing, "failing webhook", "behind with the latest changes.", "/webhooks"
    )
    yield from _if_any(found.refused, "refused callback", "in the quarantine.", "/quarantine")
    yield from _if_any(
        found.contradictory,
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
        found.expired,
        "message",
        "sent in the last 30 days without a report in time.",
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
