"""The request line, held back until it is whole and mended where the parser would refuse it.

Nobody says how PaaSoo encodes values. A byte or a space that should have been percent-encoded is
encoded here, so that the report is kept rather than refused unseen. A line that came in one packet
with the request before it is not mended.
"""

import re
from typing import Final

# Longer than a callback may be, so that one that is too long is answered 414.
MAX_LINE_BYTES: Final = 16 * 1024

_GOOD_LINE: Final = re.compile(rb"[A-Z]+ [!\"$-~]+ HTTP/1\.1\r\n")
# A `#` would end the query.
_UNESCAPED: Final = re.compile(rb"[^!-~]|#")


class RequestLine:
    """The line of one request after the other. `feed` gives what may go to the parser.

    Set `has_passed` to False when another request may come, and to True when the parser has its
    line already: it came in one packet with the request before.
    """

    def __init__(self) -> None:
        self.has_passed = False
        self._line = bytearray()

    @property
    def has_begun(self) -> bool:
        return self.has_passed or bool(self._line)

    def feed(self, data: bytes) -> bytes:
        """Nothing as long as the line isn't whole, then the line and all that follows it."""
        if self.has_passed:
            return data
        if not self._line:
            if _GOOD_LINE.match(data, 0, MAX_LINE_BYTES):
                self.has_passed = True
                return data
            if not data[:1].isalpha() and data[:1] not in b"\r\n":
                self.has_passed = True  # TLS, say: the parser need not wait to refuse it
                return data
            data = data.lstrip(b"\r\n")  # RFC 9112, 2.2: empty lines before a request are ignored
        line, newline, rest = data.partition(b"\n")
        self._line += line[: MAX_LINE_BYTES - len(self._line)]
        if not newline:
            return b""
        whole, self._line, self.has_passed = bytes(self._line), bytearray(), True
        return _escaped(whole) + b"\n" + rest


def _escaped(line: bytes) -> bytes:
    method, _, remainder = line.partition(b" ")
    target, found, http_version = remainder.rpartition(b" HTTP/")
    if not found:
        if len(line) < MAX_LINE_BYTES:
            return line  # not HTTP/1.x; the parser says so
        target, found, http_version = remainder, b" HTTP/", b"1.1\r"  # its end was not kept
    target = _UNESCAPED.sub(lambda match: b"%%%02X" % ord(match[0]), target)
    return b"".join((method, b" ", target, found, http_version))
