"""A receiver of pushes, as a system of a customer has it: it verifies each, and answers it.

A share of the answers is odd, and for a time it may be away.
"""

import asyncio
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from random import Random
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from simulator.inquiries import SLOW_S
from simulator.ledger import Ledger
from simulator.options import Fault, Receiver, address_of, open_listener
from simulator.pushes import MalformedPushError, Pushes, content_of
from simulator.reporter import Stopping
from simulator.serving import caller_leaves, hang_up, server_of
from simulator.signatures import UnverifiedError, signed_with

# Of servers and proxies in trouble.
FAILURES: Final = (400, 403, 404, 500, 502, 503, 504)
REDIRECTS: Final = (301, 302, 303, 307, 308)
REDIRECTED_TO: Final = "/redirected"
LONGEST_RETRY_AFTER_S: Final = 3
LONG_ANSWER: Final = 256 * (b" " * 65536,)  # 16 MiB


async def serve(settings: Receiver, ledger: Ledger, pushes: Pushes, closing: Stopping) -> None:
    """Take pushes until `closing`, but for the time away."""
    app = make_app(settings, ledger, pushes)
    listener = settings.listener
    if settings.away is not None:
        address = address_of(listener)
        begins_s, ends_s = settings.away
        await _serve(app, listener, closing, begins_s)
        await closing.sleep(ends_s - begins_s)
        if closing:
            return
        listener = open_listener("--receive", address)
    await _serve(app, listener, closing, None)


async def _serve(
    app: Starlette, listener: socket.socket, closing: Stopping, seconds: float | None
) -> None:
    """Serve for a time; then all connections are gone at once."""
    server = server_of(app)
    serving = asyncio.create_task(server.serve([listener]))
    while not (server.started or serving.done()):
        await asyncio.wait([serving], timeout=0.01)
    await closing.sleep(seconds)
    server.should_exit = True
    while not serving.done():  # until then it may accept one more
        for connection in [*server.server_state.connections]:
            connection.transport.abort()
        await asyncio.wait([serving], timeout=0.02)
    await serving


def write_down(ledger: Ledger, pushes: Pushes, event: str, **fields: Any) -> None:
    ledger.write(event, **fields)
    pushes.add({"event": event, **fields})


def make_app(settings: Receiver, ledger: Ledger, pushes: Pushes) -> Starlette:
    """An app that takes pushes at any path."""
    taker = Taker(settings, ledger, pushes)
    return Starlette(
        routes=[
            Route(REDIRECTED_TO, taker.note_follower, methods=["GET", "POST"]),
            Route("/{path:path}", taker.take, methods=["POST"]),
        ]
    )


class Taker:
    """Takes pushes, and writes each down once it is answered, or can't be any more."""

    def __init__(self, settings: Receiver, ledger: Ledger, pushes: Pushes) -> None:
        self._settings = settings
        self._ledger = ledger
        self._pushes = pushes
        self._count = 0
        # By address, and then by number: the time since when a push is under way.
        self._under_way: defaultdict[tuple[str, int], dict[int, float]] = defaultdict(dict)

    async def take(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        began = time.monotonic()
        path, push_id = request.url.path, request.headers.get("webhook-id")
        event: dict[str, Any] = {"path": path, "secret": None, "id": push_id, "wrong": None}
        try:
            event["secret"] = signed_with(self._settings.keys, request.headers, body, time.time())
            event["type"], event["items"] = content_of(body)
        except UnverifiedError as error:
            response: Response | None = self._refuse(event, 401, f"failed verification: {error}")
        except MalformedPushError as error:
            response = self._refuse(event, 400, f"is malformed: {error}")
        else:
            response, event["beside_s"] = await self._answer(request, (path, event["secret"]))
        event["answer"] = None if response is None else response.status_code
        self._note("pushed", **event, took_s=round(time.monotonic() - began, 6))
        return response or Response()

    async def note_follower(self, _: Request) -> Response:
        self._note("followed")
        return Response(status_code=204)

    def _note(self, event: str, **fields: Any) -> None:
        write_down(self._ledger, self._pushes, event, **fields)

    @staticmethod
    def _refuse(event: dict[str, Any], status: int, why: str) -> Response:
        event["wrong"] = why
        return Response(f"this push {why}\n", status, media_type="text/plain")

    async def _answer(
        self, request: Request, address: tuple[str, int]
    ) -> tuple[Response | None, float]:
        """Answer a push as its lot says, and tell how long another was under way beside it."""
        self._count += 1
        number, began = self._count, time.monotonic()
        random = Random(f"{self._settings.seed}:push:{number}")  # noqa: S311 - guards nothing
        under_way = self._under_way[address]
        under_way[number] = began
        try:
            response = await answer(_lot(self._settings.faults, random), request, random)
        finally:
            del under_way[number]
        # Of two that overlap, the one that ends first tells how long they did.
        now = time.monotonic()
        beside_s = max((now - max(began, other) for other in under_way.values()), default=0.0)
        return response, round(beside_s, 6)


def _lot(faults: Mapping[Fault, float], random: Random) -> Fault | None:
    """Draw a fault by its share. None for a good answer."""
    lot = random.random()
    for fault, share in faults.items():
        lot -= share
        if lot < 0:
            return fault
    return None


async def answer(fault: Fault | None, request: Request, random: Random) -> Response | None:
    """The answer to a push. None if it isn't answered, or the caller didn't wait for it."""
    if fault is Fault.HANGS_UP:
        await hang_up(request)
        return None
    if fault in {Fault.HANGS, Fault.SLOW}:
        seconds = random.uniform(*SLOW_S) if fault is Fault.SLOW else None
        if not await _is_there_after(request, seconds):
            return None
    return ANSWERS.get(fault, good)(random)


async def _is_there_after(request: Request, seconds: float | None) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await caller_leaves(request)
    except TimeoutError:
        return True
    return False


def good(_: Random) -> Response:
    return Response(status_code=204)


def fails(random: Random) -> Response:
    return Response(status_code=random.choice(FAILURES))


def gone(_: Random) -> Response:
    return Response(status_code=410)


def redirects(random: Random) -> Response:
    return Response(status_code=random.choice(REDIRECTS), headers={"Location": REDIRECTED_TO})


def too_many(random: Random) -> Response:
    seconds = random.randint(1, LONGEST_RETRY_AFTER_S)
    return Response(status_code=429, headers={"Retry-After": str(seconds)})


def long(_: Random) -> Response:
    """A good answer whose body no caller should read to its end."""

    async def stream() -> AsyncIterator[bytes]:
        for chunk in LONG_ANSWER:
            yield chunk

    return StreamingResponse(stream(), media_type="text/plain")


ANSWERS: Final[Mapping[Fault | None, Callable[[Random], Response]]] = {
    Fault.FAILS: fails,
    Fault.GONE: gone,
    Fault.REDIRECTS: redirects,
    Fault.TOO_MANY: too_many,
    Fault.LONG: long,
}
