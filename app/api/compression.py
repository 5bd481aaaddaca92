"""Compress large answers: by Starlette's middleware, and in the same way beside the router."""

import gzip
import re
from typing import Final

from starlette.middleware import Middleware
from starlette.middleware.gzip import (
    DEFAULT_EXCLUDED_CONTENT_TYPES,
    GZipMiddleware,
    GZipResponder,
    IdentityResponder,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from app import exchange
from app.exchange import Answer, Headers, Request, values_of

MIN_BYTES: Final = 1024
_NO_WEIGHT: Final = re.compile(r"\s*q\s*=\s*0(\.0*)?\s*")
# Level 6 would save another eighth of the bytes for three times the CPU: 1,000 deliveries are 30 KB
# in 3.1 ms at level 1, and 26 KB in 9.5 ms at level 6.
LEVEL: Final = 1
# Compress longer answers on a thread: they would hold up callbacks for 0.3 ms or more.
MIN_BYTES_FOR_A_THREAD: Final = 32 * 1024


def accepts_gzip(headers: Headers) -> bool:
    """True if the client accepts gzip, and has not given it the weight 0 (RFC 9110, 12.5.3)."""
    codings = b",".join(values_of(headers, b"accept-encoding")).decode("latin-1").lower()
    is_accepted = {}
    for coding in codings.split(","):
        name, _, weight = coding.partition(";")
        is_accepted[name.strip()] = _NO_WEIGHT.fullmatch(weight) is None
    return is_accepted.get("gzip", is_accepted.get("*", False))


class Compression(GZipMiddleware):
    """Starlette's looks for the letters `gzip`, whatever their weight."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = (self.app, self.minimum_size)
        excluded = self.exclude_content_types
        responder: ASGIApp = (
            GZipResponder(
                *given,
                compresslevel=self.compresslevel,
                thread_minimum_size=self.thread_minimum_size,
                exclude_content_types=excluded,
            )
            if accepts_gzip(scope["headers"])
            else IdentityResponder(*given, exclude_content_types=excluded)
        )
        await responder(scope, receive, send)


# Streams stay as they are: their clients read each event or line as it comes.
COMPRESSION: Final = Middleware(
    Compression,
    minimum_size=MIN_BYTES,
    compresslevel=LEVEL,
    thread_minimum_size=MIN_BYTES_FOR_A_THREAD,
    exclude_content_types=(*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/x-ndjson"),
)


def compressed(request: Request, answer: Answer) -> Answer:
    """Compress as the middleware does: from 1 KiB on, if the client accepts gzip."""
    if len(answer.body) < MIN_BYTES:
        return answer
    if not accepts_gzip(request.headers):
        return answer.with_header(b"vary", b"Accept-Encoding")
    content_type = dict(answer.headers)[b"content-type"].decode()
    body = gzip.compress(answer.body, LEVEL, mtime=0)
    return exchange.answer(
        answer.status, content_type, body, vary="Accept-Encoding", content_encoding="gzip"
    )
