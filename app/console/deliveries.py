"""The list of deliveries with the API's filters, all of them in the address, and its CSV."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection

from app.api.parts import parts_of
from app.api.times import EPOCH, TimeInput, rfc3339
from app.console.access import PageRoute, Reader
from app.console.country_names import code_of
from app.console.numbers import read_number
from app.console.pages import SECURITY_HEADERS, page, redirect
from app.console.zones import local, name_of, zone_of
from app.errors import InvalidRequestError
from app.query.countries import mccs_of
from app.query.deliveries import place_of, read_place
from app.query.schemas import delivery_of
from app.query.spreadsheet import csv_writer
from app.reports import Reason, State
from app.store import console, read
from app.store.engine import Database

router = APIRouter(route_class=PageRoute, include_in_schema=False)

ROWS_A_PAGE: Final = 50
# Of one export; `paasoo-dlr export` has no limit.
MOST_EXPORTED: Final = 10_000
EXPORTED_AT_ONCE: Final = 1_000
MAX_LENGTH: Final = 255
# Of a country: each is looked at by itself.
MOST_NETWORKS: Final = 100
COUNTRY: Final = "country"
# The other filters are folded away.
MAIN: Final = frozenset({"to", "state", "country", "reference", "conflicting"})
TIMES: Final = frozenset({"since", "until"})


class FilterError(Exception):
    """The value can't be one of this filter. The text is for people."""


def _to(text: str) -> str:
    if (number := read_number(text)) is None:
        raise FilterError("Give a number with its country code, as in +65 8888 8888.")
    return number


def _one_of(names: type[State | Reason]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in set(names):
            raise FilterError("Choose one of the list.")
        return text

    return parse


def _text(text: str) -> str:
    if len(text) > MAX_LENGTH or "\0" in text:
        raise FilterError(f"Give at most {MAX_LENGTH} characters.")
    return text


def _country(text: str) -> str:
    if (code := code_of(text)) is None:
        raise FilterError("Give a country by its name or its two letters, as in SG.")
    return code


def _yes(text: str) -> bool:
    if text != "true":
        raise FilterError("Choose one of the list.")
    return True


def _time(text: str) -> int:
    try:
        return TypeAdapter(TimeInput).validate_python(text)
    except ValidationError:
        raise FilterError("Give a date and a time, as in 2026-11-22T08:00.") from None


def _in_utc(text: str, zone: tzinfo) -> str:
    """A time of the reader's zone, as the browser's field gives it, as RFC 3339.

    Any other text stays as it is. So an address means the same to readers in other zones.
    """
    try:
        moment = datetime.fromisoformat(text)
        is_local = moment.tzinfo is None
        in_utc = moment.replace(tzinfo=zone).astimezone(UTC) if is_local else moment
    except (ValueError, OverflowError):
        return text
    return rfc3339((in_utc - EPOCH) // timedelta(microseconds=1)) if is_local else text


# Each filter's name in the address, as in the API unless that lacks it, with its name in
# `read.Filters`, or here if it has none there.
PARSERS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "to": ("recipient", _to),
    "state": ("state", _one_of(State)),
    "reason": ("reason", _one_of(Reason)),
    "network": ("mcc_mnc", _text),
    "errcode": ("errcode", _text),
    "reference": ("reference", _text),
    "since": ("since", _time),
    "until": ("until", _time),
    COUNTRY: (COUNTRY, _country),
    "conflicting": ("conflicting", _yes),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """The filters of an address: as they were given, as the store takes them, what is wrong."""

    given: dict[str, str]
    filters: read.Filters
    country: str | None
    faults: dict[str, str]
    after: tuple[int | str, ...] | None

    @classmethod
    def of(cls, request: Request) -> "Asked":
        parameters = request.query_params
        given = {name: value for name in PARSERS if (value := parameters.get(name, "").strip())}
        zone = zone_of(request)
        for name in TIMES & given.keys():
            given[name] = _in_utc(given[name], zone)
        parsed, faults = {}, {}
        for name, value in given.items():
            field, parse = PARSERS[name]
            try:
                parsed[field] = parse(value)
            except FilterError as error:
                faults[name] = str(error)
        country = parsed.pop(COUNTRY, None)
        cursor = parameters.get("cursor")
        try:
            after = read_place(cursor) if cursor else None
        except InvalidRequestError:
            after = None  # the list begins anew
        return cls(given, read.Filters(**parsed), country, faults, after)

    def filters_on(self, connection: Connection) -> read.Filters:
        """The filters with the networks of the country, which the database knows."""
        if self.country is None:
            return self.filters
        networks = [
            network
            for mcc in mccs_of(self.country)
            for network in console.networks_of(connection, mcc, MOST_NETWORKS)
            if self.filters.mcc_mnc in {None, network}
        ]
        return replace(self.filters, networks=tuple(networks[:MOST_NETWORKS]))

    def differs_from(self, request: Request) -> bool:
        """True if the address has a time that means another one in another zone."""
        return any(
            self.given.get(name) != request.query_params.get(name)
            for name in TIMES & self.given.keys()
        )

    @property
    def has_more(self) -> bool:
        """True if a filter was given that is not on show otherwise."""
        return not MAIN.issuperset(self.given)

    def local(self, name: str, zone: tzinfo) -> str:
        """A time as the browser's field takes it, in the reader's zone; empty without one."""
        at = getattr(self.filters, name)
        if at is None:
            return ""
        moment = local(at, zone)
        return moment.strftime("%Y-%m-%dT%H:%M:%S" if moment.second else "%Y-%m-%dT%H:%M")

    def query(self, **more: str) -> str:
        return urlencode({**self.given, **more})


@router.get("/deliveries")
def show_list(request: Request, _session: Reader) -> Response:
    """A page of the list, latest report first."""
    asked = Asked.of(request)
    if asked.differs_from(request):
        return redirect(request, "/deliveries", **asked.given)
    rows: Any = []
    filters = asked.filters
    if not asked.faults:
        with parts_of(request).database.read.connect() as connection:
            filters = asked.filters_on(connection)
            rows = read.page(connection, filters, ROWS_A_PAGE + 1, asked.after)
    has_more, rows = len(rows) > ROWS_A_PAGE, rows[:ROWS_A_PAGE]
    following = None
    if has_more:
        following = asked.query(cursor=place_of(rows[-1]))
    return page(
        request,
        "deliveries.html",
        422 if asked.faults else 200,
        asked=asked,
        rows=rows,
        following=following,
        has_too_many_networks=len(filters.networks or ()) == MOST_NETWORKS,
        most_networks=MOST_NETWORKS,
        zone_name=name_of(datetime.now(zone_of(request))),
        states=list(State),
        reasons=list(Reason),
        most_exported=MOST_EXPORTED,
    )


@router.get("/deliveries.csv")
def export_list(request: Request, _session: Reader) -> Response:
    """The deliveries that the list shows, as CSV that is safe for spreadsheets."""
    asked = Asked.of(request)
    if asked.faults:
        raise InvalidRequestError(
            [{"field": name, "message": fault} for name, fault in asked.faults.items()]
        )
    headers = {
        **SECURITY_HEADERS,
        "Content-Disposition": 'attachment; filename="deliveries.csv"',
    }
    rows = _as_csv(parts_of(request).database, asked)
    return StreamingResponse(rows, headers=headers, media_type="text/csv; charset=utf-8")


def _as_csv(database: Database, asked: Asked) -> Iterator[str]:
    """Page by page, so that no connection and no memory is held while the browser reads."""
    text = io.StringIO()
    write = csv_writer(text, safe=True)
    after: tuple[int | str, ...] | None = None
    for _ in range(MOST_EXPORTED // EXPORTED_AT_ONCE):
        with database.read.connect() as connection:
            filters = asked.filters_on(connection)
            rows = read.page(connection, filters, EXPORTED_AT_ONCE, after)
        for row in rows:
            write(delivery_of(row))
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        if len(rows) < EXPORTED_AT_ONCE:
            return
        after = (rows[-1].last_received_at, rows[-1].message_id, rows[-1].recipient)
