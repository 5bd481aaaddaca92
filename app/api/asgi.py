"""Adapters: our handlers and answers as the router's endpoints and responses."""

import asyncio

from fastapi import Response
from starlette.requests import Request as StarletteRequest
from starlette.types import Receive, Scope, Send

from app.api.bodies import with_body
from app.exchange import Answer, Handler, Request, values_of


async def answered(handler: Handler, scope: Scope, receive: Receive) -> Answer:
    """Wait for the handler's answer. Raises `BodyTooLargeError`, `MalformedRequestError`."""
    request = Request.of(scope)
    if values_of(request.headers, b"transfer-encoding"):
        # Read them first: a request whose chunks turn out to be malformed must have no effect.
        await with_body(StarletteRequest(scope, receive))
    found: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def reply(answer: Answer) -> None:
        if not found.done():  # it is cancelled if the caller leaves
            found.set_result(answer)

    handler(request, reply)
    return await found


def response(answer: Answer) -> Response:
    headers = {name.decode(): value.decode("latin-1") for name, value in answer.headers}
    return Response(answer.body, answer.status, headers)


class HandlerApp:
    """A handler as an ASGI application, which a route passes every method to."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await answered(self._handler, scope, receive)
        await response(answer)(scope, receive, send)
