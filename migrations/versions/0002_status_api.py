"""What the status API asks: indexes for its filters, the change feed, and counts by hour.

On SQLite the tables become ordinary ones, with a rowid: their secondary indexes are smaller so,
and a commit writes fewer pages.
"""

from collections.abc import Callable
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

COUNTS = {
    "delivery_counts": ("hour", "mcc_mnc", "state", "reason"),
    "state_counts": ("hour", "state"),
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
    for name, keys in COUNTS.items():
        op.create_table(
            name,
            *key_columns(keys),
            sa.Column(
                "part",
                sa.BigInteger(),
                autoincrement=False,
                comment="0, or the transaction that added it",
            ),
            sa.Column(
                "deliveries", sa.BigInteger(), nullable=False, comment="may be negative in a part"
            ),
            sa.PrimaryKeyConstraint(*keys, "part", name=op.f(f"pk_{name}")),
            sqlite_with_rowid=False,
        )
        unmerged = sa.text("part <> 0")
        op.create_index(
            f"ix_{name}_part", name, ["part"], postgresql_where=unmerged, sqlite_where=unmerged
        )
        if not is_sqlite:
            # Its rows come and go all the time: vacuumed by their number, not by their share.
            op.execute(f"""ALTER TABLE {name} SET (
                autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)""")
    for statement in SQLITE_TRIGGERS if is_sqlite else POSTGRESQL_TRIGGERS:
        op.execute(sa.text(statement.replace(":", "\\:")))
    for name in COUNTS:
        op.execute(f"{add(name)} {count_of(name, 'deliveries', '0')}")


def downgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for event in ("insert", "update", "delete"):
        on = "" if is_sqlite else " ON deliveries"
        op.execute(f"DROP TRIGGER count_deliveries_on_{event}{on}")
    if not is_sqlite:
        op.execute("DROP FUNCTION count_deliveries")
    for name in COUNTS:
        op.drop_table(name)
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


def key_columns(keys: tuple[str, ...]) -> list[sa.Column[Any]]:
    columns: list[sa.Column[Any]] = [
        sa.Column("hour", sa.BigInteger(), autoincrement=False, comment="since 1970 UTC"),
        sa.Column("mcc_mnc", sa.Text(), comment="empty where it is not known"),
        sa.Column("state", sa.String(length=16)),
        sa.Column("reason", sa.String(length=32), comment="empty where there is none"),
    ]
    return [column for column in columns if column.name in keys]


def group_of(name: str, row: str) -> str:
    """The keys of a delivery in a table of counts, by the hour of its last report or of sending."""
    key_of = {
        "hour": f"""CASE WHEN {row}.last_received_at > 0 THEN {row}.last_received_at
            ELSE coalesce({row}.submitted_at, 0) END / 3600000000""",
        "mcc_mnc": f"coalesce({row}.mcc_mnc, '')",
        "state": f"{row}.state",
        "reason": f"coalesce({row}.reason, '')",
    }
    return ", ".join(key_of[key] for key in COUNTS[name])


def positions(name: str) -> str:
    return ", ".join(str(position) for position, _ in enumerate(COUNTS[name], start=1))


def add(name: str) -> str:
    return f"INSERT INTO {name} ({', '.join(COUNTS[name])}, part, deliveries)"


def to_known(name: str) -> str:
    return f"""ON CONFLICT ({", ".join(COUNTS[name])}, part)
        DO UPDATE SET deliveries = {name}.deliveries + excluded.deliveries"""


def count_of(name: str, rows: str, part: str, sign: str = "") -> str:
    return f"""SELECT {group_of(name, rows)}, {part}, {sign}count(*)
        FROM {rows} GROUP BY {positions(name)}"""


def difference(name: str) -> str:
    """What an update changes: nothing, where the rows stay in their groups."""
    keys = ", ".join(COUNTS[name])
    return f"""SELECT {keys}, own_part, sum(n) FROM (
            SELECT {group_of(name, "added")}, 1 FROM added
            UNION ALL SELECT {group_of(name, "removed")}, -1 FROM removed
        ) AS change ({keys}, n)
        GROUP BY {positions(name)} HAVING sum(n) <> 0"""


def for_each_table(added: Callable[[str], str]) -> str:
    return "\n".join(f"{add(name)} {added(name)} {to_known(name)};" for name in COUNTS)


# PostgreSQL: once a statement, and never waiting for another transaction.
POSTGRESQL_TRIGGERS = (
    f"""
    CREATE FUNCTION count_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        own_part bigint := pg_current_xact_id()::text::bigint;
    BEGIN
        IF TG_OP = 'INSERT' THEN
            {for_each_table(lambda name: count_of(name, "added", "own_part"))}
        ELSIF TG_OP = 'DELETE' THEN
            {for_each_table(lambda name: count_of(name, "removed", "own_part", "-"))}
        ELSE
            {for_each_table(difference)}
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
    return for_each_table(lambda name: f"VALUES ({group_of(name, row)}, 0, {n})")


SQLITE_TRIGGERS = (
    f"""
    CREATE TRIGGER count_deliveries_on_insert AFTER INSERT ON deliveries
    BEGIN {_sqlite_add("new", 1)} END
    """,
    f"""
    CREATE TRIGGER count_deliveries_on_update AFTER UPDATE ON deliveries
    WHEN ({group_of("delivery_counts", "old")}) IS NOT ({group_of("delivery_counts", "new")})
    BEGIN {_sqlite_add("old", -1)} {_sqlite_add("new", 1)} END
    """,
    f"""
    CREATE TRIGGER count_deliveries_on_delete AFTER DELETE ON deliveries
    BEGIN {_sqlite_add("old", -1)} END
    """,
)
