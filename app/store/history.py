"""The history: every distinct report, be it in `reports` or, as the only one, in its delivery."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, case, cast, func, literal, select, union_all
from sqlalchemy.types import Text

from app.reports import CALLBACK
from app.store.tables import deliveries, reports

# By the columns of `reports`. A report that a delivery holds decides. So the time that it came last
# is that of the decision; `last_received_at` may be of another one, which a replica of schema 0011
# took.
_TIMES = {
    "received_at": func.coalesce(deliveries.c.first_received_at, deliveries.c.decided_at),
    "last_received_at": deliveries.c.decided_at,
}
_only_report = (
    (_TIMES[it.name] if it.name in _TIMES else deliveries.c[it.name]).label(it.name)
    for it in reports.c
)
HISTORY: Final = union_all(
    select(*reports.c),
    select(*_only_report).where(deliveries.c.times_received.is_not(None)),
).subquery("history")

# Most raw queries are as PaaSoo's guide shows them. Those are not kept but made from the rest.
_RAW_QUERY = case(
    (HISTORY.c.query != "", HISTORY.c.query),
    else_=literal("type=dlr&messageid=")
    + HISTORY.c.message_id
    + "&to="
    + HISTORY.c.recipient
    + "&status="
    + cast(HISTORY.c.status, Text)
    + func.coalesce("&statuscode=" + HISTORY.c.statuscode, "")
    + func.coalesce("&errcode=" + HISTORY.c.errcode, "")
    + func.coalesce("&network=" + HISTORY.c.mcc_mnc, ""),
).label("query")
# Most reports are callbacks, which is not kept either.
SOURCE = func.coalesce(func.nullif(HISTORY.c.source, ""), CALLBACK).label("source")
# The columns of a report, whole.
REPORT: Final = (
    *(it for it in HISTORY.c if it.name not in {"query", "source"}),
    _RAW_QUERY,
    SOURCE,
)

_OF_MESSAGE = (
    select(*REPORT)
    .where(HISTORY.c.message_id == bindparam("message_id"))
    .order_by(HISTORY.c.received_at, HISTORY.c.recipient, HISTORY.c.fingerprint)
)


def reports_of(connection: Connection, message_id: str) -> Sequence[Row[Any]]:
    """Every distinct report about a message, oldest first."""
    return connection.execute(_OF_MESSAGE, {"message_id": message_id}).all()
