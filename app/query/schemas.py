"""What the status API answers, field by field."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, Field, PlainSerializer, WithJsonSchema
from sqlalchemy import Row

from app.query import cursors
from app.reports import FINAL_STATES, RETRYABLE_REASONS, Reason, State
from app.store.changes import Position

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(microseconds: int) -> str:
    """A time as RFC 3339 has it, in UTC: `2026-11-22T08:00:00.123456Z`."""
    second, fraction = divmod(microseconds, 1_000_000)
    return f"{_to_the_second(second)}.{fraction:06}Z"


@lru_cache(maxsize=4096)
def _to_the_second(second: int) -> str:
    # Many rows of an answer are of the same few seconds.
    return (EPOCH + timedelta(seconds=second)).isoformat(timespec="seconds")[:19]


Time = Annotated[
    int,
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class Delivery(BaseModel):
    """One recipient of one message, and what became of it."""

    messageid: str = Field(description="PaaSoo's id of the send call.", examples=["052804b7368321"])
    to: str = Field(
        description="The recipient's number: digits, country code first.", examples=["6588888888"]
    )
    state: State = Field(description="What became of it.", examples=["delivered"])
    final: bool = Field(description="No later report is expected to change the state.")
    reason: Reason | None = Field(description="Why it is not known to be a success.")
    retryable: bool = Field(description="Sending it again may help.")
    conflicting: bool = Field(description="Two final reports disagree on the state.")
    status: int | None = Field(description="PaaSoo's `status`, of the deciding report.")
    statuscode: str | None = Field(description="PaaSoo's `statuscode`, of the deciding report.")
    errcode: str | None = Field(description="PaaSoo's `errcode`, of the deciding report.")
    network: str | None = Field(
        description="PaaSoo's `network`, of the deciding report: MCC and MNC, or text.",
        examples=["52099"],
    )
    first_received_at: Time | None = Field(description="When its first report came.")
    last_received_at: Time | None = Field(description="When its last report came.")
    submitted_at: Time | None = Field(description="When it was sent, where that is known.")
    reference: str | None = Field(description="The sender's own name for it.")

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """From the columns of `read.SHOWN`."""
        (
            message_id,
            recipient,
            state,
            reason,
            conflicting,
            status,
            statuscode,
            errcode,
            mcc_mnc,
            first_received_at,
            last_received_at,
            submitted_at,
            reference,
        ) = tuple(row)
        return cls(
            messageid=message_id,
            to=recipient,
            state=state,
            final=state in FINAL_STATES,
            reason=reason,
            retryable=reason in RETRYABLE_REASONS,
            conflicting=conflicting,
            status=status,
            statuscode=statuscode,
            errcode=errcode,
            network=mcc_mnc,
            first_received_at=first_received_at,
            last_received_at=last_received_at or None,  # 0 while none came
            submitted_at=submitted_at,
            reference=reference,
        )


class Message(BaseModel):
    """What one send call sent, up to 50 deliveries."""

    messageid: str = Field(description="PaaSoo's id of the send call.", examples=["052804b7368321"])
    state: str = Field(
        description="The deliveries' state where they agree, else `mixed`.",
        json_schema_extra={"enum": [*State, "mixed"]},
        examples=["delivered"],
    )
    final: bool = Field(description="All deliveries are final.")
    deliveries: list[Delivery] = Field(description="Ordered by `to`.")

    @classmethod
    def of(cls, rows: Sequence[Row[Any]]) -> Self:
        deliveries = [Delivery.of(row) for row in rows]
        first = deliveries[0]
        agree = len(deliveries) == 1 or all(it.state is first.state for it in deliveries)
        return cls(
            messageid=first.messageid,
            state=first.state if agree else "mixed",
            final=all(delivery.final for delivery in deliveries),
            deliveries=deliveries,
        )


class MessagesFound(BaseModel):
    """What is known of the messages that were asked for."""

    messages: list[Message] = Field(description="Those that are known, in the order asked.")
    not_found: list[str] = Field(description="The ids that are not known, in the order asked.")


class DeliveriesPage(BaseModel):
    """A page of deliveries."""

    items: list[Delivery] = Field(description="Latest `last_received_at` first.")
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class Change:
    """A delivery whose visible status changed, and where that is in the feed."""

    def __init__(self, position: Position, delivery: Delivery) -> None:
        self.position = position
        self.delivery = delivery

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        changed_in, *shown = tuple(row)
        return cls((changed_in, row.message_id, row.recipient), Delivery.of(shown))

    @cached_property
    def event(self) -> bytes:
        """As a server-sent event: made once, for all who read the stream."""
        cursor, data = cursors.encode(self.position), self.delivery.model_dump_json()
        return f"event: delivery\nid: {cursor}\ndata: {data}\n\n".encode()


class ChangesPage(BaseModel):
    """A page of what changed."""

    items: list[Delivery] = Field(description="Oldest change first, in their current form.")
    next_cursor: str = Field(description="Goes on behind this page.")

    @classmethod
    def of(cls, changes: Sequence[Change], position: Position) -> Self:
        """The changes after a position."""
        return cls(
            items=[change.delivery for change in changes],
            next_cursor=cursors.encode(changes[-1].position if changes else position),
        )


class Report(BaseModel):
    """One distinct report as it came, and how often."""

    to: str = Field(description="The recipient's number: digits, country code first.")
    received_at: Time = Field(description="When it came first.")
    last_received_at: Time = Field(description="When it came last.")
    times_received: int = Field(description="How often it came.")
    state: State = Field(description="What it claims.")
    reason: Reason | None = Field(description="Why, where it claims no success.")
    status: int | None = Field(description="PaaSoo's `status`.")
    statuscode: str | None = Field(description="PaaSoo's `statuscode`.")
    errcode: str | None = Field(description="PaaSoo's `errcode`.")
    network: str | None = Field(description="PaaSoo's `network`.")
    source: str = Field(
        description="How it came to us: `callback`, or `replay` from the quarantine."
    )
    query: str = Field(description="The raw query as received; other than ASCII percent-encoded.")

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        return cls(
            to=row.recipient,
            received_at=row.received_at,
            last_received_at=row.last_received_at,
            times_received=row.times_received,
            state=State(row.state),
            reason=row.reason,
            status=row.status,
            statuscode=row.statuscode,
            errcode=row.errcode,
            network=row.mcc_mnc,
            source=row.source,
            query=row.query,
        )


class Reports(BaseModel):
    """Every distinct report of a message."""

    reports: list[Report] = Field(description="Oldest first.")
