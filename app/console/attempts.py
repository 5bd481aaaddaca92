"""Slow down whoever tries one key after another."""

import time
from collections import OrderedDict
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from app.guards import Address

# Typing errors of one person. From then on each wrong key doubles the wait.
FREE_ATTEMPTS: Final = 5
LONGEST_WAIT_S: Final = 60.0
FORGET_AFTER_S: Final = 900.0
MAX_ADDRESSES: Final = 10_000
# The network that one household or office has: it could use any address of it.
IPV6_PREFIX: Final = 64


class Attempts:
    """Wrong keys by address, the latest ones only: memory stays bounded."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: Address | None) -> float:
        """The time until this address may try again; 0 if it may."""
        wrong, since = self._wrong.get(_name(address), (0, 0.0))
        if wrong < FREE_ATTEMPTS:
            return 0.0
        wait = min(2.0 ** (wrong - FREE_ATTEMPTS), LONGEST_WAIT_S)
        return max(0.0, since + wait - time.monotonic())

    def note_wrong(self, address: Address | None) -> None:
        name, now = _name(address), time.monotonic()
        wrong, since = self._wrong.pop(name, (0, now))
        if now - since > FORGET_AFTER_S:
            wrong = 0
        self._wrong[name] = (min(wrong + 1, 64), now)
        if len(self._wrong) > MAX_ADDRESSES:
            self._wrong.popitem(last=False)


def _name(address: Address | None) -> str:
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, IPV6_PREFIX), strict=False))
    return str(address)
