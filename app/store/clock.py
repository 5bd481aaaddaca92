"""The time that all replicas share."""

import time
from typing import Any

from sqlalchemy import Connection


def now_on(connection: Connection) -> int:
    """The server's time, or on SQLite our own; microseconds since 1970 UTC."""
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1000
    now: Any = connection.exec_driver_sql(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    ).scalar_one()
    return int(now)
