"""Ask PaaSoo about one message, and hand its reports to the writer as if they had been called back.

A callback may come before the answer, after it or at the same time: the fold takes care of that.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.concurrency import run_in_threadpool

from app.ingest.commit import Outcome
from app.ingest.writer import QueueFullError, Writer
from app.pulling.answer import NotUnderstoodError, read_answer
from app.reports import DeliveryReport
from app.sending.paasoo_client import PaasooClient
from app.sending.problems import ProviderUnreachableError
from app.store import pulls
from app.store.engine import Database
from app.store.pulls import Cost, Schedule
from app.telemetry import Metrics

# A proxy in front of PaaSoo that can't reach it, or one that finds us too fast.
IN_TROUBLE: Final = (429, 502, 503, 504)


class NotAnsweredError(Exception):
    """The question left, and no answer came, or one that says that PaaSoo is in trouble."""


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

    Raises `ProviderUnreachableError`, `NotAnsweredError`, `NotUnderstoodError`, `NotStoredError`,
    and SQLAlchemy's errors.
    """
    count = asking.metrics.pulls.labels
    count("asked").inc()
    text = await _question(asking, message_id)
    count("answered").inc()
    try:
        told = read_answer(text, message_id, asking.take_time())
    except NotUnderstoodError:
        count("not_understood").inc()
        raise
    reports = [one.report for one in told if one.report is not None]
    # First, because a message whose reports are final is not asked about again.
    costs = [(one.recipient, one.price, one.parts) for one in told if one.price or one.parts]
    has_all = await run_in_threadpool(_note_costs, asking.database, message_id, costs)
    if reports:
        count("found").inc()
        await _store(asking.writer, reports)
    if reports and not has_all:
        await run_in_threadpool(_note_costs, asking.database, message_id, costs)


async def _question(asking: Asking, message_id: str) -> str:
    try:
        status, text = await asking.client.ask_in_words(asking.url, {"messageid": message_id})
    except ProviderUnreachableError:
        raise
    except Exception as error:  # noqa: BLE001 - after any error, the question may have left
        raise NotAnsweredError(type(error).__name__) from None
    if status in IN_TROUBLE:
        raise NotAnsweredError(str(status))
    return text


def _note_costs(database: Database, message_id: str, costs: list[Cost]) -> bool:
    """False if one of the recipients has no delivery yet."""
    if not costs:
        return True
    with database.transaction() as connection:
        return pulls.note_costs(connection, message_id, costs)


async def _store(writer: Writer, reports: list[DeliveryReport]) -> None:
    """Wait until the writer has put all reports on disk. Raises `NotStoredError`."""
    loop = asyncio.get_running_loop()
    fates: list[asyncio.Future[Outcome]] = []
    for report in reports:
        fate = loop.create_future()
        try:
            writer.admit_report(report, fate.set_result)
        except QueueFullError:
            fate.set_result(Outcome.UNAVAILABLE)
        fates.append(fate)
    if Outcome.UNAVAILABLE in await asyncio.gather(*fates):
        raise NotStoredError
