"""The search box: a message id, a number in any form, or a reference."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection, Row

from app.api.parts import parts_of
from app.console.access import PageRoute, Reader
from app.console.messages import is_message_id
from app.console.numbers import read_number
from app.console.pages import message_path, page, redirect
from app.store import quarantine, read

router = APIRouter(route_class=PageRoute, include_in_schema=False)

MAX_LENGTH: Final = 255
# Of each kind on the page of results; the list has all.
MOST_SHOWN: Final = 20

Rows = Sequence[Row[Any]]


@router.get("/search")
def search(request: Request, _session: Reader) -> Response:
    """Open the only message that is meant, or list them."""
    q = request.query_params.get("q", "").strip()
    if not q:
        return redirect(request, "/")
    number = read_number(q)
    with parts_of(request).database.read.connect() as connection:
        by_id = _by_id(connection, q)
        by_number = _page(connection, read.Filters(recipient=number)) if number else []
        by_reference = _by_reference(connection, q)
    messages = {row.message_id for rows in (by_id, by_number, by_reference) for row in rows}
    if len(messages) == 1:
        anchor = f"#to-{number}" if by_number and not by_id else ""
        return redirect(request, f"{message_path(*messages)}{anchor}")
    if by_number and not (by_id or by_reference):
        return redirect(request, "/deliveries", to=number)
    if by_reference and not (by_id or by_number):
        return redirect(request, "/deliveries", reference=q)
    with parts_of(request).database.read.connect() as connection:
        refused = quarantine.count(connection)
    found: dict[str, Any] = {
        "refused": refused,
        "by_id": by_id,
        "by_number": by_number,
        "by_reference": by_reference,
    }
    return page(request, "search.html", q=q, number=number, most=MOST_SHOWN, **found)


def _by_id(connection: Connection, q: str) -> Rows:
    return read.deliveries_of(connection, q) if is_message_id(q) else []


def _by_reference(connection: Connection, q: str) -> Rows:
    if len(q) > MAX_LENGTH or "\0" in q:
        return []
    return _page(connection, read.Filters(reference=q))


def _page(connection: Connection, filters: read.Filters) -> Rows:
    return read.page(connection, filters, MOST_SHOWN + 1, None)
