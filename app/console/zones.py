"""The reader's own time zone. The script tells it in a cookie; without one it is UTC."""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from fastapi import Request

from app.api.times import EPOCH

COOKIE: Final = "dlr_zone"
NAME: Final = re.compile(r"[A-Za-z0-9_+/-]{1,64}")


def zone_of(request: Request) -> tzinfo:
    """The zone of the cookie; UTC if there is none, or if this machine knows no such zone."""
    name = request.cookies.get(COOKIE, "")
    if not NAME.fullmatch(name):
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC


def local(at: int, zone: tzinfo) -> datetime:
    """A time of the store, microseconds since 1970 UTC, in a zone."""
    return shifted(EPOCH + timedelta(microseconds=at), zone)


def shifted(moment: datetime, zone: tzinfo) -> datetime:
    try:
        return moment.astimezone(zone)
    except OverflowError:  # in the year 1 or 9999
        return moment


def name_of(moment: datetime) -> str:
    """The zone's name at that time: `UTC+8`. Whoever reads it elsewhere understands it, too."""
    offset = moment.utcoffset() or timedelta()
    if not offset:
        return "UTC"
    hours, minutes = divmod(abs(offset) // timedelta(minutes=1), 60)
    sign = "-" if offset < timedelta() else "+"
    return f"UTC{sign}{hours}:{minutes:02}" if minutes else f"UTC{sign}{hours}"
