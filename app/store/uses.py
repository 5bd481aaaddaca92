"""The last use of each callback token and API key, for whoever wants to take one away."""

from collections.abc import Collection

from sqlalchemy import Connection, select

from app.store.inserting import insert_into
from app.store.tables import last_uses


def keep(connection: Connection, marks: Collection[str], used_at: int) -> None:
    """Note that the tokens and keys of these marks were used. The caller commits."""
    statement = insert_into(connection, last_uses)
    latest = statement.excluded.used_at
    statement = statement.on_conflict_do_update(
        index_elements=["mark"],
        set_={"used_at": latest},
        where=latest > last_uses.c.used_at,
    )
    # Sorted, so that two replicas never wait for each other.
    connection.execute(statement, [{"mark": mark, "used_at": used_at} for mark in sorted(marks)])


def latest(connection: Connection) -> dict[str, int]:
    """The time of each mark's last use; microseconds since 1970 UTC."""
    return {row.mark: row.used_at for row in connection.execute(select(last_uses))}
