"""The answers of the status API, field by field."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field
from pydantic_core import to_json
from sqlalchemy import Row
from typing_extensions import TypedDict  # Pydantic needs this one before Python 3.12

from app.api import cursors
from app.api.times import TimeOutput, TimeText, rfc3339
from app.reports import FINAL_STATES, RETRYABLE_REASONS, Reason, State
from app.store.changes import Position

_MessageId = Annotated[
    str, Field(description="PaaSoo's id of the send call.", examples=["052804b7368321"])
]

# Dictionaries, not models, for objects that an answer may hold by the thousand: a model takes three
# times as long to build and to write out. `json_response` writes them.


class Delivery(TypedDict):
    """One recipient of one message, with its status."""

    messageid: _MessageId
    to: Annotated[
        str,
        Field(
            description="The recipient's number: digits, country code first.",
            examples=["6588888888"],
        ),
    ]
    state: Annotated[State, Field(description="Its current state.", examples=["delivered"])]
    final: Annotated[bool, Field(description="No later report is expected to change the state.")]
    reason: Annotated[Reason | None, Field(description="The reason for not being delivered.")]
    retryable: Annotated[bool, Field(description="Sending it again may help.")]
    conflicting: Annotated[bool, Field(description="Two final reports disagree on the state.")]
    status: Annotated[int | None, Field(description="PaaSoo's `status`, of the deciding report.")]
    statuscode: Annotated[
        str | None, Field(description="PaaSoo's `statuscode`, of the deciding report.")
    ]
    errcode: Annotated[str | None, Field(description="PaaSoo's `errcode`, of the deciding report.")]
    network: Annotated[
        str | None,
        Field(
            description="PaaSoo's `network`, of the deciding report: MCC and MNC, or text.",
            examples=["52099"],
        ),
    ]
    first_received_at: Annotated[
        TimeText | None, Field(description="The time of its first report.")
    ]
    last_received_at: Annotated[TimeText | None, Field(description="The time of its last report.")]
    submitted_at: Annotated[
        TimeText | None, Field(description="The time it was sent, if that is known.")
    ]
    reference: Annotated[str | None, Field(description="The sender's own name for it.")]
    price: Annotated[
        str | None,
        Field(description="Its price as PaaSoo tells it when asked, if it did.", examples=["0.05"]),
    ]
    parts: Annotated[
        int | None, Field(description="The parts that PaaSoo split the text into, likewise.")
    ]


def _time(received_at: int | None) -> str | None:
    return rfc3339(received_at) if received_at else None


def delivery_of(row: Sequence[Any]) -> Delivery:
    """Make a delivery of a row with the columns of `read.SHOWN`."""
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
        price,
        parts,
    ) = tuple(row)
    first = _time(first_received_at)
    last = first if last_received_at == first_received_at else _time(last_received_at)
    return {
        "messageid": message_id,
        "to": recipient,
        "state": state,
        "final": state in FINAL_STATES,
        "reason": reason,
        "retryable": reason in RETRYABLE_REASONS,
        "conflicting": conflicting,
        "status": status,
        "statuscode": statuscode,
        "errcode": errcode,
        "network": mcc_mnc,
        "first_received_at": first,
        "last_received_at": last,
        "submitted_at": None if submitted_at is None else rfc3339(submitted_at),
        "reference": reference,
        "price": price,
        "parts": parts,
    }


class Message(TypedDict):
    """One send call: up to 50 deliveries."""

    messageid: _MessageId
    state: Annotated[
        str,
        Field(
            description="The deliveries' state if they all have the same, else `mixed`.",
            json_schema_extra={"enum": [*State, "mixed"]},
            examples=["delivered"],
        ),
    ]
    final: Annotated[bool, Field(description="All deliveries are final.")]
    deliveries: Annotated[list[Delivery], Field(description="Ordered by `to`.")]


def message_of(rows: Sequence[Row[Any]]) -> Message:
    """Make a message of the rows of its deliveries, at least one."""
    deliveries = [delivery_of(row) for row in rows]
    first = deliveries[0]
    agree = len(deliveries) == 1 or all(it["state"] == first["state"] for it in deliveries)
    return {
        "messageid": first["messageid"],
        "state": first["state"] if agree else "mixed",
        "final": all(delivery["final"] for delivery in deliveries),
        "deliveries": deliveries,
    }


class MessagesFound(TypedDict):
    """The messages that were asked for, as far as they are known."""

    messages: Annotated[
        list[Message], Field(description="Those that are known, in the order asked.")
    ]
    not_found: Annotated[
        list[str], Field(description="The ids that are not known, in the order asked.")
    ]


class DeliveriesPage(TypedDict):
    """A page of deliveries."""

    items: Annotated[list[Delivery], Field(description="Latest `last_received_at` first.")]
    next_cursor: Annotated[str | None, Field(description="For the next page; null on the last.")]


class Change:
    """A delivery whose visible status changed, with its position in the feed."""

    def __init__(self, position: Position, delivery: Delivery) -> None:
        self.position = position
        self.delivery = delivery

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        changed_in, *shown = tuple(row)
        return cls((changed_in, row.message_id, row.recipient), delivery_of(shown))

    @cached_property
    def json(self) -> bytes:
        """The delivery, encoded once for all streams and pushes."""
        return to_json(self.delivery)

    @cached_property
    def event(self) -> bytes:
        """The change as a server-sent event, encoded once for all streams."""
        cursor = cursors.encode(self.position).encode()
        return b"event: delivery\nid: %b\ndata: %b\n\n" % (cursor, self.json)


class ChangesPage(TypedDict):
    """A page of the change feed."""

    items: Annotated[
        list[Delivery], Field(description="Oldest change first, in their current form.")
    ]
    next_cursor: Annotated[str, Field(description="Continues after this page.")]


def changes_page(changes: Sequence[Change], position: Position) -> ChangesPage:
    """Make a page of the changes after a position."""
    return {
        "items": [change.delivery for change in changes],
        "next_cursor": cursors.encode(changes[-1].position if changes else position),
    }


class Report(BaseModel):
    """One distinct report, and the number of times it came."""

    to: str = Field(description="The recipient's number: digits, country code first.")
    received_at: TimeOutput = Field(description="The time it came first.")
    last_received_at: TimeOutput = Field(description="The time it came last.")
    times_received: int = Field(description="The number of times it came.")
    state: State = Field(description="The state that it claims.")
    reason: Reason | None = Field(description="The reason that it gives for not being delivered.")
    status: int | None = Field(description="PaaSoo's `status`.")
    statuscode: str | None = Field(description="PaaSoo's `statuscode`.")
    errcode: str | None = Field(description="PaaSoo's `errcode`.")
    network: str | None = Field(description="PaaSoo's `network`.")
    source: str = Field(
        description="How it came to us: `callback`, `replay` from the quarantine, or `pull`, an "
        "answer to our question."
    )
    query: str = Field(
        description="The raw query as received; other than ASCII percent-encoded. Of a `pull`, "
        "what PaaSoo answered about this recipient: JSON, other than ASCII escaped."
    )

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
