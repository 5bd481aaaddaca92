"""Looking up: what is known of a message, and every report of it."""

from collections.abc import Sequence

from sqlalchemy import Connection, Row, select

from app.store.tables import deliveries, reports

_DELIVERIES_OF_MESSAGE = select(
    *deliveries.c[
        "message_id",
        "recipient",
        "state",
        "reason",
        "conflicting",
        "status",
        "statuscode",
        "errcode",
        "mcc_mnc",
        "first_received_at",
        "last_received_at",
        "submitted_at",
        "reference",
    ]
).order_by(deliveries.c.recipient)

_REPORTS_OF_MESSAGE = select(reports).order_by(
    reports.c.received_at, reports.c.recipient, reports.c.fingerprint
)


def deliveries_of(connection: Connection, message_id: str) -> Sequence[Row[tuple[object, ...]]]:
    """The deliveries of a message, ordered by recipient; none where it is not known."""
    return connection.execute(
        _DELIVERIES_OF_MESSAGE.where(deliveries.c.message_id == message_id)
    ).all()


def reports_of(connection: Connection, message_id: str) -> Sequence[Row[tuple[object, ...]]]:
    """Every distinct report about a message, oldest first."""
    return connection.execute(_REPORTS_OF_MESSAGE.where(reports.c.message_id == message_id)).all()
