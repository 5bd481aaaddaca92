"""Smaller indexes: ties are sorted, not kept. The usual raw query is made from its parts.

On PostgreSQL each index is a step of its own that holds up no writer, and a migration that was
interrupted goes on where it was; on SQLite it is one transaction. A replica of the version before
works with either set of indexes, and shows an empty raw query for what a new one has stored.
"""

from collections.abc import Callable, Iterable
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
    "ix_deliveries_reason_last_received_at": (
        ["reason", "last_received_at"],
        "reason IS NOT NULL",
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
    "ix_deliveries_reason": (["reason", "last_received_at", *KEY], "reason IS NOT NULL"),
}
# As `app.store.write.kept_query` leaves it out.
USUAL_QUERY = """
UPDATE reports SET query = 'type=dlr&messageid=' || message_id || '&to=' || recipient
    || '&status=' || status || coalesce('&statuscode=' || statuscode, '')
    || coalesce('&errcode=' || errcode, '') || coalesce('&network=' || mcc_mnc, '')
WHERE query = ''
"""

# A fiftieth of the rows, not a fifth: or purged room would long be neither free nor used.
VACUUMED = "SET (autovacuum_vacuum_scale_factor = 0.02)"
VACUUMED_AS_BEFORE = "RESET (autovacuum_vacuum_scale_factor)"
# To wait holds up no writer here.
NO_LIMITS = """
SELECT set_config(name, '0', false) FROM pg_settings
    WHERE name IN ('lock_timeout', 'transaction_timeout')
"""

Indexes = dict[str, tuple[list[str], str | None]]


def upgrade() -> None:
    replace(OLD, NEW)


def downgrade() -> None:
    op.execute(USUAL_QUERY)
    replace(NEW, OLD)


def replace(before: Indexes, after: Indexes) -> None:
    takes_long = op.get_bind().scalar(text("SELECT 1 FROM deliveries LIMIT 1"))
    progress = context.config.attributes.get("progress") if takes_long else None
    tell = progress or (lambda _: None)
    tell(f"migration {revision}: {len(after)} indexes in place of {len(before)}")
    if not is_postgresql():  # nobody reads meanwhile, and the new ones fit into the old ones' room
        drop(before)
        build_all(after, tell)
        return
    with op.get_context().autocommit_block():
        leave_transaction()
        for table in ("reports", "deliveries"):
            op.execute(f"ALTER TABLE {table} {VACUUMED if after is NEW else VACUUMED_AS_BEFORE}")
        build_all(after, tell)
        drop(before)
    op.execute("SET LOCAL lock_timeout = '10s'")  # for later ones: the block ended the first


def build_all(indexes: Indexes, tell: Callable[[str], object]) -> None:
    while missing := [name for name in indexes if not is_built(name)]:
        for name in missing:
            number = [*indexes].index(name) + 1
            tell(f"migration {revision}: index {number} of {len(indexes)}")
            build(name, *indexes[name])


def drop(indexes: Iterable[str]) -> None:
    for name in indexes:
        op.drop_index(name, "deliveries", if_exists=True, postgresql_concurrently=True)


def build(name: str, columns: list[str], where: str | None) -> None:
    drop([name])  # PostgreSQL keeps one whose building was interrupted, and never uses it
    condition = text(where) if where else None
    op.create_index(
        name,
        "deliveries",
        columns,
        postgresql_concurrently=True,
        postgresql_where=condition,
        sqlite_where=condition,
    )


def is_built(name: str) -> bool:
    found = (
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
        if is_postgresql()
        else "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = :name"
    )
    return bool(op.get_bind().scalar(text(found), {"name": name}))


def leave_transaction() -> None:
    """Through a pooler the service's connections begin one whatever the block says."""
    driver: Any = op.get_bind().connection.driver_connection
    driver.commit()
    driver.autocommit = True
    if not driver.is_pooled:  # a role may have limits; a pooler would hand ours on to others
        driver.execute(NO_LIMITS)


def is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
