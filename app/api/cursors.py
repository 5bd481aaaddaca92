"""Cursors: where a page begins, as text that nobody needs to understand."""

import base64
import json
from collections.abc import Sequence

from app.errors import InvalidRequestError

MAX_INTEGER = 2**63 - 1


def encode(position: Sequence[int | str]) -> str:
    """A position in a list, as a cursor."""
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode()


def decode(cursor: str, *kinds: type, field: str = "cursor") -> tuple[int | str, ...]:
    """The position, its elements of these kinds. Raises `InvalidRequestError`."""
    try:
        position = json.loads(base64.b64decode(cursor, b"-_", validate=True))
    except (ValueError, RecursionError):
        position = None
    if (
        not isinstance(position, list)
        or [type(element) for element in position] != list(kinds)
        or any(isinstance(it, int) and not -MAX_INTEGER <= it <= MAX_INTEGER for it in position)
        or any(isinstance(it, str) and not (it.isascii() and it.isprintable()) for it in position)
    ):
        raise InvalidRequestError([{"field": field, "message": "not a cursor of this list"}])
    return tuple(position)
