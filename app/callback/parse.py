"""Parse the raw query of a callback: a `DeliveryReport`, or one clear refusal.

Decoding is strict. A lenient decoder would turn `%ff` into U+FFFD, and let the second of two values
win unnoticed.
"""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

from app.callback.paasoo_codes import meaning_of
from app.reports import (
    RANK,
    DeliveryReport,
    Refusal,
    fingerprint_of,
    is_digits,
    is_printable_ascii,
    normal_msisdn,
)

# The guide's parameters. Others are allowed, and kept only in the raw query.
PARAMETERS: Final = frozenset(
    ("type", "messageid", "to", "status", "statuscode", "errcode", "network")
)

MAX_MESSAGE_ID_LENGTH: Final = 128
MAX_TEXT_LENGTH: Final = 255  # statuscode and errcode, in characters
MAX_NETWORK_LENGTH: Final = 64
MAX_STATUS_DIGITS: Final = 5

# Of the refusals.
CODES: Final = (
    "missing_parameter",
    "unsupported_type",
    "invalid_parameter",
    "duplicate_parameter",
    "invalid_encoding",
)

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class InvalidReportError(Exception):
    """The query is not a delivery report. `code` is stable, `detail` names what is wrong."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def parse(query: bytes, received_at: int, source: str = "callback") -> DeliveryReport:
    """Parse one raw query; `received_at` is in microseconds since 1970 UTC.

    Raises `InvalidReportError`, with one of `CODES`.
    """
    values = _decode(query)
    kind = _required(values, "type")
    if kind != "dlr":
        raise InvalidReportError("unsupported_type", "type: only `dlr` is taken here")
    message_id = _required(values, "messageid")
    to = _required(values, "to")
    status = _required(values, "status")
    if len(message_id) > MAX_MESSAGE_ID_LENGTH or not is_printable_ascii(message_id):
        raise _invalid("messageid", "1 to 128 printable ASCII characters without space")
    recipient = normal_msisdn(to)
    if recipient is None:
        raise _invalid("to", "3 to 20 digits, after a `+` or `00` if there is one")
    significant = status.lstrip("0")
    if not is_digits(status) or len(significant) > MAX_STATUS_DIGITS:
        raise _invalid("status", "an integer from 0 to 99999")
    fingerprint, claim = _understood(
        int(significant or "0"),
        values.get("statuscode"),
        values.get("errcode"),
        values.get("network"),
    )
    return DeliveryReport(
        message_id, recipient, fingerprint, printable(query), source, received_at, *claim
    )


# The fields of `DeliveryReport` from `rank` on.
Claim = tuple[int, str, str | None, int, str | None, str | None, str | None]


@lru_cache(maxsize=4096)
def _understood(
    status: int, statuscode: str | None, errcode: str | None, mcc_mnc: str | None
) -> tuple[int, Claim]:
    """Fingerprint and claim. They repeat across messages, so most come from the cache."""
    _limit("statuscode", statuscode, MAX_TEXT_LENGTH)
    _limit("errcode", errcode, MAX_TEXT_LENGTH)
    _limit("network", mcc_mnc, MAX_NETWORK_LENGTH)
    state, reason = meaning_of(status, statuscode, errcode)
    # Plain strings: drivers bind a member of an enumeration ten times slower.
    claim = (
        RANK[state],
        state.value,
        reason and reason.value,
        status,
        statuscode,
        errcode,
        mcc_mnc,
    )
    return fingerprint_of(status, statuscode, errcode, mcc_mnc), claim


def understand(query: bytes, received_at: int) -> DeliveryReport | Refusal:
    """As `parse`, but return a refusal, for the quarantine, if `parse` would raise."""
    try:
        return parse(query, received_at)
    except InvalidReportError as error:
        return Refusal(printable(query), error.code, error.detail, received_at)


def printable(query: bytes) -> str:
    """The query with every byte percent-encoded that is not printable ASCII.

    It parses like the original, and no database or log refuses it.
    """
    text = query.decode("latin-1")
    if is_printable_ascii(text):
        return text
    # `quote_from_bytes` also leaves letters, digits and `_.-~` alone.
    return quote_from_bytes(query, safe="!\"#$%&'()*+,/:;<=>?@[\\]^`{|}")


def _decode(query: bytes) -> dict[str, str]:
    """The guide's parameters that have a value: an empty one counts as absent."""
    values: dict[str, str] = {}
    # Most queries need no decoding: check once instead of for each value.
    is_plain = query.isascii() and not (b"%" in query or b"+" in query or b"\0" in query)
    for pair in query.decode("latin-1").split("&"):
        name, _, value = pair.partition("=")
        if "%" in name:
            name = unquote(name, "latin-1")
        if name not in PARAMETERS or not value:
            continue
        if not is_plain:
            value = _decode_value(name, value.encode("latin-1"))
        # A repeated value is harmless. Of two different ones we must not choose.
        if values.setdefault(name, value) != value:
            raise InvalidReportError("duplicate_parameter", f"{name}: given with several values")
    return values


def _decode_value(name: str, raw: bytes) -> str:
    raw = raw.replace(b"+", b" ")
    if _BAD_ESCAPE.search(raw):
        raise InvalidReportError(
            "invalid_encoding", f"{name}: a `%` is not followed by two hexadecimal digits"
        )
    try:
        value = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidReportError("invalid_encoding", f"{name}: not UTF-8") from None
    if "\0" in value:
        raise InvalidReportError("invalid_encoding", f"{name}: has a NUL character")
    return value


def _required(values: dict[str, str], name: str) -> str:
    value = values.get(name)
    if value is None:
        raise InvalidReportError("missing_parameter", f"{name}: missing or empty")
    return value


def _limit(name: str, value: str | None, max_length: int) -> None:
    if value is not None and len(value) > max_length:
        raise _invalid(name, f"at most {max_length} characters")


def _invalid(name: str, expected: str) -> InvalidReportError:
    return InvalidReportError("invalid_parameter", f"{name}: must be {expected}")
