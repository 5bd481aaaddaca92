"""Send a message at most once: write the send down, call PaaSoo, record the outcome.

The send is committed before the request leaves, under a key that only one request can take. A
repeat, on any replica and after any restart, finds the recorded answer; or it finds none, and does
not send. (`docs/decisions/0009-sending-once.md`)
"""

import asyncio
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeVar
from uuid import uuid4

from pydantic_core import to_json
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.errors import encode
from app.query.schemas import message_of
from app.sending.paasoo_client import TOTAL_TIMEOUT_S, PaasooClient
from app.sending.problems import (
    IdempotencyKeyReusedError,
    NotSentError,
    OutcomeNotRecordedError,
    OutcomeUnknownError,
    PerhapsSentError,
    SendInProgressError,
)
from app.store import faults, pulls, read, sends, submissions
from app.store.engine import Database
from app.store.pulls import Schedule
from app.store.sends import Send
from app.store.submissions import UNKNOWN_ID, Submission
from app.telemetry import Metrics

log = logging.getLogger(__name__)

# Between attempts to record the outcome of a send.
PAUSES_S: Final = (0.1, 0.5, 2)
# An older send without an answer was abandoned by its process. Longer than a send can take,
# recording included, even if the clocks of the replicas differ by some seconds.
GONE_AFTER_S: Final = 2 * TOTAL_TIMEOUT_S
# The limit and the interval of a repeat's wait for the first request.
WAIT_S: Final = TOTAL_TIMEOUT_S + 5
LOOK_EVERY_S: Final = 0.1

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Sending:
    """The parts that sending needs, for the life of the service."""

    database: Database
    client: PaasooClient
    metrics: Metrics
    draining: threading.Event
    schedule: Schedule | None  # None: PaaSoo isn't asked for missing reports
    since: int  # start of this process; microseconds since 1970 UTC


@dataclass(frozen=True, slots=True)
class Order:
    """A message to send, its sender, and the key that a repeat has too."""

    user: str  # name of the API key
    idempotency_key: str | None
    recipients: Sequence[str]  # MSISDNs, none twice
    text: str
    reference: str | None
    sender: str | None  # its own `from`


@dataclass(frozen=True, slots=True)
class SendAnswer:
    """An HTTP status with its JSON. `is_repeat` if an earlier request got the same."""

    status: int
    body: str
    is_repeat: bool = False


async def send_once(sending: Sending, order: Order) -> SendAnswer:
    """Send, or repeat the answer that an earlier request with the same key got.

    An unknown outcome is an answer too: a problem document. Raises `NotSentError`,
    `IdempotencyKeyReusedError`, `SendInProgressError`, `OutcomeNotRecordedError`, and SQLAlchemy's
    errors while nothing was sent.
    """
    send = _send_of(order)
    earlier = await _start(sending, order, send)
    if earlier is not None:
        return earlier
    problem = None
    try:
        message_id = await sending.client.send(order.recipients, order.text, order.sender)
    except PerhapsSentError as error:
        message_id, problem = UNKNOWN_ID + send.attempt, error
    except NotSentError as error:
        sending.metrics.sends.labels(error.code).inc()
        await _withdraw(sending, send)
        raise
    sending.metrics.sends.labels(problem.code if problem else "sent").inc()
    return await _record(sending, order, send, message_id, problem)


def _send_of(order: Order) -> Send:
    # Without a key no request can repeat this one: a random key takes its place.
    key = order.idempotency_key or uuid4().hex
    body: list[object] = [order.recipients, order.text, order.reference]
    if order.sender is not None:
        # Not a null without one: versions that knew no `from` have left digests to match. Nor the
        # default, which may have changed since.
        body.append(order.sender)
    return Send(
        key_digest=sha256(f"{order.user}\0{key}".encode()).hexdigest(),
        # Keyed, because a plain digest of a short text, such as a six-digit code, can be guessed.
        body_digest=hmac.digest(key.encode(), json.dumps(body).encode(), sha256).hex(),
        attempt=uuid4().hex,
        started_at=time.time_ns() // 1000,
    )


async def _start(sending: Sending, order: Order, send: Send) -> SendAnswer | None:
    """Write the send down and return None: it may leave now. Else return the earlier answer."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = await run_in_threadpool(_find, sending.database, send.key_digest)
        if found is None:
            if await run_in_threadpool(_write_down, sending.database, send):
                return None
        elif not hmac.compare_digest(found.body_digest, send.body_digest):
            raise IdempotencyKeyReusedError
        elif found.status is not None:
            return SendAnswer(found.status, found.answer, is_repeat=True)
        elif _is_gone(sending, found.started_at):
            abandoned = Send(found.key_digest, found.body_digest, found.attempt, found.started_at)
            unknown = OutcomeUnknownError()
            await _record(sending, order, abandoned, UNKNOWN_ID + found.attempt, unknown)
        elif sending.draining.is_set() or time.monotonic() > deadline:
            raise SendInProgressError
        else:
            await asyncio.sleep(LOOK_EVERY_S)


def _is_gone(sending: Sending, started_at: int) -> bool:
    """True if the process that started the send can no longer be about to record its answer."""
    if sending.database.is_embedded and started_at < sending.since:
        return True  # only this process uses the database
    return started_at < time.time_ns() // 1000 - GONE_AFTER_S * 1_000_000


def _find(database: Database, key_digest: str) -> Row[Any] | None:
    with database.read.connect() as connection:
        return sends.find(connection, key_digest)


def _write_down(database: Database, send: Send) -> bool:
    with database.statement() as connection:
        return sends.start(connection, send)


async def _withdraw(sending: Sending, send: Send) -> None:
    """Release the key of a send that PaaSoo refused, so that it may be tried again."""

    def withdraw() -> None:
        with sending.database.statement() as connection:
            sends.withdraw(connection, send)

    try:
        await _insist(withdraw)
    except SQLAlchemyError:
        log.error("the key of a refused send can't be released")  # noqa: TRY400 - no fault of ours


async def _record(
    sending: Sending, order: Order, send: Send, message_id: str, problem: PerhapsSentError | None
) -> SendAnswer:
    """Register the message and record the answer for a repeat, in one commit."""

    def record() -> SendAnswer:
        with sending.database.transaction() as connection:
            is_first = sends.take(connection, send)
            if problem is not None and not is_first:
                # Another process has concluded the send meanwhile, and may know the outcome.
                return SendAnswer(problem.status, encode(problem.document()).decode())
            if not is_first:
                # The send was taken for abandoned, but was only slow.
                submissions.withdraw(connection, UNKNOWN_ID + send.attempt)
            submission = Submission(message_id, order.recipients, order.reference, send.started_at)
            submissions.register(connection, submission, send.started_at)
            if sending.schedule is not None:
                at = {message_id: send.started_at}  # left out if it is one of ours
                pulls.add(connection, at, sending.schedule, send.started_at)
            if problem is None:
                message = message_of(read.deliveries_of(connection, message_id))
                answer = SendAnswer(201, to_json(message).decode())
            else:
                answer = SendAnswer(problem.status, encode(problem.document()).decode())
            if order.idempotency_key is None:
                sends.forget(connection, send)
            else:
                sends.conclude(connection, send, answer.status, answer.body)
            return answer

    if problem is not None:
        problem.more |= {"messageid": message_id, "reference": order.reference}
    try:
        return await _insist(record)
    except SQLAlchemyError as error:
        found = faults.description(error)
        log.error("the outcome of a send can't be recorded", extra={"error": found})  # noqa: TRY400
        known_id, outcome = (message_id, "sent") if problem is None else (None, problem.code)
        raise OutcomeNotRecordedError(messageid=known_id, outcome=outcome) from None


async def _insist(write: Callable[[], Result]) -> Result:
    """Write, and retry after each pause if the database fails. Raises SQLAlchemy's last error."""
    for pause_s in PAUSES_S:
        try:
            return await run_in_threadpool(write)
        except SQLAlchemyError:
            await asyncio.sleep(pause_s)
    return await run_in_threadpool(write)
