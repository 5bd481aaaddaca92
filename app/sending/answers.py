"""The JSON in an answer of PaaSoo's, in whatever honest form it comes.

No document gives the encoding of an answer, and a proxy on the way may compress what nobody asked
it to compress.
"""

import json
import zlib
from contextlib import suppress
from typing import Any, Final

MAX_ANSWER_BYTES: Final = 64 * 1024  # unpacked too

# JSON begins with none of these.
PACKED_BEGINS: Final = (b"\x1f\x8b", b"\x78")  # gzip, zlib
GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32
BARE_DEFLATE: Final = -zlib.MAX_WBITS


class NumberText(str):
    """A number in JSON, as the text that came: a `float` would lose digits, and `052` its zero."""

    __slots__ = ()


def read_text(body: bytes, content_encoding: str) -> str:
    """The text of an answer, without white space around it; none if it is too much."""
    plain = _unpacked(body, content_encoding)
    return _text(plain) if len(plain) <= MAX_ANSWER_BYTES else ""


def read_json(text: str) -> Any:
    """The JSON of an answer, its numbers as `NumberText`; None if there is none."""
    try:
        return json.loads(
            text, parse_int=NumberText, parse_float=NumberText, parse_constant=_no_number
        )
    except (ValueError, RecursionError):
        return None


def _unpacked(body: bytes, content_encoding: str) -> bytes:
    """The body as it was before it was compressed, or as it is: the header may be missing or lie.

    gzip and deflate. No library for others is at hand, and nothing of them was asked for.
    """
    unpacked = None
    if body.startswith(PACKED_BEGINS):
        unpacked = _inflated(body, GZIP_OR_ZLIB)
    elif "deflate" in content_encoding.lower():
        # Some servers take `deflate` for the bare stream, which the header doesn't mean.
        unpacked = _inflated(body, BARE_DEFLATE)
    return body if unpacked is None else unpacked


def _inflated(body: bytes, window: int) -> bytes | None:
    """The whole content; None if it is damaged, cut off or too long."""
    stream = zlib.decompressobj(window)
    try:
        plain = stream.decompress(body, MAX_ANSWER_BYTES + 1)
    except zlib.error:
        return None
    return plain if stream.eof and not stream.unused_data else None


def _text(body: bytes) -> str:
    text = body.decode("ascii", "replace")  # an unreadable word doesn't cost an answer its status
    for encoding in ("gb18030", "utf-8-sig"):  # a Chinese system may well answer in GBK
        with suppress(UnicodeDecodeError):
            text = body.decode(encoding)
    return text.strip("\ufeff \t\r\n\v\f")


def _no_number(_constant: str) -> None:
    """`NaN` and `Infinity` are no JSON, and no number."""
