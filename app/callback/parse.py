"""From the raw query of a callback to a `DeliveryReport`, strictly, or to one clear refusal.

Strictly, because a lenient decoder changes what it doesn't understand: `%ff` would become
U+FFFD, and the second of two values would win unseen.
"""

import re
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from app.callback.paasoo_codes import meaning_of
from app.reports import DeliveryReport, fingerprint_of
from app.store.quarantine import Refusal

# The guide's parameters. Any other is allowed, and kept in the raw query alone.
PARAMETERS: Final = frozenset(
    (b"type", b"messageid", b"to", b"status", b"statuscode", b"errcode", b"network")
)

MAX_TEXT_LENGTH: Final = 255  # statuscode and errcode, in characters
MAX_NETWORK_LENGTH: Final = 64
MAX_STATUS_DIGITS: Final = 5

_MESSAGE_ID: Final = re.compile(r"[!-~]{1,128}")
_MSISDN_DIGITS: Final = re.compile(r"[0-9]{3,20}")
_DIGITS: Final = re.compile(r"[0-9]+")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PRINTABLE: Final = re.compile(rb"[!-~]*")


class InvalidReportError(Exception):
    """The query is not a delivery report. `code` is stable, `detail` names what is wrong."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def parse(query: bytes, received_at: int, source: str = "callback") -> DeliveryReport:
    """Understand one raw query; `received_at` is in microseconds since 1970 UTC.

    Raises `InvalidReportError`, whose codes are `missing_parameter`, `unsupported_type`,
    `invalid_parameter`, `duplicate_parameter` and `invalid_encoding`.
    """
    values = _decode(query)
    kind = _required(values, "type")
    if kind != "dlr":
        raise InvalidReportError("unsupported_type", "type: only `dlr` is taken here")
    message_id = _required(values, "messageid")
    to = _required(values, "to")
    status_text = _required(values, "status")
    if not _MESSAGE_ID.fullmatch(message_id):
        raise _invalid("messageid", "1 to 128 printable ASCII characters without space")
    recipient = normal_msisdn(to)
    if recipient is None:
        raise _invalid("to", "3 to 20 digits, after a `+` or `00` if there is one")
    if (
        not _DIGITS.fullmatch(status_text)
        or len(significant := status_text.lstrip("0")) > MAX_STATUS_DIGITS
    ):
        raise _invalid("status", "an integer from 0 to 99999")
    status = int(significant or "0")
    statuscode = _optional(values, "statuscode", MAX_TEXT_LENGTH)
    errcode = _optional(values, "errcode", MAX_TEXT_LENGTH)
    mcc_mnc = _optional(values, "network", MAX_NETWORK_LENGTH)
    state, reason = meaning_of(status, statuscode, errcode)
    return DeliveryReport(
        message_id=message_id,
        recipient=recipient,
        state=state,
        reason=reason,
        status=status,
        statuscode=statuscode,
        errcode=errcode,
        mcc_mnc=mcc_mnc,
        received_at=received_at,
        query=printable(query),
        fingerprint=fingerprint_of(status, statuscode, errcode, mcc_mnc),
        source=source,
    )


def understand(query: bytes, received_at: int) -> DeliveryReport | Refusal:
    """As `parse`, but what is not a valid report becomes a refusal, for the quarantine."""
    try:
        return parse(query, received_at)
    except InvalidReportError as error:
        return Refusal(printable(query), error.code, error.detail, received_at)


def normal_msisdn(to: str) -> str | None:
    """Digits only, country code first; None where it can't be a phone number.

    One leading `+` is dropped, which arrives as a space when it wasn't escaped, or one `00`.
    """
    if to.startswith(("+", " ")):
        to = to[1:]
    elif to.startswith("00"):
        to = to[2:]
    return to if _MSISDN_DIGITS.fullmatch(to) else None


def printable(query: bytes) -> str:
    """The query as printable ASCII: as it came, any other byte percent-encoded.

    Parsing gives the same for both, and no byte is left that a database or a log refuses.
    """
    if _PRINTABLE.fullmatch(query):
        return query.decode("ascii")
    # `quote_from_bytes` leaves what is named safe, and letters, digits and `_.-~`.
    return quote_from_bytes(query, safe="!\"#$%&'()*+,/:;<=>?@[\\]^`{|}")


def _decode(query: bytes) -> dict[str, str]:
    """Our parameters that have a value. An empty one counts as absent, as the guide's do."""
    values: dict[str, str] = {}
    for pair in query.split(b"&"):
        raw_name, _, raw_value = pair.partition(b"=")
        if b"%" in raw_name:
            raw_name = unquote_to_bytes(raw_name)
        if raw_name not in PARAMETERS or not raw_value:
            continue
        name = raw_name.decode("ascii")
        value = _decode_value(name, raw_value)
        # The same value twice says nothing twice; two values are a choice that isn't ours.
        if values.setdefault(name, value) != value:
            raise InvalidReportError("duplicate_parameter", f"{name}: given with several values")
    return values


def _decode_value(name: str, raw: bytes) -> str:
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    if b"%" in raw:
        if _BAD_ESCAPE.search(raw):
            raise InvalidReportError(
                "invalid_encoding", f"{name}: a `%` that two hexadecimal digits don't follow"
            )
        raw = unquote_to_bytes(raw)
    try:
        value = raw.decode("utf-8")
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


def _optional(values: dict[str, str], name: str, max_length: int) -> str | None:
    value = values.get(name)
    if value is not None and len(value) > max_length:
        raise _invalid(name, f"at most {max_length} characters")
    return value


def _invalid(name: str, expected: str) -> InvalidReportError:
    return InvalidReportError("invalid_parameter", f"{name}: must be {expected}")
