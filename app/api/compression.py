"""Compression of large answers, for those that don't pass the router's middleware."""

import gzip
from typing import Final

from app import exchange
from app.exchange import Answer, Request

MIN_BYTES: Final = 1024
LEVEL: Final = 6


def compressed(request: Request, answer: Answer) -> Answer:
    """As Starlette's GZipMiddleware has it: from 1 KiB on, for whoever accepts it."""
    if len(answer.body) < MIN_BYTES:
        return answer
    content_type = dict(answer.headers)[b"content-type"].decode()
    accepted = [value for name, value in request.headers if name == b"accept-encoding"]
    if b"gzip" not in b",".join(accepted[:1]):
        return exchange.answer(answer.status, content_type, answer.body, vary="Accept-Encoding")
    body = gzip.compress(answer.body, LEVEL, mtime=0)
    return exchange.answer(
        answer.status, content_type, body, vary="Accept-Encoding", content_encoding="gzip"
    )
