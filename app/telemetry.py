"""Logs and metrics for the operator: never a secret, never a whole phone number."""

import json
import logging
import sys
import threading
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from io import FileIO
from queue import SimpleQueue
from select import select
from typing import Any, Final, NamedTuple, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from app.reports import REPORTED_STATES
from app.tallies import RequestTimes, Tally

# Leave out the time stamp beside each counter: nobody reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]

MAX_LINES_WAITING: Final = 10_000
# Time for the last lines when the process ends.
LAST_LINES_S: Final = 0.5

# The attributes of every log record. Any other was given with `extra=` and belongs in the line.
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
        # Not a `Queue`: a signal handler that logs while its thread logs would wait for itself.
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() >= MAX_LINES_WAITING:
            self.dropped += 1  # the handler's lock is held
            return
        try:
            self._lines.put(self.format(record))
        except Exception:  # noqa: BLE001 - as the library's handlers do
            self.handleError(record)

    def close(self) -> None:
        """Write the lines that wait, but give a reader that isn't there little time."""
        self._lines.put(None)
        self._thread.join(LAST_LINES_S)
        super().close()

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            rest = f"{line}\n".encode("utf-8", "backslashreplace")
            try:
                while rest:
                    # A full pipe that doesn't block returns None.
                    written: int | None = self._file.write(rest)
                    if written is None:
                        select((), (self._file,), ())
                    rest = rest[written or 0 :]
            except OSError:  # the reader has gone
                with self.lock or nullcontext():
                    self.dropped += 1


def set_up_logging(level: str) -> None:
    """Send every log line, the libraries' too, to stderr as JSON."""
    handler = LogQueue(sys.stderr.fileno())
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # At INFO it logs the SQL dialect on every start, which tells an operator nothing.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # They log the URL of each request, and that of a send contains the account and the text.
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class RepeatedFault:
    """A fault of work that is done again and again: logged when it begins, changes, and ends."""

    def __init__(self, logger: logging.Logger, begins: str, ends: str, **about: object) -> None:
        self._logger = logger
        self._begins = begins
        self._ends = ends
        self._about = about
        self._words: str | None = None

    def note(self, words: str) -> None:
        if words != self._words:
            self._logger.error(self._begins, extra={**self._about, "error": words})
        self._words = words

    def end(self) -> None:
        """The work has succeeded."""
        if self._words is not None:
            self._logger.warning(self._ends, extra=self._about)
        self._words = None


def masked(msisdn: str) -> str:
    """A phone number that can be recognised but not called: `6588****88`."""
    return f"{msisdn[:4]}****{msisdn[-2:]}" if len(msisdn) > 6 else "****"


# Every metric of ours, by its name in `/metrics`: counters get `_total` behind it there.
DOCUMENTATION: Final = {
    "dlr_callbacks": "Callbacks by their answer: the HTTP status, or the code of a refusal",
    "dlr_http_request_seconds": (
        "Requests and the time to their whole answer, by route, method and class of status"
    ),
    "dlr_callback_tokens": (
        "Callbacks with a known token, by its position in DLR_CALLBACK_TOKENS, from 1"
    ),
    "dlr_last_report_timestamp_seconds": (
        "Time of the last report that this process has acknowledged; 0 before the first"
    ),
    "dlr_reports": "Reports stored, by the state that each one claims; repeats included",
    "dlr_unrecognised_statuses": "Reports stored whose status no guide names",
    "dlr_sends": "Calls of the send API by outcome: `sent`, or the code of the problem",
    "dlr_balance": "The account's balance at PaaSoo, as it was last told, by currency",
    "dlr_balance_asked_timestamp_seconds": (
        "Time of the question that was last answered with a balance; 0 before the first"
    ),
    "dlr_balance_questions": "Questions for the balance, by outcome",
    "dlr_pulls": (
        "Questions for missing reports, by step: asked, answered, found a report, not understood"
    ),
    "dlr_pulls_waiting": "Questions for missing reports that are due; at most 10,000 are counted",
    "dlr_webhook_pushes": "Pushes to a webhook by outcome, of this process",
    "dlr_webhook_lag_seconds": "Time since a webhook had all changes; 0 while none waits",
    "dlr_webhook_lag_changes": "Changes that a webhook hasn't got yet; at most 1,000 are counted",
    "dlr_webhook_last_success_timestamp_seconds": "When a webhook took a push last; 0 if never",
    "dlr_webhook_failing": "1 while the last push to a webhook failed, else 0",
    "dlr_webhook_disabled": "1 while nothing is pushed to a webhook, as it answered 410; else 0",
    "dlr_commit_seconds": "Time to commit one batch",
    "dlr_batch_reports": "Reports and refusals committed together",
    "dlr_failed_batches": (
        "Batches that the database didn't take, by the fault: its own, or the data's"
    ),
    "dlr_database_up": "1 if the database answers, else 0",
    "dlr_synchronous_standbys": (
        "Standbys whose copy every commit waits for; absent if the database doesn't tell"
    ),
    "dlr_asynchronous_standbys": (
        "Standbys that may lack the latest commits; absent if the database doesn't tell"
    ),
    "dlr_queued": "Reports that wait for their commit",
    "dlr_queue_limit": "Reports that may wait for their commit; past it, 503",
    "dlr_waiting": "Requests that wait for a report or a change",
    "dlr_streams": "Open streams of changes",
    "dlr_feed_held_seconds": (
        "Time since a scrape first saw the transaction that holds the change feed back; 0: none"
    ),
    "dlr_spooled": "Callbacks kept in the spool, as the database was away",
    "dlr_spool_waiting": "Callbacks in the spool that are not in the database yet",
    "dlr_spool_bytes": "Bytes of the spool in use",
    "dlr_spool_limit_bytes": "Bytes of the spool that may be in use; past it, 503. 0: no spool",
    "dlr_spool_damaged": "Spools that can't be read; `paasoo-dlr spool recover` reads what can be",
    "dlr_expired": "Deliveries given up, as no final report came in time",
    "dlr_quarantined": "Refused callbacks put in the quarantine, by code; repeats included",
    "dlr_quarantine_rows": "Refused callbacks in the quarantine",
    "dlr_quarantine_dropped": "Refused callbacks that newer ones pushed out of the quarantine",
    "dlr_connections_refused": "Connections refused, as no file descriptor was left for them",
    "dlr_log_lines_dropped": "Log lines dropped, as nobody read the log",
    "dlr_build_info": "1, with the versions of the service and of Python, and the database's kind",
}
COMMIT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_REPORTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
# Of a question for missing reports.
PULL_STEPS: Final = ("asked", "answered", "found", "not_understood")
# Of a batch that fails.
FAULTS: Final = ("database", "data")


def expect(counter: Counter, values: Iterable[str]) -> None:
    """Show these label values from the start, with 0: a counter that begins at 1 has no increase.

    An alert on `increase()` would miss the first fault.
    """
    for value in values:
        counter.labels(value)


AnyCollector = TypeVar("AnyCollector", bound=Collector)


class LogCollector(Collector):
    """Reads the number of dropped log lines from the log itself, which knows no registry."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        name = "dlr_log_lines_dropped"
        queues = (it for it in logging.getLogger().handlers if isinstance(it, LogQueue))
        dropped = sum(queue.dropped for queue in queues)
        yield CounterMetricFamily(name, DOCUMENTATION[name], dropped)


class WebhookState(NamedTuple):
    """An address that changes are pushed to. Times in seconds, those at an hour since 1970 UTC."""

    id: str
    lag_seconds: float
    lag_changes: int
    last_success_timestamp_seconds: float
    failing: bool
    disabled: bool


class WebhookCollector(Collector):
    """Shows the addresses as they were read last: those that were removed are gone."""

    def __init__(self) -> None:
        self.states: Sequence[WebhookState] = ()
        self._pushes: Counts[tuple[str, str]] = Counts()

    def count(self, webhook_id: str, *, is_taken: bool) -> None:
        """Count a push of this process."""
        self._pushes[webhook_id, "taken" if is_taken else "failed"] += 1

    def collect(self) -> Iterator[Metric]:
        states = self.states
        name = "dlr_webhook_pushes"
        pushes = CounterMetricFamily(name, DOCUMENTATION[name], labels=["webhook", "outcome"])
        for state in states:
            for outcome in ("taken", "failed"):
                pushes.add_metric([state.id, outcome], self._pushes[state.id, outcome])
        yield pushes
        for field in WebhookState._fields[1:]:
            name = f"dlr_webhook_{field}"
            family = GaugeMetricFamily(name, DOCUMENTATION[name], labels=["webhook"])
            for state in states:
                family.add_metric([state.id], float(getattr(state, field)))
            yield family


class StandbyCollector(Collector):
    """Shows the numbers of standbys, synchronous and not, where the database tells them."""

    def __init__(self) -> None:
        self.values: Sequence[float] | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        names = ("dlr_synchronous_standbys", "dlr_asynchronous_standbys")
        for place, name in enumerate(names):
            family = GaugeMetricFamily(name, DOCUMENTATION[name])
            if self.values is not None:
                family.add_metric([], self.values[place])
            yield family


class Metrics:
    """Every number that `/metrics` shows, in a registry of its own: tests don't share one."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.callbacks = self._tally("dlr_callbacks", "answer")
        self.callback_tokens = self._tally("dlr_callback_tokens", "position")
        name = "dlr_http_request_seconds"
        self.requests = self._registered(RequestTimes(name, DOCUMENTATION[name]))
        self.registry.register(LogCollector())
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.last_report_at = self._gauge("dlr_last_report_timestamp_seconds")
        self.reports = self._counter("dlr_reports", "state", values=REPORTED_STATES)
        self.unrecognised_statuses = self._counter("dlr_unrecognised_statuses")
        self.sends = self._counter("dlr_sends", "outcome")
        self.balance = self._gauge("dlr_balance", "currency")
        self.balance_asked_at = self._gauge("dlr_balance_asked_timestamp_seconds")
        self.balance_questions = self._counter("dlr_balance_questions", "outcome")
        self.pulls = self._counter("dlr_pulls", "step", values=PULL_STEPS)
        self.pulls_waiting = self._gauge("dlr_pulls_waiting")
        self.webhooks = self._registered(WebhookCollector())
        self.commit_seconds = self._histogram("dlr_commit_seconds", COMMIT_SECONDS)
        self.batch_reports = self._histogram("dlr_batch_reports", BATCH_REPORTS)
        self.failed_batches = self._counter("dlr_failed_batches", "fault", values=FAULTS)
        self.database_up = self._gauge("dlr_database_up")
        self.standbys = self._registered(StandbyCollector())
        self.queued = self._gauge("dlr_queued")
        self.queue_limit = self._gauge("dlr_queue_limit")
        self.waiting = self._gauge("dlr_waiting")
        self.streams = self._gauge("dlr_streams")
        self.feed_held_s = self._gauge("dlr_feed_held_seconds")
        self.spooled = self._counter("dlr_spooled")
        self.spool_waiting = self._gauge("dlr_spool_waiting")
        self.spool_bytes = self._gauge("dlr_spool_bytes")
        self.spool_limit_bytes = self._gauge("dlr_spool_limit_bytes")
        self.spool_damaged = self._gauge("dlr_spool_damaged")
        self.expired = self._counter("dlr_expired")
        self.quarantined = self._counter("dlr_quarantined", "code")
        self.quarantine_rows = self._gauge("dlr_quarantine_rows")
        self.quarantine_dropped = self._counter("dlr_quarantine_dropped")
        self.connections_refused = self._counter("dlr_connections_refused")

    def tell_build(self, version: str, python: str, database: str) -> None:
        name = "dlr_build_info"
        labels = ("version", "python", "database")
        gauge = Gauge(name, DOCUMENTATION[name], labels, registry=self.registry)
        gauge.labels(version, python, database).set(1)

    def _registered(self, collector: AnyCollector) -> AnyCollector:
        self.registry.register(collector)
        return collector

    def _tally(self, name: str, label: str) -> Tally:
        return self._registered(Tally(name, DOCUMENTATION[name], label))

    def _counter(self, name: str, *labels: str, values: Iterable[str] = ()) -> Counter:
        """A counter, and the values of its label that are there from the start."""
        counter = Counter(name, DOCUMENTATION[name], labels, registry=self.registry)
        expect(counter, values)
        return counter

    def _gauge(self, name: str, *labels: str) -> Gauge:
        return Gauge(name, DOCUMENTATION[name], labels, registry=self.registry)

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, DOCUMENTATION[name], buckets=buckets, registry=self.registry)
