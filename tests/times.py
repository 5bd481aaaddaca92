"""Times for tests: near enough to now that nothing expires by itself, whatever the date."""

import time
from datetime import UTC, datetime, timedelta, timezone

HOUR = 3_600_000_000  # us
DAY = 24 * HOUR


def ago(**duration: float) -> int:
    """The time so many days, hours or seconds ago, in microseconds since 1970 UTC."""
    return time.time_ns() // 1000 - timedelta(**duration) // timedelta(microseconds=1)


# On the hour. The next hours are over, too.
YESTERDAY = ago(days=1) // HOUR * HOUR


def written(time_us: int, hours_east: int = 0) -> str:
    """RFC 3339, to the microsecond; UTC is shown as in the API."""
    zone = timezone(timedelta(hours=hours_east))
    text = _datetime(time_us).astimezone(zone).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def begun(time_us: int, length: int) -> str:
    """The start of a time's hour or day, as groups of statistics show it."""
    return f"{_datetime(time_us // length * length):%Y-%m-%dT%H:%M:%SZ}"


def _datetime(time_us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
