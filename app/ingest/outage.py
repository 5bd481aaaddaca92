"""The outage: while the database takes no reports, since when and why, and if the spool fails too.

One object, which every thread may ask and tell.
"""

import logging
import threading
import time

log = logging.getLogger(__name__)


class Outage:
    """Says each reason once an outage in the log, and how long it was when it ends.

    A server database is `is_on` until `Recovery` ends it, so that no caller waits for it. The
    embedded one has no network to wait for, so it is never: each batch tries it again.
    """

    def __init__(self, *, is_embedded: bool, has_spool: bool) -> None:
        self._lock = threading.Lock()
        self._is_embedded = is_embedded
        self._reports_are = "kept in the spool" if has_spool else "refused"
        # A server counts as away until it was found.
        self._is_on = not is_embedded
        self._began_at: float | None = None
        self._said: set[str] = set()
        self._spool_is_failing = False
        self._said_spool_is_failing = False

    @property
    def is_on(self) -> bool:
        """True while nobody but the recovery is to try the database."""
        return self._is_on

    @property
    def spool_is_failing(self) -> bool:
        return self._spool_is_failing

    def begin(self, why: str) -> None:
        """Note that the database took nothing; again with another reason, it is said too."""
        with self._lock:
            self._is_on = not self._is_embedded
            if self._began_at is None:
                self._began_at = time.monotonic()
            # A server may be back, and its schema not: so each reason counts.
            is_news = why not in self._said
            self._said.add(why)
        if is_news:
            they_are = self._reports_are
            log.error("the database takes no reports", extra={"error": why, "they_are": they_are})

    def end(self) -> None:
        """Note that the database took what it was given. Nothing new where there is no outage."""
        with self._lock:
            self._is_on = False
            began_at, self._began_at = self._began_at, None
            if began_at is None:
                return
            self._said.clear()
            self._said_spool_is_failing = self._spool_is_failing = False
        seconds = round(time.monotonic() - began_at, 1)
        log.warning("the database takes reports again", extra={"after_seconds": seconds})

    def spool_fails(self, why: str, rows: int) -> None:
        """Note that the spool took nothing. A smaller batch may still fit."""
        with self._lock:
            self._spool_is_failing = True
            is_news = not self._said_spool_is_failing
            self._said_spool_is_failing = True
        if is_news:
            log.error("the spool takes no more", extra={"error": why, "rows": rows})

    def spool_works(self) -> None:
        """Note that the spool took what it was given."""
        with self._lock:
            self._spool_is_failing = False
