"""A fair queue for the one connection that writes to SQLite: the longest waiting thread is next.

SQLAlchemy's own pool gives a returned connection to the first thread that asks, usually the one
that returned it. Reports would then wait for the whole of a replay, and a replay for a lull in
reports.
"""

import threading
from collections import deque

from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool


class FairLock:
    """A lock that threads get in the order in which they asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Event] = deque()

    def take(self, timeout_s: float) -> bool:
        """Wait for the lock. False if it didn't come in time."""
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(timeout_s):
            return True
        with self._lock:
            if turn.is_set():  # the lock came just after the time was over
                return True
            self._waiting.remove(turn)
            return False

    def pass_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_taken = False


class FairPool(QueuePool):
    """A pool of one connection, for one thread after the other."""

    _sqla_logger_namespace = "sqlalchemy.pool.FairPool"  # log as the library's pools do

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._fair_lock = FairLock()

    def _do_get(self) -> ConnectionPoolEntry:
        if not self._fair_lock.take(self._timeout):
            raise PoolTimeoutError(f"no turn on the connection within {self._timeout} s")
        try:
            return super()._do_get()
        except BaseException:
            self._fair_lock.pass_on()
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        try:
            super()._do_return_conn(record)
        finally:
            self._fair_lock.pass_on()
