"""Turns to push: one after the other, and fewer while the process is busy with callbacks."""

import asyncio
import time
from typing import Final

# Pushes a second of one process. Each costs the event loop about a millisecond.
MOST: Final = 500.0
LEAST: Final = 40.0
# The process is busy above this share of one core.
BUSY: Final = 0.75
ADJUST_EVERY_S: Final = 0.25


class Pace:
    """Halves the pushes a second while the process is busy, and raises them again step by step."""

    def __init__(self) -> None:
        self._a_second = MOST
        self._next_at = self._adjusted_at = time.monotonic()
        self._cpu_s = time.process_time()

    async def turn(self) -> None:
        """Wait for a turn, behind those who wait already."""
        now = time.monotonic()
        if now - self._adjusted_at >= ADJUST_EVERY_S:
            self._adjust(now)
        at = max(now, self._next_at)
        self._next_at = at + 1 / self._a_second
        await asyncio.sleep(at - now)

    def _adjust(self, now: float) -> None:
        cpu_s = time.process_time()
        is_busy = (cpu_s - self._cpu_s) / (now - self._adjusted_at) > BUSY
        changed = self._a_second * (0.5 if is_busy else 1.5)
        self._a_second = min(max(changed, LEAST), MOST)
        self._adjusted_at, self._cpu_s = now, cpu_s
