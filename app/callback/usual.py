"""The usual callback, as bytes: understood without an HTTP parser, which costs more than storing.

Anything out of the ordinary is left to the parser, and then answered in the same way: so this may
be as strict as it likes, and must never take what the parser would read differently.
"""

import re
from functools import lru_cache
from typing import Any, Final

from app.callback.door import PATH

# More is unusual: the parser knows its limits.
MAX_BYTES: Final = 4096
END: Final = b"\r\n\r\n"

# No `%` in the path and no fragment; what should be escaped is. Nothing in these is ever matched
# twice (`*+`): strangers choose the bytes, and the event loop waits.
_LINE: Final = re.compile(
    rb"GET (%b(?:/[\w.~-]++)?)(?:\?([!\"$-~]*+))? HTTP/1\.1\r\n" % PATH.encode()
)
_HEADERS: Final = re.compile(rb"(?:[\w-]++:[\t -~]*+\r\n)*+\r\n")
_HEADER: Final = re.compile(rb"([\w-]++):[\t ]*+([\t -~]*+)")
# What says that a body follows, or that the connection is to end or to change.
_UNUSUAL: Final = frozenset(
    (b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection")
)

Headers = tuple[tuple[bytes, bytes], ...]


def usual_callback(data: bytes, client: object) -> dict[str, Any] | None:
    """What `Door.receive` wants of an ASGI scope, if `data` is one whole request and a usual one.

    `client` is the peer's address and port.
    """
    if len(data) > MAX_BYTES or not data.endswith(END):
        return None
    line = _LINE.match(data)
    if line is None:
        return None
    headers = _usual_headers(data[line.end() :])
    if headers is None:
        return None
    path, query = line.groups(b"")
    return {
        "method": "GET",
        "path": path.decode("ascii"),
        "query_string": query,
        "headers": headers,
        "client": client,
    }


@lru_cache(maxsize=256)  # a client sends the same ones each time
def _usual_headers(block: bytes) -> Headers | None:
    """Names in lower case, with their values; None for a block that has anything special."""
    if _HEADERS.fullmatch(block) is None:
        return None
    headers = tuple((name.lower(), value) for name, value in _HEADER.findall(block))
    for name, value in headers:
        if name in _UNUSUAL or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
    return headers
