"""Forms of an answer. The odd ones are what servers and proxies make of the same JSON."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Final

from starlette.responses import JSONResponse, Response

Values = Mapping[str, str]

# Text in which a number would lose nothing.
_NUMBER: Final = re.compile(r'"((?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?)"')


def plain(values: Values) -> Response:
    """As every source has it."""
    return JSONResponse(dict(values))


def _text(values: Values) -> str:
    return json.dumps(dict(values), ensure_ascii=False)


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
    told = values.get("status_code")
    word = "成功" if told is None else f"{told} 失败"  # "success", "failure"
    return _json(_text({**values, "status_code": word}).encode("gbk"))


def _json(body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type="application/json")


ODD: Final[Mapping[str, Callable[[Values], Response]]] = {
    "gzip": _packed(gzip.compress, "gzip"),
    "deflate": _packed(zlib.compress, "deflate"),
    "bare-deflate": _packed(_bare_deflate, "deflate"),
    "numbers": lambda values: _json(_NUMBER.sub(r"\1", _text(values)).encode()),
    "mark": lambda values: _json(_text(values).encode("utf-8-sig")),
    "blanks": lambda values: _json(f"\r\n \t{_text(values)}\r\n".encode()),
    "gbk": _in_gbk,
}
