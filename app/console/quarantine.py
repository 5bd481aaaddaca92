"""The quarantine for people: what was refused and why, to replay or to delete after a question."""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response

from app.api import cursors
from app.api.database import refuse_while_away
from app.api.parts import parts_of
from app.console.access import Administrator, CheckedForm, Form, PageRoute, first
from app.console.pages import counted, page, redirect
from app.errors import InvalidRequestError
from app.quarantine.replay import replay
from app.reports import is_printable_ascii
from app.store import quarantine as store
from app.store.engine import Database

router = APIRouter(route_class=PageRoute, include_in_schema=False)

ROWS_A_PAGE: Final = 50
# Ids that one form may name: those of a page.
MAX_IDS: Final = 1000
# Rows that one transaction deletes: the writer must wait for it.
BATCH: Final = 500
# Of a number in a form or an address: those of a time in microseconds, and two more.
MAX_DIGITS: Final = 18
NAMED: Final = {"messageid": "message", "to": "number"}
MOST_SHOWN: Final = 128
REPLAY: Final = "replay"
ACTIONS: Final = {REPLAY, "delete"}


@router.get("/quarantine")
def show_quarantine(request: Request, _session: Administrator) -> Response:
    """Refused callbacks, latest first."""
    cursor = request.query_params.get("cursor")
    try:
        after = cursors.decode(cursor, int, str) if cursor else None
    except InvalidRequestError:
        after = None
    with parts_of(request).database.read.connect() as connection:
        rows: Sequence[Any] = store.page(connection, ROWS_A_PAGE + 1, after)
        total = store.count(connection)
    has_more, rows = len(rows) > ROWS_A_PAGE, rows[:ROWS_A_PAGE]
    following = cursors.encode((rows[-1].received_at, rows[-1].id)) if has_more else None
    done = request.query_params.get("done")
    shown: dict[str, Any] = {
        "rows": [(row, _named(row.query)) for row in rows],
        "total": total,
        "following": following,
        "notice": _told(done, request.query_params.get("counts", "")),
        "is_problem": done == "nothing",
    }
    return page(request, "quarantine.html", **shown)


@router.post("/quarantine/question")
def ask_first(request: Request, _session: Administrator, form: CheckedForm) -> Response:
    """Say how many rows it is about, and ask."""
    action, ids = _wanted(form)
    with parts_of(request).database.read.connect() as connection:
        until = store.newest(connection)
        number = store.count(connection, ids, until)
    if action not in ACTIONS or not number:
        return redirect(request, "/quarantine", done="nothing")
    return page(request, "question.html", action=action, ids=ids, number=number, until=until)


@router.post("/quarantine/do")
def do_it(request: Request, _session: Administrator, form: CheckedForm) -> Response:
    """Replay or delete what the question was about."""
    refuse_while_away(request)
    action, ids = _wanted(form)
    database = parts_of(request).database
    if action == REPLAY:
        batches = list(replay(database, ids))
        replayed = sum(batch.replayed for batch in batches)
        rejected = sum(batch.still_rejected for batch in batches)
        return redirect(request, "/quarantine", done=action, counts=f"{replayed}-{rejected}")
    if action in ACTIONS:
        deleted = _delete(database, ids, _number_in(first(form, "until")) or 0)
        return redirect(request, "/quarantine", done=action, counts=str(deleted))
    return redirect(request, "/quarantine", done="nothing")


def _wanted(form: Form) -> tuple[str, list[str] | None]:
    """The action, and the ids that it is about; None means all rows."""
    action, _, which = first(form, "action").partition(" ")
    ids = [it for it in form.get("id", ()) if is_printable_ascii(it)][:MAX_IDS]
    return action, None if which == "all" else ids


def _number_in(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    return int(text) if is_number else None


def _delete(database: Database, ids: Sequence[str] | None, until: int) -> int:
    """Delete these rows, or in small transactions all that the question has counted."""
    if ids is not None:
        with database.statement() as connection:
            return len(store.remove(connection, ids))
    deleted, after_id = 0, ""
    while True:
        with database.transaction() as connection:
            rows = store.take(connection, after_id, BATCH, None, until)
            deleted += len(store.remove(connection, [row.id for row in rows]))
        if not rows:
            return deleted
        after_id = rows[-1].id


def _named(query: str) -> str:
    """The message and the number that a refused callback names, as far as it does."""
    try:
        given = parse_qs(query, max_num_fields=MAX_IDS)
    except ValueError:
        return ""
    return ", ".join(
        f"{words} {given[name][0][:MOST_SHOWN]}" for name, words in NAMED.items() if name in given
    )


def _told(done: str | None, counts: str) -> str | None:
    """The result of the last action, in words."""
    numbers = [it for part in counts.split("-") if (it := _number_in(part)) is not None]
    if done == REPLAY and len(numbers) == 2:
        stored = counted(numbers[0], "callback is", "callbacks are")
        stay = counted(numbers[1], "callback is", "callbacks are")
        return f"{stored} stored now. {stay} still refused."
    if done == "delete" and len(numbers) == 1:
        return f"{counted(numbers[0], 'callback')} deleted."
    return "Nothing was chosen, or it is gone already." if done else None
