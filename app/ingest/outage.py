"""The outage: a time in which the database takes no reports, its reasons, and a failing spool.

One object with a lock, for every thread to ask and to tell.
"""

import logging
import threading
import time
from typing import Final

log = logging.getLogger(__name__)

# Reasons that are logged of one outage: a driver's words may differ each time.
MAX_REASONS: Final = 50


class Outage:
    """The database's outage, if there is one. Logs each reason once, and its length at the end.

    With a server database `is_on` holds until `Recovery` ends the outage, so no caller waits for
    the server. With the embedded database it never holds: each batch tries again, as no network can
    keep it waiting.
    """

    def __init__(self, *, is_embedded: bool, has_spool: bool) -> None:
        self._lock = threading.Lock()
        self._is_embedded = is_embedded
        self._reports_are = "kept in the spool" if has_spool else "refused"
        # A server counts as away until it has been found.
        self._is_on = not is_embedded
        self._number = 1
        self._began_at: float | None = None
        self._said: set[str] = set()
        self._look_failed = False
        self._spool_is_failing = False
        self._said_spool_is_failing = False

    @property
    def is_on(self) -> bool:
        """True while only the recovery may try the database."""
        return self._is_on

    @property
    def has_begun(self) -> bool:
        """True from the first write that failed to the next that succeeds."""
        return self._is_on or self._began_at is not None

    @property
    def database_answers(self) -> bool:
        """False from the first write, or look, that failed to the next that succeeds."""
        return not (self.has_begun or self._look_failed)

    @property
    def number(self) -> int:
        """Tells the current or latest outage from the others."""
        return self._number

    @property
    def spool_is_failing(self) -> bool:
        return self._spool_is_failing

    def begin(self, why: str, kind: str | None = None) -> None:
        """Note that the database took nothing. Log the reason if its kind is new in this outage."""
        with self._lock:
            if self._began_at is None:
                self._number += not self._is_on
                self._began_at = time.monotonic()
            self._is_on = not self._is_embedded
            # Each reason counts: a server may be back with an outdated schema.
            is_news = (kind or why) not in self._said and len(self._said) < MAX_REASONS
            if is_news:
                self._said.add(kind or why)
        if is_news:
            they_are = self._reports_are
            log.error("the database takes no reports", extra={"error": why, "they_are": they_are})

    def end(self, number: int | None = None) -> None:
        """Note that the database took a batch: any outage is over, or only that of this number."""
        with self._lock:
            if number not in {None, self._number}:
                return
            self._is_on = self._look_failed = self._spool_is_failing = False
            began_at, self._began_at = self._began_at, None
            if began_at is None:
                return
            self._said.clear()
            self._said_spool_is_failing = False
        seconds = round(time.monotonic() - began_at, 1)
        log.warning("the database takes reports again", extra={"after_seconds": seconds})

    def note_look(self, *, failed: bool) -> None:
        """Note if a new connection was refused. That alone begins no outage: writes may pass."""
        self._look_failed = failed

    def spool_fails(self, why: str, rows: int) -> None:
        """Note that the spool took nothing. A smaller batch may still fit."""
        with self._lock:
            if not self.has_begun:  # ended meanwhile, and nothing would clear the flag
                return
            self._spool_is_failing = True
            is_news = not self._said_spool_is_failing
            self._said_spool_is_failing = True
        if is_news:
            log.error("the spool takes no more", extra={"error": why, "rows": rows})

    def spool_works(self) -> None:
        """Note that the spool took a batch."""
        with self._lock:
            self._spool_is_failing = False
