"""One push: which changes are in it, its body, and what its outcome means for the address."""

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from app.api import cursors
from app.api.times import rfc3339
from app.push.client import Answer
from app.query.schemas import Change
from app.store.changes import Position
from app.store.webhooks import Webhook

TYPE: Final = "deliveries.changed"
FINAL_ONLY: Final = "final"
FIRST_PAUSE_S: Final = 5.0
MAX_PAUSE_S: Final = 3600.0
# Each pause is up to so much longer, so that many addresses of one host don't come at once.
JITTER: Final = 0.1
GONE: Final = 410
US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Batch:
    """The changes of one push, perhaps none, and the position after them."""

    changes: Sequence[Change]
    end: Position


def batches(webhook: Webhook, changes: Sequence[Change]) -> Iterator[Batch]:
    """Cut the changes after the address's cursor into pushes.

    A push that failed is repeated up to where it ended. What has changed since is no longer in it,
    but comes later in the feed. So what has the same id has the same changes, or fewer: a receiver
    may well ignore it if it knows the id.
    """
    if webhook.repeat_until is not None:
        repeated = bisect_right(changes, webhook.repeat_until, key=position_of)
        yield Batch(_wanted(webhook, changes[:repeated]), webhook.repeat_until)
        changes = changes[repeated:]
    batch: list[Change] = []
    for change in changes:
        batch += _wanted(webhook, [change])
        if len(batch) >= webhook.max_items:
            yield Batch(batch, change.position)
            batch = []
    if changes:
        yield Batch(batch, changes[-1].position)


def id_of(webhook: Webhook, batch: Batch) -> str:
    """The id of a push: the same for a repetition, whichever replica makes it."""
    range_of_it = f"{webhook.id} {cursors.encode(webhook.cursor)} {cursors.encode(batch.end)}"
    return f"msg_{sha256(range_of_it.encode()).hexdigest()[:32]}"


def body_of(changes: Sequence[Change], at: int) -> bytes:
    """The body of a push with these changes; `at` in microseconds since 1970 UTC."""
    return b'{"type":"%b","timestamp":"%b","data":{"items":[%b]}}' % (
        TYPE.encode(),
        rfc3339(at).encode(),
        b",".join(change.json for change in changes),
    )


def note_success(webhook: Webhook, now: int) -> None:
    webhook.failures = webhook.next_try_at = 0
    webhook.last_success_at = now
    webhook.last_error = webhook.failing_since = None


def note_failure(webhook: Webhook, batch: Batch, answer: Answer, now: int) -> None:
    """Try again later: after 5 s, then twice as long each time, or when the receiver says."""
    webhook.failures += 1
    webhook.repeat_until = batch.end
    webhook.last_error = answer.error
    webhook.failing_since = webhook.failing_since or now
    webhook.disabled = answer.status == GONE
    webhook.next_try_at = now + round(_pause_s(webhook.failures, answer.retry_after_s) * US)


def _pause_s(failures: int, retry_after_s: float) -> float:
    doubled = FIRST_PAUSE_S * float(2 ** min(failures - 1, 20))
    pause_s = min(max(doubled, retry_after_s), MAX_PAUSE_S)
    return pause_s * random.uniform(1, 1 + JITTER)  # noqa: S311 - it is no secret


def _wanted(webhook: Webhook, changes: Sequence[Change]) -> Sequence[Change]:
    if webhook.events == FINAL_ONLY:
        return [change for change in changes if change.delivery["final"]]
    return changes


def position_of(change: Change) -> Position:
    return change.position
