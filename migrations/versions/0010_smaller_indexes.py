"""Smaller indexes: ties are sorted, not kept. The usual raw query is made from its parts.

Each step is a transaction of its own and holds up no writer of PostgreSQL. A migration that was
interrupted goes on where it was. A replica of the version before works with either set of indexes,
and shows an empty raw query for what a new one has stored.
"""

from typing import Any

from alembic import context, op
from sqlalchemy import text

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

KEY = ["message_id", "recipient"]
NEW = {
    "ix_deliveries_last_received_at": (["last_received_at"], None),
    "ix_deliveries_changed_in": (["changed_in"], None),
    "ix_deliveries_recipient_last_received_at": (["recipient", "last_received_at"], None),
    "ix_deliveries_mcc_mnc_last_received_at": (
        ["mcc_mnc", "last_received_at"],
        "mcc_mnc IS NOT NULL",
    ),
    "ix_deliveries_errcode_last_received_at": (
        ["errcode", "last_received_at"],
        "errcode IS NOT NULL",
    ),
    "ix_deliveries_mcc_mnc_reason_last_received_at": (
        ["mcc_mnc", "reason", "last_received_at"],
        "reason IS NOT NULL",
    ),
    "ix_deliveries_recipient_not_delivered": (
        ["recipient", "last_received_at"],
        "state <> 'delivered'",
    ),
    "ix_deliveries_never_reported": (KEY, "last_received_at = 0"),
    "ix_deliveries_never_changed": (KEY, "changed_in = 0"),
}
OLD = {
    "ix_deliveries_latest": (["last_received_at", *KEY], None),
    "ix_deliveries_changed": (["changed_in", *KEY], None),
    "ix_deliveries_recipient": (["recipient", "last_received_at", "message_id"], None),
    "ix_deliveries_mcc_mnc": (["mcc_mnc", "last_received_at", *KEY], "mcc_mnc IS NOT NULL"),
    "ix_deliveries_errcode": (["errcode", "last_received_at", *KEY], "errcode IS NOT NULL"),
}
# As `app.store.write.kept_query` leaves it out.
USUAL_QUERY = """
UPDATE reports SET query = 'type=dlr&messageid=' || message_id || '&to=' || recipient
    || '&status=' || status || coalesce('&statuscode=' || statuscode, '')
    || coalesce('&errcode=' || errcode, '') || coalesce('&network=' || mcc_mnc, '')
WHERE query = ''
"""

Indexes = dict[str, tuple[list[str], str | None]]


def upgrade() -> None:
    if is_postgresql():
        # A fiftieth of the rows, not a fifth: or purged room would long be neither free nor used.
        for table in ("reports", "deliveries"):
            op.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02)")
    replace(OLD, NEW)


def downgrade() -> None:
    if is_postgresql():
        for table in ("reports", "deliveries"):
            op.execute(f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor)")
    op.execute(USUAL_QUERY)
    replace(NEW, OLD)


def replace(before: Indexes, after: Indexes) -> None:
    takes_long = op.get_bind().scalar(text("SELECT 1 FROM deliveries LIMIT 1"))
    progress = context.config.attributes.get("progress") if takes_long else None
    tell = progress or (lambda _: None)
    tell(f"migration {revision}: {len(after)} indexes in place of {len(before)}")
    with op.get_context().autocommit_block():
        if is_postgresql():
            leave_transaction()
        else:  # nobody reads meanwhile, and the new ones fit into the room of the old ones
            drop(before)
        for number, (name, (columns, where)) in enumerate(after.items(), start=1):
            tell(f"migration {revision}: index {number} of {len(after)}")
            drop_unfinished(name)
            condition = text(where) if where else None
            op.create_index(
                name,
                "deliveries",
                columns,
                if_not_exists=True,
                postgresql_concurrently=True,
                postgresql_where=condition,
                sqlite_where=condition,
            )
        if is_postgresql():
            drop(before)
    if is_postgresql():
        op.execute("SET LOCAL lock_timeout = '10s'")  # for later ones: the block ended the first


def drop(indexes: Indexes) -> None:
    for name in indexes:
        op.drop_index(name, "deliveries", if_exists=True, postgresql_concurrently=True)


def leave_transaction() -> None:
    """Through a pooler the service's connections begin one whatever the block says."""
    driver: Any = op.get_bind().connection.driver_connection
    driver.commit()
    driver.autocommit = True


def drop_unfinished(name: str) -> None:
    """Drop an index whose building was interrupted: PostgreSQL keeps it, and never uses it."""
    if is_postgresql() and op.get_bind().scalar(
        text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"),
        {"name": name},
    ):
        op.drop_index(name, "deliveries", postgresql_concurrently=True)


def is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
