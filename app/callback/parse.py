"""Parse the raw query of a callback: a `DeliveryReport`, or one clear refusal.

The four required parameters are decoded strictly: a lenient decoder would turn `%ff` into U+FFFD,
and let the second of two values win unnoticed. The others only explain a report, so whatever bytes
they have, they never refuse it: its status would be lost with them.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Final
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

from app.callback.paasoo_codes import meaning_of
from app.reports import (
    CALLBACK,
    RANK,
    DeliveryReport,
    Refusal,
    fingerprint_of,
    is_digits,
    is_printable_ascii,
    normal_msisdn,
)

# The guide's parameters. Others are allowed, and kept only in the raw query.
REQUIRED: Final = frozenset(("type", "messageid", "to", "status"))
PARAMETERS: Final = REQUIRED | {"statuscode", "errcode", "network"}

MAX_MESSAGE_ID_LENGTH: Final = 128
# In characters. The raw query keeps the whole of a longer text.
MAX_TEXT_LENGTH: Final = 255  # statuscode and errcode
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

# The provider is Chinese: a text that isn't UTF-8 is most likely GBK, which GB18030 contains.
ENCODINGS: Final = ("utf-8", "gb18030")

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ESCAPED_SPACES: Final = ("+", "%20", "%09", *(f"%0{digit}" for digit in "ABCDabcd"))


class InvalidReportError(Exception):
    """The query is not a delivery report. `code` is stable, `detail` names what is wrong."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def parse(query: bytes, received_at: int, source: str = CALLBACK) -> DeliveryReport:
    """Parse one raw query; `received_at` is in microseconds since 1970 UTC.

    Raises `InvalidReportError`, with one of `CODES`.
    """
    text = query.decode("latin-1")
    is_printable = is_printable_ascii(text)
    # Most queries need no decoding: check once instead of for each value.
    is_plain = is_printable and "%" not in text and "+" not in text
    values, other_words = _decode(text, is_plain=is_plain)
    kind = _required(values, "type")
    if kind != "dlr":
        raise InvalidReportError("unsupported_type", "type: only `dlr` is taken here")
    message_id = _required(values, "messageid")
    to = _required(values, "to")
    digits = _required(values, "status")
    if len(message_id) > MAX_MESSAGE_ID_LENGTH or not is_printable_ascii(message_id):
        raise _invalid("messageid", "1 to 128 printable ASCII characters without space")
    recipient = normal_msisdn(to)
    if recipient is None:
        raise _invalid("to", "3 to 20 digits, after a `+` or `00` if there is one")
    significant = digits.lstrip("0")
    if not is_digits(digits) or len(significant) > MAX_STATUS_DIGITS:
        raise _invalid("status", "an integer from 0 to 99999")
    status, word, errcode = int(significant or "0"), values.get("statuscode"), values.get("errcode")
    if word is not None and other_words:
        word = _most_cautious(status, (word, *other_words), errcode)
    fingerprint, claim = _understood(status, word, errcode, values.get("network"))
    raw = text if is_printable else printable(query)
    return DeliveryReport(message_id, recipient, fingerprint, raw, source, received_at, *claim)


def _most_cautious(status: int, words: Iterable[str], errcode: str | None) -> str:
    """Of several values of `statuscode`, the first of those that claim least.

    So a report that says both `delivered` and `failed` is never called delivered.
    """
    return min(words, key=lambda word: RANK[meaning_of(status, word, errcode)[0]])


# The fields of `DeliveryReport` from `rank` on.
Claim = tuple[int, str, str | None, int, str | None, str | None, str | None]


@lru_cache(maxsize=4096)
def _understood(
    status: int, statuscode: str | None, errcode: str | None, mcc_mnc: str | None
) -> tuple[int, Claim]:
    """Fingerprint and claim. They repeat across messages, so most come from the cache."""
    fingerprint = fingerprint_of(status, statuscode, errcode, mcc_mnc)  # before a text is cut
    statuscode = _cut(statuscode, MAX_TEXT_LENGTH)
    errcode = _cut(errcode, MAX_TEXT_LENGTH)
    mcc_mnc = _cut(mcc_mnc, MAX_NETWORK_LENGTH)
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
    return fingerprint, claim


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


def _decode(text: str, *, is_plain: bool) -> tuple[dict[str, str], list[str]]:
    """The guide's parameters that have a value, and the further values of `statuscode`.

    White space counts as no value. `text` has a character for each byte of the query; if it
    `is_plain`, no value needs to be decoded.
    """
    values: dict[str, str] = {}
    other_words: list[str] = []
    for pair in text.split("&"):
        name, _, value = pair.partition("=")
        if "%" in name:
            name = unquote(name, "latin-1")
        if name not in PARAMETERS or not value:
            continue
        if not is_plain:
            value = _decode_value(name, value)
            if not value:
                continue
        # A repeated value is harmless. Of two different ones we must not choose where a report is
        # nothing without it; of explanations the first counts.
        if values.setdefault(name, value) != value:
            if name in REQUIRED:
                raise InvalidReportError(
                    "duplicate_parameter", f"{name}: given with several values"
                )
            if name == "statuscode":
                other_words.append(value)
    return values, other_words


def _decode_value(name: str, value: str) -> str:
    """Decode a value and drop the white space around it."""
    if "%" not in value and "+" not in value and is_printable_ascii(value):
        return value
    raw = value.encode("latin-1")
    if name not in REQUIRED:
        return _decode_explanation(raw)
    text = _decode_strictly(name, raw)
    if name == "messageid" and "+" in (value[0], value[-1]):
        return text  # perhaps a part of the id that wasn't escaped: never drop it unnoticed
    bare = text.strip()
    if name == "to" and bare and value[0] == "+":
        return "+" + bare.removeprefix("+")  # it was decoded to a space
    return bare


def _decode_strictly(name: str, raw: bytes) -> str:
    if _BAD_ESCAPE.search(raw):
        raise InvalidReportError(
            "invalid_encoding", f"{name}: a `%` is not followed by two hexadecimal digits"
        )
    try:
        text = _unescaped(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidReportError("invalid_encoding", f"{name}: not UTF-8") from None
    if "\0" in text:
        raise InvalidReportError("invalid_encoding", f"{name}: has a NUL character")
    return text


def _decode_explanation(raw: bytes) -> str:
    """Decode a text that can't refuse its report: one that can't be read stays as it came.

    So no control character is in a value, and none is lost.
    """
    text = None if _BAD_ESCAPE.search(raw) else _read(_unescaped(raw))
    if text is None or _CONTROL.search(bare := text.strip()):
        return _without_escaped_space(printable(raw))
    return bare


def _read(data: bytes) -> str | None:
    for encoding in ENCODINGS:
        with suppress(UnicodeDecodeError):
            return data.decode(encoding)
    return None


def _without_escaped_space(text: str) -> str:
    """Drop outer white space. A regular expression may take the square of the length."""
    start, end = 0, len(text)
    while text.startswith(_ESCAPED_SPACES, start, end):
        start += 1 if text[start] == "+" else 3
    while text.endswith(_ESCAPED_SPACES, start, end):
        end -= 1 if text[end - 1] == "+" else 3
    return text[start:end]


def _unescaped(raw: bytes) -> bytes:
    return unquote_to_bytes(raw.replace(b"+", b" "))


def _required(values: dict[str, str], name: str) -> str:
    value = values.get(name)
    if value is None:
        raise InvalidReportError("missing_parameter", f"{name}: missing or empty")
    return value


def _cut(text: str | None, max_length: int) -> str | None:
    if text is None or len(text) <= max_length:
        return text
    return text[:max_length].rstrip()


def _invalid(name: str, expected: str) -> InvalidReportError:
    return InvalidReportError("invalid_parameter", f"{name}: must be {expected}")
