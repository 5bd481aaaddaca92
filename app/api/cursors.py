"""Cursors: positions in a list as opaque text."""

import base64
import json
from collections.abc import Sequence

from app.errors import InvalidRequestError

MAX_INTEGER = 2**63 - 1


def encode(position: Sequence[int | str]) -> str:
    """Make a cursor of a position."""
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode()


def decode(cursor: str, *types: type, field: str = "cursor") -> tuple[int | str, ...]:
    """Read a position, with elements of these types. Raises `InvalidRequestError`."""
    try:
        position = json.loads(base64.b64decode(cursor, b"-_", validate=True))
    except (ValueError, RecursionError):
        position = None
    if (
        not isinstance(position, list)
        or [type(element) for element in position] != list(types)
        or any(isinstance(it, int) and not -MAX_INTEGER <= it <= MAX_INTEGER for it in position)
        or any(isinstance(it, str) and not (it.isascii() and it.isprintable()) for it in position)
    ):
        raise InvalidRequestError([{"field": field, "message": "not a cursor of this list"}])
    return tuple(position)
