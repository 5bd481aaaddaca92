"""The addresses that an account calls: one sends, one tells of a message, one tells the balance.

The guide and the public pages give no HTTP status, so every honest answer is 200, and the JSON
alone tells success from refusal. `accounts.py` has the rules, `inquiries.py` what is told.
"""

import itertools
from collections.abc import Awaitable, Callable
from functools import partial

import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulator import forms
from simulator.accounts import SYSTEM_ERROR, RefusedSendError, Till
from simulator.exchange import Exchange, Fate
from simulator.inquiries import Kind
from simulator.options import SendApi
from simulator.reporter import Stopping
from simulator.serving import hang_up, server_of
from simulator.traffic import Mix

Form = Callable[[forms.Values], Response]


def server_for(settings: SendApi, exchange: Exchange, stopping: Stopping) -> uvicorn.Server:
    """A server of the send API, to be run on the listener of its settings."""
    return server_of(make_app(settings, exchange, stopping))


def make_app(settings: SendApi, exchange: Exchange, stopping: Stopping) -> Starlette:
    """All addresses of one account as an app. One more is one more route."""
    till = Till(settings.account)
    answer = answers_in_forms(exchange.mix, settings.odd_answers)
    tell = teller(settings.odd_pulls, exchange, till, answer, stopping)

    async def send(request: Request) -> Response:
        try:
            order = till.take(*asked_by(request))
        except RefusedSendError as refusal:
            exchange.refuse(refusal.status, refusal.text)
            return answer(refused(refusal))
        message, fate = exchange.accept(order, settings)
        await exchange.report_before_the_answer(message)
        await stopping.sleep(settings.answer_delay_s)
        if fate is Fate.LOST:
            await hang_up(request)
        if fate is Fate.SYSTEM_ERROR:
            response = answer({"status_code": "system error", "status": str(SYSTEM_ERROR)})
        else:
            response = answer({"status": "0", "messageid": message.message_id})
        # A background task begins when the answer is out.
        response.background = BackgroundTask(exchange.report_after_the_answer, message)
        return response

    async def show_balance(request: Request) -> Response:
        try:
            return answer(till.balance(*asked_by(request)))
        except RefusedSendError as refusal:
            return answer(refused(refusal))

    return Starlette(
        routes=[
            Route("/json", send, methods=["GET"]),
            Route("/dlr", tell, methods=["GET"]),
            Route("/balance", show_balance, methods=["GET"]),
        ]
    )


def teller(
    odd_share: float, exchange: Exchange, till: Till, answer: Form, stopping: Stopping
) -> Callable[[Request], Awaitable[Response]]:
    """Answer questions about messages."""

    async def tell(request: Request) -> Response:
        try:
            message_id = till.asked_about(*asked_by(request))
        except RefusedSendError as refusal:
            exchange.refuse_question(refusal.text)
            return answer(refused(refusal))
        told = exchange.answer(message_id, odd_share)
        await stopping.sleep(told.after_s)
        if told.kind in forms.PAGES:
            return forms.page(told.kind)
        response = answer(told.items)
        if told.kind is Kind.CUT_OFF:
            return forms.cut_off(response, partial(hang_up, request) if told.hangs_up else None)
        return response

    return tell


def answers_in_forms(mix: Mix, odd_share: float) -> Form:
    """Make answers, a share of them in an odd form. The seed decides which, and in which form."""
    numbers = itertools.count(1)

    def answer(values: forms.Values) -> Response:
        random = mix.generator("form", next(numbers))
        if random.random() >= odd_share:
            return forms.plain(values)
        return forms.ODD[random.choice(list(forms.ODD))](values)

    return answer


def refused(refusal: RefusedSendError) -> dict[str, str]:
    return {"status_code": refusal.text, "status": str(refusal.status)}


def asked_by(request: Request) -> tuple[bytes, str | None]:
    """The raw query, and the caller's address."""
    return request.scope["query_string"], request.client.host if request.client else None
