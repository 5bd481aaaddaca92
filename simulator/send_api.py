"""The send API, `GET /json`, as PaaSoo's guide has it.

The guide gives no HTTP status, so every answer is 200, and the JSON alone tells success from
refusal. Nor does the guide say which of several mistakes PaaSoo names.
"""

import hmac
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, Final
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simulator.exchange import Exchange
from simulator.options import Account, SendApi
from simulator.reporter import Stopping
from simulator.traffic import MAX_RECIPIENTS

PARAMETERS: Final = ("key", "secret", "to", "text")
HANG_UP: Final = "simulator.hang_up"

# The form that reports have, country code first, no `+`: the receiver would refuse any other.
_NUMBER: Final = re.compile(r"[1-9][0-9]{2,19}")


class RefusedSendError(Exception):
    """A refused send: `status` is the guide's, the text is ours."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def server_for(settings: SendApi, exchange: Exchange, stopping: Stopping) -> uvicorn.Server:
    """A server of the send API, to be run on the listener of its settings."""
    app = make_app(settings, exchange, stopping)
    config = uvicorn.Config(
        app,
        http=ProtocolThatCanHangUp,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    return SubordinateServer(config)


def make_app(settings: SendApi, exchange: Exchange, stopping: Stopping) -> Starlette:
    """The send API as an app, which keeps the balance of its account."""
    left = inf if settings.account.balance is None else settings.account.balance

    def charge(recipients: list[str]) -> None:
        nonlocal left
        if len(recipients) > left:
            raise RefusedSendError(403, "use restricted: the balance is gone")
        left -= len(recipients)

    async def send(request: Request) -> Response:
        try:
            recipients, text = read_send(request.scope["query_string"], settings.account)
            charge(recipients)
        except RefusedSendError as refusal:
            exchange.refuse(refusal.status, refusal.text)
            return JSONResponse({"status_code": refusal.text, "status": str(refusal.status)})
        message, is_answer_lost = exchange.accept(recipients, text, settings.lost_answers)
        await exchange.report_before_the_answer(message)
        await stopping.sleep(settings.answer_delay_s)
        if is_answer_lost:
            await hang_up(request)
        # A background task begins when the answer is out.
        return JSONResponse(
            {"status": "0", "messageid": message.message_id},
            background=BackgroundTask(exchange.report_after_the_answer, message),
        )

    return Starlette(routes=[Route("/json", send, methods=["GET"])])


def read_send(query: bytes, account: Account) -> tuple[list[str], str]:
    """The recipients, each once, and the text. Raises `RefusedSendError`."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise RefusedSendError(400, "bad request: the encoding is not UTF-8") from None
    values = dict(pairs)
    given = Counter(name for name, _ in pairs)
    for name in PARAMETERS:
        if not values.get(name):
            raise RefusedSendError(400, f"bad request: {name} is missing")
        if given[name] > 1:
            raise RefusedSendError(400, f"bad request: {name} is given twice")
    if values["key"] != account.key:
        raise RefusedSendError(401, "illegal key.,")
    if not hmac.compare_digest(values["secret"].encode(), account.secret.encode()):
        raise RefusedSendError(401, "illegal secret.,")  # the guide's own example
    recipients = list(dict.fromkeys(values["to"].split(",")))
    if not all(_NUMBER.fullmatch(recipient) for recipient in recipients):
        raise RefusedSendError(400, "bad request: to has an item that is no number")
    if len(recipients) > MAX_RECIPIENTS:
        raise RefusedSendError(400, f"bad request: more than {MAX_RECIPIENTS} recipients")
    return recipients, values["text"]


async def hang_up(request: Request) -> None:
    """Close the connection without an answer."""
    request.scope[HANG_UP]()
    while (await request.receive())["type"] != "http.disconnect":
        pass


class ProtocolThatCanHangUp(HttpToolsProtocol):
    """uvicorn's protocol, with a way for the app to close a connection unanswered."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        scope: Any = self.scope
        scope[HANG_UP] = self.transport.abort


class SubordinateServer(uvicorn.Server):
    """A server that leaves signals to the run around it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
