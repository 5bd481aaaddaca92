"""Standbys that follow the server: with asynchronous ones alone, a failover loses reports."""

from typing import Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import InternalError, NotSupportedError, ProgrammingError

# Subscribers of logical replication, and base backups, are no standbys. Whoever may not see the
# details of `pg_stat_replication` still sees its rows.
_STANDBYS: Final = """
SELECT current_setting('synchronous_standby_names') <> '',
    count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')),
    count(*) FILTER (WHERE sync_state NOT IN ('sync', 'quorum')),
    count(*) FILTER (WHERE sync_state IS NULL)
FROM pg_stat_replication AS sender
WHERE state IS DISTINCT FROM 'backup' AND NOT EXISTS (
    SELECT FROM pg_replication_slots WHERE active_pid = sender.pid AND slot_type = 'logical')
"""


class Standbys(NamedTuple):
    """Those that follow now. `are_wanted`: commits wait for a synchronous one."""

    synchronous: int
    asynchronous: int
    are_wanted: bool

    @property
    def may_lose_reports(self) -> bool:
        """True if the only servers that could take over may lack the latest commits."""
        return self.asynchronous > 0 and not self.synchronous


def standbys_of(connection: Connection) -> Standbys | None:
    """The standbys of the server; None if it has none of its own (SQLite), or doesn't tell.

    Behind a pooler, let it be the connection's last statement: a refusal ends the transaction.
    """
    if connection.dialect.name != "postgresql":
        return None
    try:
        are_wanted, synchronous, asynchronous, hidden = connection.exec_driver_sql(_STANDBYS).one()
    except (ProgrammingError, NotSupportedError, InternalError):
        return None
    if hidden and are_wanted:
        return None
    # Without names none is synchronous, so a row without its details is one that is not.
    return Standbys(synchronous, asynchronous + hidden, are_wanted)
