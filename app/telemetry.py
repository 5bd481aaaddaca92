"""Logs and metrics: what an operator sees. Never a secret, never a whole phone number."""

import json
import logging
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from io import FileIO
from queue import Full, Queue
from select import select
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

# A time stamp beside each counter, which nobody reads.
disable_created_metrics()  # type: ignore[no-untyped-call]

MAX_LINES_WAITING: Final = 10_000
# At the end of the process.
LAST_LINES_S: Final = 0.5

# What every log record has; anything else was given with `extra=` and belongs in the line.
_STANDARD_FIELDS: Final = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, and the record's extras."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(
            (name, value) for name, value in record.__dict__.items() if name not in _STANDARD_FIELDS
        )
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class LogQueue(logging.Handler):
    """Hands lines to a thread that writes them: a log that nobody reads must not stop the service.

    While the queue is full, lines are dropped and counted.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.dropped = 0
        # Unbuffered: a buffer's lock, held by a write that hangs, would hang the exit as well.
        self._file = FileIO(descriptor, "w", closefd=False)
        self._lines: Queue[str | None] = Queue(MAX_LINES_WAITING)
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self.format(record))
        except Full:
            self.dropped += 1  # the handler's lock is held
        except Exception:  # noqa: BLE001 - as the library's handlers do
            self.handleError(record)

    def close(self) -> None:
        """Write what waits, but don't wait for long for a reader that isn't there."""
        with suppress(Full):
            self._lines.put(None, timeout=LAST_LINES_S)
        self._thread.join(LAST_LINES_S)
        super().close()

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            rest = f"{line}\n".encode("utf-8", "backslashreplace")
            try:
                while rest:
                    # None from a pipe that is full and was set not to block.
                    written: int | None = self._file.write(rest)
                    if written is None:
                        select((), (self._file,), ())
                    rest = rest[written or 0 :]
            except OSError:  # the reader has gone
                with self.lock or nullcontext():
                    self.dropped += 1


def set_up_logging(level: str) -> None:
    """Everything that is logged, by whatever library, as JSON lines on stderr."""
    handler = LogQueue(sys.stderr.fileno())
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Its lines at INFO tell of SQL dialects, not of anything that an operator did.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # They tell of each request's URL, at whatever level: that of a send has account and text in it.
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def log_lines_dropped() -> int:
    """The number of lines dropped since the process began."""
    handlers = logging.getLogger().handlers
    return sum(handler.dropped for handler in handlers if isinstance(handler, LogQueue))


def masked(msisdn: str) -> str:
    """A phone number that can be recognised but not called: `6588****88`."""
    return f"{msisdn[:4]}****{msisdn[-2:]}" if len(msisdn) > 6 else "****"


class Tally(Collector):
    """A counter with one label, for what happens in every callback, on the event loop alone.

    `times` is a plain dictionary, as prometheus_client's own counters take a lock each time.
    """

    def __init__(self, name: str, documentation: str, label: str) -> None:
        self.times: defaultdict[str | int, int] = defaultdict(int)
        self._family = (name, documentation, [label])

    def collect(self) -> Iterator[CounterMetricFamily]:
        name, documentation, labels = self._family
        family = CounterMetricFamily(name, documentation, labels=labels)
        for value, times in list(self.times.items()):
            family.add_metric([str(value)], times)
        yield family


class LogCollector(Collector):
    """Counts the log lines that were dropped, which no registry could be told of in time."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        documentation = "Log lines dropped, as nobody read the log"
        yield CounterMetricFamily("dlr_log_lines_dropped", documentation, log_lines_dropped())


class Metrics:
    """Every number that `/metrics` shows. One registry a service, so that tests don't share."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.callbacks = Tally(
            "dlr_callbacks",
            "Callbacks by how they were answered: the HTTP status, or the code of a refusal",
            "answer",
        )
        self.callback_tokens = Tally(
            "dlr_callback_tokens",
            "Callbacks with a known token, by its position in DLR_CALLBACK_TOKENS, from 1",
            "position",
        )
        self.registry.register(LogCollector())
        self.registry.register(self.callbacks)
        self.registry.register(self.callback_tokens)
        self.reports = Counter(
            "dlr_reports",
            "Reports stored, by the state that each one claims; repeats included",
            ["state"],
            registry=self.registry,
        )
        self.unrecognised_statuses = Counter(
            "dlr_unrecognised_statuses",
            "Reports stored whose status no guide names",
            registry=self.registry,
        )
        self.sends = Counter(
            "dlr_sends",
            "Calls of the send API by how they ended: `sent`, or the code of the problem",
            ["outcome"],
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "dlr_commit_seconds",
            "How long it took to commit one batch",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.batch_reports = Histogram(
            "dlr_batch_reports",
            "Reports and refusals committed together",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
            registry=self.registry,
        )
        self.failed_batches = Counter(
            "dlr_failed_batches",
            "Batches that the database didn't take, by the fault: its own, or the data's",
            ["fault"],
            registry=self.registry,
        )
        self.queued = Gauge(
            "dlr_queued",
            "Reports that wait for their commit",
            registry=self.registry,
        )
        self.waiting = Gauge(
            "dlr_waiting",
            "Requests that wait for a report or a change",
            registry=self.registry,
        )
        self.streams = Gauge(
            "dlr_streams",
            "Open streams of changes",
            registry=self.registry,
        )
        self.spooled = Counter(
            "dlr_spooled",
            "Callbacks kept in the spool, as the database was away",
            registry=self.registry,
        )
        self.spool_waiting = Gauge(
            "dlr_spool_waiting",
            "Callbacks in the spool that are not in the database yet",
            registry=self.registry,
        )
        self.expired = Counter(
            "dlr_expired",
            "Deliveries given up, as no final report came in time",
            registry=self.registry,
        )
        self.quarantined = Counter(
            "dlr_quarantined",
            "Refused callbacks put in the quarantine, by code; repeats included",
            ["code"],
            registry=self.registry,
        )
        self.quarantine_dropped = Counter(
            "dlr_quarantine_dropped",
            "Refused callbacks that newer ones pushed out of the quarantine",
            registry=self.registry,
        )
