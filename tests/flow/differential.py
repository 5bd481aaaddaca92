"""Random byte strings around callbacks, read in three ways that must agree.

The short way and the routed way must give the same answers to the byte. Plain uvicorn must see the
same requests, but for the differences that are meant, which `is_meant_to_differ` names. And no
request that was refused may have reached the application.

`python -m tests.flow.differential --strings 100000 --seed 1`
"""

import argparse
import asyncio
import logging
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.api.asgi import HandlerApp
from app.exchange import Handler, Reply, Request, answer
from app.http.descriptors import ConnectionLimit
from app.http.dispatch import Shortcut
from app.http.protocol import HttpProtocol
from app.telemetry import Metrics

PREFIX = "/callback/paasoo"
OK = answer(200, "text/plain; charset=utf-8", b"OK")

METHODS = [b"GET"] * 30 + [b"HEAD", b"POST", b"PUT", b"get", b"OPTIONS", b"CONNECT", b"BREW", b""]
TARGETS = [
    *[b"/callback/paasoo/tok?type=dlr&messageid=%d&to=65%d&status=0"] * 30,
    b"/callback/paasoo/tok?a=%ff&b=%zz",
    b"/callback/paasoo/tok?a= b",
    b"/callback/paasoo/tok?a=\xc3\xa9#c",
    b"http://x/callback/paasoo/tok?x=1",
    b"/callback/paasoo",
    b"/livez",
    b"*",
    b"x:443",
    b"",
]
VERSIONS = [b"HTTP/1.1"] * 40 + [
    b"HTTP/1.0",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"HTTP/1.9",
    b"HTP/1.1",
    b"",
]
ENDS = [b"\r\n"] * 200 + [b"\n", b"\r", b"\r\r\n", b" \r\n"]
HEADERS = [
    b"Host: x",
    b"Host: y",
    b"User-Agent: a b",
    b"X-Forwarded-For: 203.0.113.7",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Upgrade",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: 5x",
    b"Content-Length: -1",
    b"Content-Length: 2000000",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding : chunked",
    b"X-A: \xff",
    b"X-A: a\0b",
    b"X-A:",
    b": b",
    b"X A: b",
    b" folded",
    b"X-A: " + b"a" * 300,
]
BODIES = [
    *[b""] * 20,
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nHost: z\r\n\r\n",
    b"zz\r\n",
    b"5\r\nhel",
    b"5;a=b\r\nhello\r\n0\r\n\r\n",
    b"GET /callback/paasoo/tok?smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\0\xff",
]


MEANT_TO_DIFFER = [b"upgrade", b"connect ", b"http/1.0", b"transfer-encoding", b"length", b"close"]


def some_bytes(chance: random.Random) -> bytes:
    """One to four requests, most of them usual but for one part."""
    parts = []
    for _ in range(chance.choice((1, 1, 2, 3, 4))):
        headers = [b"Host: x"] if chance.random() < 0.9 else []
        headers += chance.choices(HEADERS, k=chance.choice((0, 0, 0, 1, 1, 2, 3)))
        chance.shuffle(headers)
        target = chance.choice(TARGETS)
        if b"%d" in target:
            target = target % (chance.randrange(100), chance.randrange(1000, 9999))
        line = b"%b %b %b" % (chance.choice(METHODS), target, chance.choice(VERSIONS))
        lines = [line, *headers, b""]
        parts += [piece for line in lines for piece in (line, chance.choice(ENDS))]
        parts.append(chance.choice(BODIES))
    data = bytearray(b"".join(parts))
    if data and chance.random() < 0.1:
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.1:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


def some_pieces(data: bytes, chance: random.Random) -> list[bytes]:
    cuts = sorted(
        chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 1, 2, 5, 30)))
    )
    ends = [*cuts, len(data)]
    pieces = [data[begin:end] for begin, end in zip([0, *cuts], ends, strict=True)]
    return [piece for piece in pieces if piece]


class Wire(asyncio.Transport):
    """The other end of the connection keeps what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_closed = False

    def __repr__(self) -> str:
        return repr(bytes(self.written))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.is_closed:
            self.written += data

    def write_eof(self) -> None:
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class Recorder:
    """Answers each request, and keeps what it was."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes, bytes]] = []

    def handle(self, request: Request, reply: Reply) -> None:
        self.seen.append((request.method, request.path, request.query, b""))
        reply(OK)

    def handler_of(self, _request: Request) -> Handler:
        return self.handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(PREFIX):
            await HandlerApp(self.handle)(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        request = Request.of(scope)
        self.seen.append((request.method, request.path, request.query, body))
        await send({"type": "http.response.start", "status": 200, "headers": OK.headers})
        await send({"type": "http.response.body", "body": OK.body})


async def read_by(kind: Any, recorder: Recorder, pieces: Sequence[bytes]) -> Wire:
    config = uvicorn.Config(recorder, interface="asgi3", lifespan="off", log_config=None)
    config.loaded_app = recorder
    config.ws_protocol_class = None
    config.loaded = True
    wire, state = Wire(), ServerState()
    protocol = kind(config=config, server_state=state, app_state={})
    protocol.connection_made(wire)
    for piece in pieces:
        if wire.is_closed:
            break
        protocol.data_received(piece)
        for _ in range(100):
            await asyncio.sleep(0)
            if not state.tasks or wire.is_closed:
                break
            if all(_is_stuck(task) for task in state.tasks):
                break
    protocol.connection_lost(None)
    await asyncio.gather(*state.tasks)
    return wire


def _is_stuck(task: "asyncio.Task[None]") -> bool:
    """It waits for more of its request."""
    frame = task.get_stack(limit=1)
    return bool(frame) and task._fut_waiter is not None  # type: ignore[attr-defined]  # noqa: SLF001


LIMIT = ConnectionLimit(Metrics().connections_refused)


def our_protocol(recorder: Recorder, *, with_shortcuts: bool) -> Any:
    class Protocol(HttpProtocol):
        send_timeout_s = 30.0
        shortcuts = (Shortcut(PREFIX, recorder.handler_of),) if with_shortcuts else ()
        draining = threading.Event()
        limit = LIMIT

    return Protocol


def statuses(written: bytearray) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([2-5]\d\d) ", written)]


def normal(written: bytearray) -> bytes:
    """Without made-up ids, and without 100 Continue, which only the routed way can be asked for."""
    without_ids = re.sub(rb"x-request-id: [0-9a-f]{32}", b"x-request-id: ID", written)
    return without_ids.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")


def is_meant_to_differ(data: bytes) -> bool:
    """Plain uvicorn doesn't mend a request line, ignore an offer, or count hosts.

    It also keeps an answered connection whose body never comes, and answers a request with chunks
    before it knows that they are some.
    """
    lower = data.lower()
    heads = re.findall(rb" http/[^\n]*\n((?:(?!\r?\n)[^\n]*\n?)*)", lower)
    lines = re.split(rb"\r\n|\n", lower)
    return (
        any(head.count(b"host:") != 1 for head in heads)
        or any(word in lower for word in MEANT_TO_DIFFER)
        or any(re.search(rb"[^ -~]|#| .* .* ", line) for line in lines)
    )


async def compare(data: bytes, pieces: Sequence[bytes], found: Counter[str]) -> str | None:
    """The way in which the readers differ, or None."""
    short, routed, plain = Recorder(), Recorder(), Recorder()
    short_wire = await read_by(our_protocol(short, with_shortcuts=True), short, pieces)
    routed_wire = await read_by(our_protocol(routed, with_shortcuts=False), routed, pieces)
    answers = statuses(short_wire.written)
    found.update(f"answers of {status}" for status in answers)
    found["strings"] += 1
    if (short.seen, normal(short_wire.written)) != (routed.seen, normal(routed_wire.written)):
        return f"short: {short.seen}, {short_wire}; routed: {routed.seen}, {routed_wire}"
    if answers.count(200) != len(short.seen):
        return f"saw {short.seen} and answered {answers}"
    if is_meant_to_differ(data):
        return None
    found["compared with plain uvicorn"] += 1
    plain_wire = await read_by(HttpToolsProtocol, plain, pieces)
    plain_answers = statuses(plain_wire.written)
    if plain_answers[-1:] == [400] and (answers[-1:] == [400] or not data.endswith(b"\n")):
        # It refuses at once: before it has answered what came before, and before a line's end.
        short.seen = short.seen[: len(plain.seen)]
    elif answers != plain_answers:
        return f"short answered {answers}, plain uvicorn {plain_answers}"
    return None if short.seen == plain.seen else f"short: {short.seen}; plain: {plain.seen}"


async def differing(strings: int, seed: int, tell: Callable[[str], None]) -> int:
    """The number of strings on which the readers differ."""
    chance = random.Random(seed)
    found: Counter[str] = Counter()
    count = 0
    for _ in range(strings):
        data = some_bytes(chance)
        pieces = some_pieces(data, chance)
        difference = await compare(data, pieces, found)
        if difference is not None:
            count += 1
            tell(f"{pieces!r}\n  {difference}")
    tell(", ".join(f"{times:,} {name}" for name, times in sorted(found.items())))
    tell(f"{count} differ")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable()
    raise SystemExit(bool(uvloop.run(differing(options.strings, options.seed, print))))


if __name__ == "__main__":
    main()
