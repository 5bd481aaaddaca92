"""One push: which changes are in it, its body, and what its outcome means for the address."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from app.api import cursors
from app.api.times import rfc3339
from app.push.client import Answer
from app.push.signing import signed_headers
from app.query.schemas import Change, number_until
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


def is_due(webhook: Webhook, now: int) -> bool:
    """True if it may be pushed to now; `now` in microseconds since 1970 UTC.

    A next try that is further away than any pause was set by a clock that was ahead.
    """
    latest = now + round(MAX_PAUSE_S * (1 + JITTER) * US)
    return not webhook.disabled and not now < webhook.next_try_at <= latest


def batches(webhook: Webhook, changes: Sequence[Change]) -> Iterator[Batch]:
    """Cut the changes after the address's cursor into pushes.

    A push that failed is repeated up to where it ended. Deliveries that changed since are left out,
    and come later in the feed. So a push with a known id has the same changes, or fewer: its
    receiver may ignore it.
    """
    if webhook.repeat_until is not None:
        repeated = number_until(changes, webhook.repeat_until)
        yield Batch(_wanted(webhook, changes[:repeated]), webhook.repeat_until)
        changes = changes[repeated:]
    wanted = _wanted(webhook, changes)
    for start in range(0, len(wanted), webhook.max_items):
        batch = wanted[start : start + webhook.max_items]
        yield Batch(batch, batch[-1].position)
    if changes:  # perhaps those behind the last batch are not wanted
        yield Batch((), changes[-1].position)


def id_of(webhook: Webhook, batch: Batch, history: str | None) -> str:
    """The id of a push: the same for a repetition, whichever replica makes it.

    Another server's positions are of another history, in which changes may have been lost.
    """
    positions = f"{cursors.encode(webhook.cursor)} {cursors.encode(batch.end)}"
    return f"msg_{sha256(f'{webhook.id} {history} {positions}'.encode()).hexdigest()[:32]}"


def signed_push(
    secret: str, push_id: str, changes: Sequence[Change], now: int
) -> tuple[dict[str, str], bytes]:
    """The headers and the body of a push; `now` in microseconds since 1970 UTC."""
    body = b'{"type":"%b","timestamp":"%b","data":{"items":[%b]}}' % (
        TYPE.encode(),
        rfc3339(now).encode(),
        b",".join(change.json for change in changes),
    )
    return signed_headers(secret, push_id, now // US, body), body


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
