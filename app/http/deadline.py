"""A time limit that moves with every request, on a timer that seldom does."""

import asyncio
from collections.abc import Callable
from typing import Final

NEVER: Final = float("inf")


class Deadline:
    """Calls `expire` once nothing has moved the limit for its time.

    Arming and cancelling a timer for each request costs more than looking once in a while.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[], None]) -> None:
        self._loop = loop
        self._expire = expire
        self._at = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = NEVER

    def move(self, seconds: float) -> None:
        """Expire so many seconds from now, or `NEVER`."""
        self._at = self._loop.time() + seconds
        if self._at < self._looks_at:
            if self._timer is not None:
                self._timer.cancel()
            self._look_later()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self._looks_at = self._at
        self._timer = self._loop.call_later(self._at - self._loop.time(), self._look)

    def _look(self) -> None:
        self._timer, self._looks_at = None, NEVER
        if self._at <= self._loop.time():
            self._at = NEVER
            self._expire()
        elif self._at != NEVER:
            self._look_later()
