"""Hides offers to upgrade the connection from the parser, so that a body is read as a body.

The parser (llhttp) takes `Connection: upgrade` with any `Upgrade` header for the end of HTTP: it
skips the body, and reads its bytes as the next request. Through a proxy that keeps connections, a
stranger's body would then swallow somebody else's request. RFC 9110, 7.8: an offer may be ignored.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

HEADER: Final = b"upgrade"
# As long as the real name, so that nothing else about the head changes.
HARMLESS: Final = b"X-Offer"

# Before a line that begins with the header's name, or that ends too soon to tell.
_CUT: Final = re.compile(rb"(?<=\n)(?=upgrade|(?:u|up|upg|upgr|upgra|upgrad)\Z)", re.IGNORECASE)


class UpgradeFilter:
    """Renames each `Upgrade` header on its way to the parser, however the bytes are cut.

    `is_in_head` tells whether the parser, after all that it was fed so far, is behind a request
    line and before the end of its head. Anywhere else the same bytes are a body's, and stay.
    """

    def __init__(self, is_in_head: Callable[[], bool]) -> None:
        self._is_in_head = is_in_head
        self._held = b""  # the beginning of a line that may become an offer
        self._is_at_line_start = False

    def pieces(self, data: bytes) -> Iterable[bytes]:
        """Cut the data for the parser. Feed it each piece before asking for the next."""
        if not self._held and data.endswith(b"\n") and HEADER not in data.lower():
            self._is_at_line_start = True
            return (data,)
        return self._cut(data)

    def _cut(self, data: bytes) -> Iterator[bytes]:
        data, self._held = self._held + data, b""
        pieces = _CUT.split(data) if _is_suspicious(data) else [data]
        for position, piece in enumerate(pieces):
            is_at_line_start = position > 0 or self._is_at_line_start
            beginning = piece[: len(HEADER)].lower()
            if not (is_at_line_start and HEADER.startswith(beginning) and self._is_in_head()):
                yield piece
            elif beginning == HEADER:
                yield HARMLESS + piece[len(HEADER) :]
            else:
                self._held = piece
        self._is_at_line_start = bool(self._held) or data.endswith(b"\n")


def _is_suspicious(data: bytes) -> bool:
    data = data.lower()
    last_line = data[data.rfind(b"\n") + 1 :]
    return HEADER in data or (last_line != b"" and HEADER.startswith(last_line))
