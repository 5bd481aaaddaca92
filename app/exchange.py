"""An HTTP request and its answer as plain values, for handlers beside the router."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple
from uuid import uuid4

from app import errors

Headers = Sequence[tuple[bytes, bytes]]

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class Request(NamedTuple):
    """A request head. Header names are in lower case; `path` is decoded, `raw_path` as sent."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers
    peer: str | None  # the IP address at the other end of the connection

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> "Request":
        """The request of an ASGI scope."""
        client = scope.get("client")
        return cls(
            scope["method"],
            scope["path"],
            scope["raw_path"],
            scope["query_string"],
            scope["headers"],
            client[0] if client else None,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, as an ASGI server takes it. `lines` are the headers as on the wire."""

    status: int
    headers: Headers
    body: bytes
    lines: bytes

    def with_header(self, name: bytes, value: bytes) -> "Answer":
        lines = b"%b%b: %b\r\n" % (self.lines, name, value)
        return replace(self, headers=[*self.headers, (name, value)], lines=lines)


Reply = Callable[[Answer], None]
# Answers a request by calling `reply` once, at once or later on the event loop.
Handler = Callable[[Request, Reply], None]


def answer(status: int, content_type: str, body: bytes, **more: str) -> Answer:
    """An answer with its length and type, its headers in the order of Starlette's."""
    named = {"content-length": str(len(body)), "content-type": content_type, **more}
    headers = [
        (name.replace("_", "-").lower().encode(), value.encode("latin-1"))
        for name, value in named.items()
    ]
    return Answer(status, headers, body, b"".join(b"%b: %b\r\n" % header for header in headers))


def problem(document: Mapping[str, Any], **headers: str) -> Answer:
    """The answer of a problem document (`errors.problem`)."""
    return answer(document["status"], errors.PROBLEM_TYPE, errors.encode(document), **headers)


def refusal(error: errors.ApiError) -> Answer:
    """The answer of an expected error."""
    return problem(error.document(), **error.headers)


def values_of(headers: Headers, wanted: bytes) -> list[bytes]:
    """The values of all headers of this name, in their order."""
    return [value for name, value in headers if name == wanted]


def request_id(headers: Headers) -> bytes:
    """The caller's `X-Request-Id` if it is one that can be logged, else a new one."""
    given = values_of(headers, b"x-request-id")
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return uuid4().hex.encode()
