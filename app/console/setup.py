"""The set-up: the callback address to copy, the keys, and a test report of one's own."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from app.api.parts import Parts, parts_of
from app.api.request_log import DIGEST_DIGITS
from app.api.uses import mark_of_key, mark_of_token
from app.callback.door import PATH as CALLBACK_PATH
from app.callback.parse import parse
from app.console.access import Administrator, CheckedForm, PageRoute, address_of
from app.console.pages import message_path, page, redirect
from app.errors import DatabaseUnavailableError
from app.ingest.commit import Outcome
from app.ingest.writer import QueueFullError
from app.reports import TEST_NUMBER
from app.settings import Role
from app.store import uses

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/set-up")
def show_set_up(request: Request, _session: Administrator) -> Response:
    """Tokens stay hidden until they are asked for."""
    return _page(request, is_shown=False)


@router.post("/set-up/addresses")
def show_addresses(request: Request, _session: Administrator, _form: CheckedForm) -> Response:
    """The same page with the callback addresses, which hold the tokens."""
    return _page(request, is_shown=True)


@router.post("/set-up/test-report")
async def make_test_report(
    request: Request, _session: Administrator, _form: CheckedForm
) -> Response:
    """Store a report as if PaaSoo had called, by the same parser and writer, and open it."""
    message_id = f"test-{token_hex(6)}"
    if await _admit(parts_of(request), message_id) is not Outcome.STORED:
        raise DatabaseUnavailableError
    return redirect(request, message_path(message_id))


async def _admit(parts: Parts, message_id: str) -> Outcome:
    query = urlencode(
        {
            "type": "dlr",
            "messageid": message_id,
            "to": TEST_NUMBER,
            "status": 0,
            "statuscode": "delivered",
        }
    )
    report = parse(query.encode(), parts.door.take_time())
    told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def tell(outcome: Outcome) -> None:
        if not told.done():  # it is cancelled if the browser leaves
            told.set_result(outcome)

    try:
        parts.writer.admit_report(report, tell)
    except QueueFullError:
        return Outcome.UNAVAILABLE
    return await told


def _page(request: Request, *, is_shown: bool) -> Response:
    parts = parts_of(request)
    settings = parts.settings
    last_use_of = _last_uses(parts)
    tokens = [
        {
            "address": f"{address_of(request)}{CALLBACK_PATH}/{token}" if is_shown else None,
            "last_use": last_use_of(mark_of_token(token)),
        }
        for token in settings.callback_tokens
    ]
    keys = [
        {
            "name": key.name,
            "role": Role(key.role).name.lower(),
            "digits": key.digest.hex()[:DIGEST_DIGITS],
            "last_use": last_use_of(mark_of_key(key)),
        }
        for key in settings.api_keys
    ]
    return page(
        request,
        "set_up.html",
        tokens=tokens,
        is_shown=is_shown,
        bare_address=None if tokens else f"{address_of(request)}{CALLBACK_PATH}",
        networks=[str(network) for network in settings.callback_allowed_networks],
        keys=keys,
        database=settings.database_shown,
        retention_days=settings.retention_days,
        sends=parts.sending is not None,
        asks=parts.asking is not None,
        asks_for_balance=parts.balance is not None,
        balance=parts.balance.known if parts.balance is not None else None,
    )


@dataclass(frozen=True, slots=True)
class LastUse:
    """When a token or key was used last, by any replica."""

    at: int | None  # None: no use is known
    is_new: bool  # by this process, within about a minute: not written down yet


def _last_uses(parts: Parts) -> Callable[[str], LastUse]:
    """A function from a mark to its last use."""
    with parts.database.read.connect() as connection:
        known = uses.latest(connection)
    unwritten = parts.uses.unwritten()
    return lambda mark: LastUse(known.get(mark), mark in unwritten)
