"""A replica of schema 0011 that records reports, for tests of an upgrade. On PostgreSQL alone."""

import re
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection

from app.reports import DeliveryReport
from app.store import write

# As the service of that time sent it; the parameters are the same ones.
_STATEMENT = Path(__file__).with_name("cases") / "record_reports_0011.sql"


def record(connection: Connection, batch: Sequence[DeliveryReport]) -> None:
    """Record the reports, no two of one delivery. The caller commits."""
    usual = write.parameters_of(batch)
    assert usual is not None
    parameters, _ = usual
    statement = re.sub(r"\$\d+", "%s", _STATEMENT.read_text())
    connection.exec_driver_sql(statement, tuple(it.decode() for it in parameters))
