"""Phone numbers as people paste them."""

import re
import unicodedata
from typing import Final

from app.reports import normal_msisdn

# `+44 (0)20 …`: the zero is for callers from within the country.
TRUNK_ZERO: Final = re.compile(r"\(0\)")
# Between digits: white space, brackets, dots, slashes, dashes of any length, marks of direction.
BETWEEN: Final = re.compile(
    r"[\s().,/\u00ad\u2010-\u2015\u2212\u200b-\u200f\u202a-\u202e\u2060-\u2069_-]"
)
PREFIXES: Final = ("tel:", "sms:", "to=")


def read_number(text: str) -> str | None:
    """Digits only, country code first; None if it can't be a number. `+65 8888-8888`, for one."""
    plain = unicodedata.normalize("NFKC", text).strip().lower()
    for prefix in PREFIXES:
        plain = plain.removeprefix(prefix)
    bare = BETWEEN.sub("", TRUNK_ZERO.sub("", plain))
    return normal_msisdn(bare)
