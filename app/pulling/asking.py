"""Ask PaaSoo about one message, and hand its reports to the writer as if they had been called back.

A callback may come before the answer, after it or at the same time: the fold takes care of that.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.ingest.commit import Outcome
from app.ingest.writer import QueueFullError, Writer
from app.pulling.answer import NotUnderstoodError, read_answer
from app.reports import FINAL_STATES, DeliveryReport
from app.sending.answers import read_json
from app.sending.paasoo_client import REFUSALS, SYSTEM_ERROR, PaasooClient, status_of
from app.sending.problems import ProviderThrottledError, ProviderUnreachableError
from app.store import pulls, read
from app.store.engine import Database
from app.store.pulls import Cost, Schedule
from app.store.read import Deliveries
from app.telemetry import Metrics

# PaaSoo, or a proxy in front of it, asks us to come back later.
NOT_NOW: Final = (429, 503)


class NotAnsweredError(Exception):
    """The question left, and no answer came."""


class RefusedError(Exception):
    """PaaSoo is in trouble, or refuses our account. `is_taken` if it may have read the question."""

    def __init__(self, why: str, *, is_taken: bool) -> None:
        super().__init__(why)
        self.is_taken = is_taken


class NotStoredError(Exception):
    """The reports of an answer can't be kept now. The message is asked about again."""


@dataclass(frozen=True, slots=True)
class Asking:
    """The parts that asking needs, for the life of the service."""

    database: Database
    client: PaasooClient
    url: str  # where PaaSoo is asked
    writer: Writer
    metrics: Metrics
    schedule: Schedule
    a_second: float  # questions of all replicas together
    take_time: Callable[[], int]  # of receipt, in microseconds since 1970 UTC


async def ask(asking: Asking, message_id: str) -> None:
    """Ask now, and return once the reports that were found are on disk.

    Raises `ProviderUnreachableError`, `NotAnsweredError`, `RefusedError`, `NotUnderstoodError`,
    `NotStoredError`, and SQLAlchemy's errors.
    """
    count = asking.metrics.pulls.labels
    text = await _question(asking, message_id)
    count("answered").inc()
    try:
        _refuse_refusal(text)
        told = read_answer(text, message_id, asking.take_time())
    except NotUnderstoodError:
        count("not_understood").inc()
        raise
    reports = [one.report for one in told if one.report is not None]
    costs = [(one.recipient, one.price, one.parts) for one in told if one.price or one.parts]
    known: Deliveries = []
    has_all = False
    with suppress(SQLAlchemyError):  # the spool takes the reports without the database
        # First, because a message whose reports are final is not asked about again.
        known, has_all = await run_in_threadpool(_note, asking.database, message_id, costs)
    reports = [report for report in reports if not _is_told_better(report, known)]
    if reports:
        count("found").inc()
        await _store(asking.writer, reports)
    if reports and not has_all:
        await run_in_threadpool(_note, asking.database, message_id, costs)


async def _question(asking: Asking, message_id: str) -> str:
    asked = asking.metrics.pulls.labels("asked")
    try:
        status, text = await asking.client.ask_in_words(asking.url, {"messageid": message_id})
    except ProviderUnreachableError:
        raise
    except Exception as error:  # noqa: BLE001 - after any error, the question may have left
        asked.inc()
        raise NotAnsweredError(type(error).__name__) from None
    asked.inc()
    if status in NOT_NOW or status >= 500:
        raise RefusedError(f"HTTP {status}", is_taken=status not in NOT_NOW)
    return text


def _refuse_refusal(text: str) -> None:
    """Raise `RefusedError` for an answer that is one, as to a send: an object, not a list."""
    answer = read_json(text) if text.startswith("{") else None
    status = status_of(answer) if isinstance(answer, dict) and "drStatus" not in answer else None
    if status in REFUSALS or status == SYSTEM_ERROR:
        is_throttled = status in REFUSALS and issubclass(
            REFUSALS[status][0], ProviderThrottledError
        )
        raise RefusedError(f"status {status}", is_taken=not is_throttled)


def _note(database: Database, message_id: str, costs: list[Cost]) -> tuple[Deliveries, bool]:
    """Keep the costs. Returns the deliveries, and if all recipients are among them."""
    has_all = True
    if costs:
        with database.transaction() as connection:
            has_all = pulls.note_costs(connection, message_id, costs)
    with database.read.connect() as connection:
        return read.deliveries_of(connection, message_id), has_all


def _is_told_better(report: DeliveryReport, known: Deliveries) -> bool:
    """True if a callback has told the same state with all of these values, and more.

    Being received later, the answer would take the others away.
    """
    values = (report.statuscode, report.errcode, report.mcc_mnc)
    for row in known:
        if row.recipient == report.recipient and row.state in FINAL_STATES:
            has = (row.statuscode, row.errcode, row.mcc_mnc)
            return (
                (row.state, row.status) == (report.state, report.status)
                and values != has
                and all(ours in {None, theirs} for ours, theirs in zip(values, has, strict=True))
            )
    return False


async def _store(writer: Writer, reports: Sequence[DeliveryReport]) -> None:
    """Wait until the writer has put all reports on disk. Raises `NotStoredError`."""
    loop = asyncio.get_running_loop()
    fates: list[asyncio.Future[Outcome]] = []
    for report in reports:
        fate = loop.create_future()
        fates.append(fate)
        try:
            writer.admit_report(report, partial(_conclude, fate))
        except QueueFullError:
            _conclude(fate, Outcome.UNAVAILABLE)
    if Outcome.UNAVAILABLE in await asyncio.gather(*fates):
        raise NotStoredError


def _conclude(fate: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
    if not fate.done():  # cancelled, as the process ends
        fate.set_result(outcome)
