"""A time limit that every request moves, without a timer for each."""

import asyncio
from collections.abc import Callable
from typing import Final

NEVER: Final = float("inf")


class Deadline:
    """Calls `expire` when the limit has passed.

    Moving it only notes the time. A timer looks at the note now and then, which costs less than to
    set and cancel a timer for each request.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[], None]) -> None:
        self._loop = loop
        self._expire = expire
        self._at = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = NEVER

    def move(self, seconds: float) -> None:
        """Expire in so many seconds, or `NEVER`."""
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
