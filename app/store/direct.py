"""Batches that the event loop itself sends to PostgreSQL, over its own connection.

With few callers a batch is small, and most of its cost is what any batch costs: threads, a pool, a
transaction. Only the usual goes this way: no two reports of a delivery, on a server without a
pooler between. All else goes by `write.commit`, on the writer's thread, and so does each batch that
fails here: recording it again is harmless.

A batch is first taken for one of new deliveries. If some are known, a second statement folds those,
and the next batches are folded at once (`docs/decisions/0016-new-deliveries-first.md`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.reports import DeliveryReport
from app.store import faults, write
from app.store.engine import Database
from app.store.faults import ServerHangsError
from app.store.postgresql import ServerConnection

log = logging.getLogger(__name__)

OPEN_EVERY_S: Final = 5.0  # at most
_FOLD, _NEW, _REST = b"record_reports", b"record_new", b"record_rest"
_STATEMENTS: Final = {_FOLD: write.FOLD, _NEW: write.NEW, _REST: write.REST}
# After a batch with known deliveries, this many batches are folded at once.
_FOLDED_AT_ONCE: Final = 15

Committed = Callable[[], object]
# Told of the database's fault, or None if the batch may pass on another connection.
Failed = Callable[[OperationalError | None], object]


class UnderWay(NamedTuple):
    """A batch that was sent: by which statement, whom to tell, and when to give up."""

    statement: bytes
    parameters: list[bytes]
    rows: int
    committed: Committed
    failed: Failed
    timeout: asyncio.TimerHandle


class Direct:
    """A connection. `open` runs on the writer's thread, all else on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: ServerConnection | None = None
        self._opened_in = 0  # the database's generation
        self._open_again_at = 0.0
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None  # while it watches the socket
        self._socket = -1
        self._is_sending = False
        self._result: PGresult | None = None
        self._batch: UnderWay | None = None
        self._to_fold_at_once = 0

    @property
    def is_free(self) -> bool:
        """True if it is open, and no batch is under way."""
        return self._connection is not None and self._batch is None

    def open(self) -> bool:
        """Connect, if there is no connection, unless that was just tried. False if none is open.

        Blocks.
        """
        if self._connection is not None or time.monotonic() < self._open_again_at:
            return self._connection is not None
        self._open_again_at = time.monotonic() + OPEN_EVERY_S
        self._opened_in = self._database.generation
        batches = self._database.batches
        # The next batch meets a fault on the thread.
        with suppress(SQLAlchemyError, psycopg.Error), ExitStack() as pooling:
            # Leave the pool's to the thread, which must not depend on a new connection just when
            # none is to be had.
            kept = pooling.enter_context(closing(batches.raw_connection()))
            threads: Any = kept.dbapi_connection
            if threads.is_pooled:
                return False
            pooled = pooling.enter_context(closing(batches.raw_connection()))
            connection: Any = pooled.dbapi_connection
            if self._database.is_another(connection.server):
                return False
            try:
                for name, statement in _STATEMENTS.items():
                    connection.execute(f"PREPARE {name.decode()} AS {statement}")
            except psycopg.Error:
                pooled.invalidate()
                raise
            kept.close()  # first: else the pool would have no room for a replacement
            pooled.detach()
            pooling.pop_all()
            self._connection = connection
            if self._is_closed:
                self._drop()
            return True
        return False

    def let_go_if_old(self) -> None:
        """Close the connection, unless it is in use, if all were let go since it was opened."""
        if self._opened_in != self._database.generation and self.is_free:
            self._drop()

    def take(self, reports: Sequence[DeliveryReport], committed: Committed, failed: Failed) -> bool:
        """Send a batch of at least one report, and call one of the two later. False if it can't.

        One batch at a time.
        """
        connection = self._connection
        if connection is None:
            return False
        usual = write.parameters_of(reports)
        if usual is None:
            return False
        parameters, rows = usual
        statement = _FOLD if self._to_fold_at_once else _NEW
        connection.warning = connection.warning_of_ids = None
        try:
            if self._loop is None:
                self._loop, self._socket = asyncio.get_running_loop(), connection.pgconn.socket
                self._loop.add_reader(self._socket, self._read)
            timeout = self._start(connection, statement, parameters)
        except Exception as error:
            self._drop()  # an answer that still comes must not be taken for another batch's
            if isinstance(error, psycopg.Error):
                return False
            raise
        self._to_fold_at_once = max(0, self._to_fold_at_once - 1)
        self._batch = UnderWay(statement, parameters, rows, committed, failed, timeout)
        return True

    def close(self) -> None:
        """Close the connection for good. A batch under way is forgotten."""
        self._is_closed = True
        if self._batch is not None:
            self._end_batch()
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._loop, self._is_sending, self._result = None, False, None
        connection.close()

    def _start(
        self, connection: ServerConnection, statement: bytes, parameters: list[bytes]
    ) -> asyncio.TimerHandle:
        """Send a statement. Returns the timer that gives it up."""
        assert self._loop is not None
        connection.pgconn.send_query_prepared(statement, parameters)
        self._send(connection.pgconn)
        return self._loop.call_later(connection.patience_s or 0, self._give_up)

    def _start_rest(self, connection: ServerConnection, batch: UnderWay) -> None:
        """Fold what `_NEW` has left out."""
        self._to_fold_at_once = _FOLDED_AT_ONCE
        timeout = self._start(connection, _REST, batch.parameters)
        batch.timeout.cancel()
        self._batch = batch._replace(statement=_REST, timeout=timeout)

    def _send(self, pgconn: PGconn) -> None:
        """Send what the socket takes now, and the rest as soon as it takes more."""
        assert self._loop is not None
        was_sending, self._is_sending = self._is_sending, pgconn.flush() == 1
        if self._is_sending and not was_sending:
            self._loop.add_writer(self._socket, self._read)
        if was_sending and not self._is_sending:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        """Read what has come: a part of the answer, the whole, or the end of the connection."""
        assert self._connection is not None
        pgconn = self._connection.pgconn
        try:
            pgconn.consume_input()
            if self._is_sending:
                self._send(pgconn)
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    self._finish(self._connection)
                    return
                self._result = result
        except psycopg.Error as error:
            lost = {"error": faults.description(error)}
            log.warning("the connection for batches was lost", extra=lost)
            self._fail(None)

    def _finish(self, connection: ServerConnection) -> None:
        """The server is done with what was sent, if anything was: it may have told something."""
        result, self._result = self._result, None
        batch = self._batch
        if batch is None:
            return
        if result is None or result.status != ExecStatus.COMMAND_OK:
            self._refuse(result)
        elif self._opened_in != self._database.generation:
            self._fail(None)  # another server has taken over
        else:
            try:
                self._database.heed_warnings(connection)
            except OperationalError as fault:
                self._fail(fault)
                return
            if batch.statement == _NEW and result.command_tuples != batch.rows:
                self._start_rest(connection, batch)
            else:
                self._end_batch().committed()

    def _refuse(self, result: PGresult | None) -> None:
        error = psycopg.errors.error_from_result(result) if result else None
        if isinstance(error, psycopg.DataError | psycopg.IntegrityError):
            self._end_batch().failed(None)  # a row is to blame, not the connection
        elif isinstance(error, psycopg.errors.QueryCanceled):
            # The thread would wait as long again, for a lock, say.
            self._fail(faults.unusable(error))
        else:
            self._fail(None)

    def _give_up(self) -> None:
        late = self._batch
        if self._connection is not None:
            self._read()  # the answer may have come while this process was suspended
        if self._batch is not None and self._batch is late:  # else its second statement is sent
            self._fail(faults.unusable(ServerHangsError("the server doesn't answer")))

    def _fail(self, fault: OperationalError | None) -> None:
        """Drop the connection, and tell of the batch that was under way, if one was."""
        self._drop()
        if self._batch is not None:
            self._end_batch().failed(fault)

    def _end_batch(self) -> UnderWay:
        batch, self._batch = self._batch, None
        assert batch is not None
        batch.timeout.cancel()
        return batch
