"""Read PaaSoo's answer to a question about a message.

Source: PaaSoo's public pages, and public programs that call it. An answer is a JSON array with an
object for each recipient. What it is while there is no report, no source shows: an object without
an integer `drStatus` is "no report yet".
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from app.callback.parse import InvalidReportError, parse
from app.reports import PULL, DeliveryReport, is_digits, normal_msisdn

MAX_PRICE_LENGTH: Final = 32
MAX_PARTS: Final = 10_000
# The names of the callback's optional parameters in an answer.
NAMES: Final = {"statuscode": "drStatuscode", "errcode": "drErrcode", "network": "network"}

# Numbers keep the form that they came in: a price is shown as it came.
_DECODER: Final = json.JSONDecoder(parse_float=str, parse_int=str)
_SPACE: Final = re.compile(r"\s*")
_NOT_ASCII: Final = re.compile(r"[^ -~]")


class NotUnderstoodError(Exception):
    """The answer is not a list of recipients."""


class Told(NamedTuple):
    """The answer about one recipient: a report if there is one yet, and its costs."""

    recipient: str
    report: DeliveryReport | None
    price: str | None
    parts: int | None


def read_answer(text: str, message_id: str, received_at: int) -> list[Told]:
    """The answer about each recipient of this message; about another, it is ignored.

    `received_at` in microseconds since 1970 UTC. Raises `NotUnderstoodError`.
    """
    told = []
    try:
        for item, raw in _items(text.strip()):
            one = _told(item, raw, message_id, received_at)
            if one is not None:
                told.append(one)
    except (ValueError, RecursionError):
        raise NotUnderstoodError from None
    return told


def read_report(raw: str, message_id: str, received_at: int) -> DeliveryReport | None:
    """The report in what an answer says of one recipient, as `DeliveryReport.query` has it.

    None if there is none, or if the text has been damaged since.
    """
    try:
        item = _DECODER.decode(raw)
    except (ValueError, RecursionError):
        return None
    told = _told(item, raw, message_id, received_at) if isinstance(item, dict) else None
    return None if told is None else told.report


def _items(text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of the array, each with its own text. Raises `ValueError`.

    A single object counts as a list of one. Whatever else stands in the array is passed over.
    """
    if text.startswith("{"):
        yield _DECODER.decode(text), text
        return
    if not text.startswith("["):
        raise NotUnderstoodError
    position = _after_space(text, 1)
    while text[position : position + 1] != "]":
        item, end = _DECODER.raw_decode(text, position)
        if isinstance(item, dict):
            yield item, text[position:end]
        position = _after_space(text, end)
        if text[position : position + 1] == ",":
            position = _after_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise NotUnderstoodError
    if position != len(text) - 1:
        raise NotUnderstoodError


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found
    return found.end()


def _told(item: dict[str, Any], raw: str, message_id: str, received_at: int) -> Told | None:
    recipient = normal_msisdn(_words(item.get("to")) or "")
    if recipient is None or _words(item.get("messageid")) not in {None, message_id}:
        return None
    price = _words(item.get("price"))
    return Told(
        recipient,
        _report(item, raw, message_id, recipient, received_at),
        price if price and len(price) <= MAX_PRICE_LENGTH and price.isprintable() else None,
        _parts(item.get("counts")),
    )


def _report(
    item: dict[str, Any], raw: str, message_id: str, recipient: str, received_at: int
) -> DeliveryReport | None:
    """The report, by the same parse as a callback's. None if there is none yet."""
    status = _words(item.get("drStatus"))
    if status is None or not is_digits(status):
        return None
    named = {name: _words(item.get(theirs)) for name, theirs in NAMES.items()}
    values = {"type": "dlr", "messageid": message_id, "to": recipient, "status": status, **named}
    query = urlencode({name: value for name, value in values.items() if value})
    try:
        report = parse(query.encode(), received_at, PULL)
    except InvalidReportError:
        return None
    return report._replace(query=_escaped(raw))


def _words(value: object) -> str | None:
    """Text without outer white space, a number's text; anything else is nothing."""
    if not isinstance(value, str):
        return None
    # JSON can escape half a character, which no database takes.
    return value.encode("utf-8", "replace").decode().strip()


def _parts(value: object) -> int | None:
    words = _words(value) or ""
    parts = int(words) if is_digits(words) and len(words) <= len(str(MAX_PARTS)) else 0
    return parts if 0 < parts <= MAX_PARTS else None


def _escaped(raw: str) -> str:
    """The same JSON in printable ASCII."""
    return _NOT_ASCII.sub(_escape, raw)


def _escape(character: re.Match[str]) -> str:
    text = character.group()
    if text < " ":  # JSON has control characters between values alone
        return " "
    return "\\u007f" if text == "\x7f" else json.dumps(text)[1:-1]
