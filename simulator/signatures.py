"""The signature of a push, as Standard Webhooks 1.0 have it (https://www.standardwebhooks.com)."""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final

PREFIX: Final = "whsec_"
TOLERANCE_S: Final = 300

_SCHEME: Final = "v1,"
_TIMESTAMP: Final = re.compile("[0-9]{1,12}")


class UnverifiedError(Exception):
    """A push that nobody who knows a secret has signed lately."""


def key_of(secret: str) -> bytes:
    """The key in a secret as `whsec_…`. Raises `ValueError`, which doesn't repeat it."""
    text = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError("is no base64") from None
    if text == secret or not key:
        raise ValueError(f"doesn't begin with {PREFIX}, or ends there")
    return key


def signed_with(
    keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, now_s: float
) -> int:
    """The number of the key that a push is signed with, from 1. Raises `UnverifiedError`."""
    push_id, timestamp, signatures = (
        _given(headers, f"webhook-{name}") for name in ("id", "timestamp", "signature")
    )
    if not _TIMESTAMP.fullmatch(timestamp):
        raise UnverifiedError("webhook-timestamp is no number of seconds")
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        raise UnverifiedError(f"webhook-timestamp is more than {TOLERANCE_S} s from now")
    signed = f"{push_id}.{timestamp}.".encode("latin-1") + body
    given = [
        one.removeprefix(_SCHEME).encode("latin-1")
        for one in signatures.split(" ")
        if one.startswith(_SCHEME)
    ]
    for number, key in enumerate(keys, start=1):
        right = base64.b64encode(hmac.digest(key, signed, "sha256"))
        if any(hmac.compare_digest(right, one) for one in given):
            return number
    raise UnverifiedError("no signature is right")


def _given(headers: Mapping[str, str], name: str) -> str:
    if not headers.get(name):
        raise UnverifiedError(f"{name} is missing")
    return headers[name]
