"""Limits on file descriptors: connections must leave some for the disk."""

import logging
import resource
import time
from typing import Final

from prometheus_client import Counter

log = logging.getLogger(__name__)

MANY_FILES: Final = 65536
# For the database's connections, its files, the spool and the log.
RESERVED: Final = 100
LOG_EVERY_S: Final = 60.0


def allow_many_connections() -> None:
    """Raise the limit, often 1,024: each waiting client and each stream holds a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class ConnectionLimit:
    """Refuses a connection that would take one of the reserved descriptors.

    Each refusal is counted; one a minute is logged.
    """

    def __init__(self, refused: Counter) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._maximum = max(soft - RESERVED, soft // 2)
        self._has_limit = soft != resource.RLIM_INFINITY
        self._refused = refused
        self._log_again_at = 0.0

    def admits(self, already_open: int) -> bool:
        if not self._has_limit or already_open < self._maximum:
            return True
        self._refused.inc()
        if time.monotonic() >= self._log_again_at:
            self._log_again_at = time.monotonic() + LOG_EVERY_S
            log.error(
                "connections refused: the other file descriptors are kept for the disk",
                extra={"open": already_open, "reserved": RESERVED},
            )
        return False
