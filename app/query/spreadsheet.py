"""Deliveries as CSV (RFC 4180), safe for spreadsheets if that is wanted."""

import csv
from collections.abc import Callable
from typing import Any, Final, Protocol

from app.query.schemas import Delivery

# A spreadsheet takes a cell that begins so for a formula (OWASP, CSV injection).
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class Writable(Protocol):
    def write(self, text: str, /) -> object: ...


def csv_writer(file: Writable, safe: bool) -> Callable[[Delivery], object]:
    """CSV with a head. Null is an empty field; booleans are `true` and `false`, as in JSON."""
    as_cell = as_safe_text if safe else as_text
    writer = csv.writer(file)
    writer.writerow(Delivery.__annotations__)

    def write(delivery: Delivery) -> None:
        writer.writerow(as_cell(value) for value in delivery.values())

    return write


def as_text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def as_safe_text(value: Any) -> Any:
    """As `as_text`, with a quote before what a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else as_text(value)
