"""What the status API asks: indexes for its filters, the change feed, and counts by hour.

On SQLite the tables become ordinary ones, with a rowid: their secondary indexes are smaller so,
and a commit writes fewer pages.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FILTERS = {
    "state": "state <> 'delivered'",
    "reason": "reason IS NOT NULL",
    "mcc_mnc": "mcc_mnc IS NOT NULL",
    "errcode": "errcode IS NOT NULL",
    "reference": "reference IS NOT NULL",
}
INDEXES = {
    "ix_deliveries_latest": (["last_received_at", "message_id", "recipient"], None),
    "ix_deliveries_changed": (["changed_in", "message_id", "recipient"], None),
    "ix_deliveries_recipient": (["recipient", "last_received_at", "message_id"], None),
    **{
        f"ix_deliveries_{column}": (
            [column, "last_received_at", "message_id", "recipient"],
            where,
        )
        for column, where in FILTERS.items()
    },
    "ix_deliveries_open_sent": (["submitted_at"], "rank < 3"),
    "ix_deliveries_open_seen": (["first_received_at"], "rank < 3"),
    "ix_deliveries_unreported": (["submitted_at"], "last_received_at = 0"),
}


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    how = recreated(with_rowid=True) if is_sqlite else {}
    if is_sqlite:
        with op.batch_alter_table("reports", **how):
            pass
    op.execute("UPDATE deliveries SET last_received_at = 0 WHERE last_received_at IS NULL")
    with op.batch_alter_table("deliveries", **how) as deliveries:
        deliveries.alter_column(
            "last_received_at",
            existing_type=sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="us since 1970 UTC; 0 while no report came",
            existing_comment="us since 1970 UTC",
        )
        deliveries.add_column(
            sa.Column(
                "expired_at",
                sa.BigInteger(),
                nullable=True,
                comment="when it was given up; us since 1970 UTC",
            )
        )
        deliveries.add_column(
            sa.Column(
                "changed_in",
                sa.BigInteger(),
                nullable=False,
                server_default=sa.text("0"),  # what is there already comes first
                comment="position in the change feed",
            )
        )
    for name, (columns, where) in INDEXES.items():
        condition = sa.text(where) if where else None
        op.create_index(
            name, "deliveries", columns, postgresql_where=condition, sqlite_where=condition
        )
    op.create_table("feed", sa.Column("base", sa.BigInteger(), nullable=False))
    op.execute("INSERT INTO feed (base) VALUES (0)")
    op.create_table(
        "delivery_counts",
        sa.Column("hour", sa.BigInteger(), autoincrement=False, comment="since 1970 UTC"),
        sa.Column("mcc_mnc", sa.Text(), comment="empty where it is not known"),
        sa.Column("state", sa.String(length=16)),
        sa.Column("reason", sa.String(length=32), comment="empty where there is none"),
        sa.Column(
            "part",
            sa.BigInteger(),
            autoincrement=False,
            comment="0, or the transaction that added it",
        ),
        sa.Column(
            "deliveries", sa.BigInteger(), nullable=False, comment="may be negative in a part"
        ),
        sa.PrimaryKeyConstraint(
            "hour", "mcc_mnc", "state", "reason", "part", name=op.f("pk_delivery_counts")
        ),
        sqlite_with_rowid=False,
    )
    for statement in SQLITE_TRIGGERS if is_sqlite else POSTGRESQL_TRIGGERS:
        op.execute(sa.text(statement.replace(":", "\\:")))
    op.execute(f"""
        INSERT INTO delivery_counts (hour, mcc_mnc, state, reason, part, deliveries)
        SELECT {group_of("deliveries")}, 0, count(*) FROM deliveries GROUP BY 1, 2, 3, 4
    """)


def downgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for event in ("insert", "update", "delete"):
        on = "" if is_sqlite else " ON deliveries"
        op.execute(f"DROP TRIGGER count_deliveries_on_{event}{on}")
    if not is_sqlite:
        op.execute("DROP FUNCTION count_deliveries")
    op.drop_table("delivery_counts")
    op.drop_table("feed")
    for name in INDEXES:
        op.drop_index(name, "deliveries")
    how = recreated(with_rowid=False) if is_sqlite else {}
    with op.batch_alter_table("deliveries", **how) as deliveries:
        deliveries.drop_column("changed_in")
        deliveries.drop_column("expired_at")
        deliveries.alter_column(
            "last_received_at",
            existing_type=sa.BigInteger(),
            nullable=True,
            server_default=None,
            comment="us since 1970 UTC",
            existing_comment="us since 1970 UTC; 0 while no report came",
        )
    op.execute("UPDATE deliveries SET last_received_at = NULL WHERE last_received_at = 0")
    if is_sqlite:
        with op.batch_alter_table("reports", **how):
            pass


def recreated(*, with_rowid: bool) -> dict[str, Any]:
    return {"recreate": "always", "table_kwargs": {"sqlite_with_rowid": with_rowid}}


def group_of(row: str) -> str:
    """Hour, network, state and reason of a delivery. The hour of the last report, or of sending."""
    return f"""
        CASE WHEN {row}.last_received_at > 0 THEN {row}.last_received_at
            ELSE coalesce({row}.submitted_at, 0) END / 3600000000,
        coalesce({row}.mcc_mnc, ''), {row}.state, coalesce({row}.reason, '')"""


ADD = "INSERT INTO delivery_counts (hour, mcc_mnc, state, reason, part, deliveries)"
TO_KNOWN = """ON CONFLICT (hour, mcc_mnc, state, reason, part)
    DO UPDATE SET deliveries = delivery_counts.deliveries + excluded.deliveries"""

# PostgreSQL: once a statement, and never waiting for another transaction.
POSTGRESQL_TRIGGERS = (
    f"""
    CREATE FUNCTION count_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        own_part bigint := pg_current_xact_id()::text::bigint;
    BEGIN
        IF TG_OP = 'INSERT' THEN
            {ADD} SELECT {group_of("added")}, own_part, count(*) FROM added GROUP BY 1, 2, 3, 4
            {TO_KNOWN};
        ELSIF TG_OP = 'DELETE' THEN
            {ADD} SELECT {group_of("removed")}, own_part, -count(*) FROM removed GROUP BY 1, 2, 3, 4
            {TO_KNOWN};
        ELSE
            {ADD} SELECT hour, mcc_mnc, state, reason, own_part, sum(n) FROM (
                SELECT {group_of("added")}, 1 FROM added
                UNION ALL SELECT {group_of("removed")}, -1 FROM removed
            ) AS change (hour, mcc_mnc, state, reason, n)
            GROUP BY 1, 2, 3, 4 HAVING sum(n) <> 0
            {TO_KNOWN};
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER count_deliveries_on_insert AFTER INSERT ON deliveries
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_deliveries()
    """,
    """
    CREATE TRIGGER count_deliveries_on_update AFTER UPDATE ON deliveries
    REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_deliveries()
    """,
    """
    CREATE TRIGGER count_deliveries_on_delete AFTER DELETE ON deliveries
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION count_deliveries()
    """,
)


def _sqlite_add(row: str, n: int) -> str:
    """Add to the one part of a group: here nobody else writes."""
    return f"{ADD} VALUES ({group_of(row)}, 0, {n}) {TO_KNOWN};"


SQLITE_TRIGGERS = (
    f"""
    CREATE TRIGGER count_deliveries_on_insert AFTER INSERT ON deliveries
    BEGIN {_sqlite_add("new", 1)} END
    """,
    f"""
    CREATE TRIGGER count_deliveries_on_update AFTER UPDATE ON deliveries
    WHEN ({group_of("old")}) IS NOT ({group_of("new")})
    BEGIN {_sqlite_add("old", -1)} {_sqlite_add("new", 1)} END
    """,
    f"""
    CREATE TRIGGER count_deliveries_on_delete AFTER DELETE ON deliveries
    BEGIN {_sqlite_add("old", -1)} END
    """,
)
