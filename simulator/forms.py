"""Forms of an answer. The odd ones are what servers and proxies make of the same JSON."""

import gzip
import json
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from simulator.inquiries import Kind

# An object, or the list of the recipients that a question is about.
Values = Mapping[str, Any] | Sequence[Mapping[str, Any]]

# Text in which a number would lose nothing.
_NUMBER: Final = re.compile(r'"((?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?)"')


def plain(values: Values) -> Response:
    """As every source has it."""
    return JSONResponse(values)


def _text(values: Values) -> str:
    return json.dumps(values, ensure_ascii=False)


def _packed(pack: Callable[[bytes], bytes], coding: str) -> Callable[[Values], Response]:
    def answer(values: Values) -> Response:
        body = pack(_text(values).encode())
        return _json(body, {"Content-Encoding": coding})

    return answer


def _bare_deflate(body: bytes) -> bytes:
    """As old servers read `deflate`: the stream alone."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(body) + stream.flush()


def _in_gbk(values: Values) -> Response:
    if isinstance(values, Mapping):
        told = values.get("status_code")
        word = "成功" if told is None else f"{told} 失败"  # "success", "failure"
        values = {**values, "status_code": word}
    return _json(_text(values).encode("gb18030"))  # GBK, and what GBK lacks


def _json(body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type="application/json")


# Pages of a proxy, or of a server in trouble, with their HTTP status.
PAGES: Final = {
    Kind.HTML: (200, "<html><body><h1>The system is busy</h1></body></html>"),
    Kind.ERROR: (500, "<html><body><h1>Internal Server Error</h1></body></html>"),
}


def page(kind: Kind) -> Response:
    status, text = PAGES[kind]
    return HTMLResponse(text, status)


def cut_off(whole: Response, hang_up: Callable[[], Awaitable[None]] | None) -> Response:
    """The first half of an answer, as if it were all of it, or up to where the server hangs up."""
    body = bytes(whole.body)
    half = body[: len(body) // 2]
    if hang_up is None:
        return Response(half, headers=_without_length(whole))

    async def stream() -> AsyncIterator[bytes]:
        yield half
        await hang_up()

    return StreamingResponse(stream(), headers=dict(whole.headers))


def _without_length(response: Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name != "content-length"}


ODD: Final[Mapping[str, Callable[[Values], Response]]] = {
    "gzip": _packed(gzip.compress, "gzip"),
    "deflate": _packed(zlib.compress, "deflate"),
    "bare-deflate": _packed(_bare_deflate, "deflate"),
    "numbers": lambda values: _json(_NUMBER.sub(r"\1", _text(values)).encode()),
    "mark": lambda values: _json(_text(values).encode("utf-8-sig")),
    "blanks": lambda values: _json(f"\r\n \t{_text(values)}\r\n".encode()),
    "gbk": _in_gbk,
}
