"""Times: microseconds since 1970 UTC inside, RFC 3339 in requests and answers."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SECOND: Final = 1_000_000  # us
MINUTE: Final = 60 * SECOND
DAY: Final = 24 * 60 * MINUTE

_MINUTES: Final = tuple(f"{minute // 60:02}:{minute % 60:02}" for minute in range(24 * 60))
_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def rfc3339(microseconds: int) -> str:
    """Write a time as RFC 3339 text in UTC: `2026-11-22T08:00:00.123456Z`."""
    day, rest = divmod(microseconds, DAY)
    minute, rest = divmod(rest, MINUTE)
    second, fraction = divmod(rest, SECOND)
    return f"{_date(day)}T{_MINUTES[minute]}:{second:02}.{fraction:06}Z"


@lru_cache(maxsize=4096)
def _date(day: int) -> str:
    return (EPOCH + timedelta(days=day)).date().isoformat()


def _parse(text: object) -> int:
    # A `+` that was not percent-encoded arrives as a space.
    found = _RFC3339.fullmatch(str(text).replace(" ", "+"))
    if found is None:
        raise ValueError("must be a time of RFC 3339 with its offset: 2026-11-22T08:00:00Z")
    try:
        # Decimals beyond the sixth are dropped. An offset may leave the years 1 to 9999.
        time = datetime.fromisoformat(found[0].upper()).astimezone(UTC)
        return (time - EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise ValueError("must be a time that exists") from None


_SCHEMA: Final = WithJsonSchema({"type": "string", "format": "date-time"})

# In a request: RFC 3339 text with an offset, read as microseconds.
TimeInput = Annotated[int, BeforeValidator(_parse), _SCHEMA]
# In a response model: microseconds, written as RFC 3339 text.
TimeOutput = Annotated[int, PlainSerializer(rfc3339, return_type=str), _SCHEMA]
# In a response dictionary: the text itself.
TimeText = Annotated[str, _SCHEMA]
