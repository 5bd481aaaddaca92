"""Triggers count into one table alone; what is counted by state is added up from its parts.

On SQLite keeping a second table cost a tenth of what recording a report takes. A replica of the
version before finds what it reads as a view, until it is restarted; its compaction fails meanwhile.
"""

from types import ModuleType

import sqlalchemy as sa
from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NAME = "delivery_counts"


def upgrade() -> None:
    drop_triggers()
    op.drop_table("state_counts")
    op.create_table(
        "state_totals",
        *earlier().key_columns(("hour", "state")),
        sa.Column("deliveries", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "state", name=op.f("pk_state_totals")),
        sqlite_with_rowid=False,
    )
    op.execute(f"""INSERT INTO state_totals (hour, state, deliveries)
        SELECT hour, state, sum(deliveries) FROM {NAME} WHERE part = 0 GROUP BY hour, state""")
    if not is_sqlite():
        op.execute(f"""CREATE VIEW state_counts AS
            SELECT hour, state, 0 AS part, sum(deliveries) AS deliveries FROM {NAME}
            GROUP BY hour, state""")
    create_triggers(triggers())


def downgrade() -> None:
    drop_triggers()
    op.drop_table("state_totals")
    if not is_sqlite():
        op.execute("DROP VIEW state_counts")
    op.create_table(
        "state_counts",
        *earlier().key_columns(("hour", "state")),
        sa.Column(
            "part",
            sa.BigInteger(),
            autoincrement=False,
            comment="0, or the transaction that added it",
        ),
        sa.Column(
            "deliveries", sa.BigInteger(), nullable=False, comment="may be negative in a part"
        ),
        sa.PrimaryKeyConstraint("hour", "state", "part", name=op.f("pk_state_counts")),
        sqlite_with_rowid=False,
    )
    unmerged = sa.text("part <> 0")
    op.create_index(
        "ix_state_counts_part",
        "state_counts",
        ["part"],
        postgresql_where=unmerged,
        sqlite_where=unmerged,
    )
    op.execute(f"""INSERT INTO state_counts (hour, state, part, deliveries)
        SELECT hour, state, 0, sum(deliveries) FROM {NAME} GROUP BY hour, state""")
    if not is_sqlite():
        op.execute("""ALTER TABLE state_counts SET (
            autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)""")
    create_triggers(earlier().SQLITE_TRIGGERS if is_sqlite() else earlier().POSTGRESQL_TRIGGERS)


def is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def earlier() -> ModuleType:
    """The migration that made the tables."""
    return context.script.get_revision("0002").module


def drop_triggers() -> None:
    on = "" if is_sqlite() else " ON deliveries"
    for event in ("insert", "update", "delete"):
        op.execute(f"DROP TRIGGER count_deliveries_on_{event}{on}")
    if not is_sqlite():
        op.execute("DROP FUNCTION count_deliveries")


def create_triggers(statements: tuple[str, ...]) -> None:
    for statement in statements:
        op.execute(sa.text(statement.replace(":", "\\:")))


def triggers() -> tuple[str, ...]:
    """As they were, but for the one table."""
    group_of, add, to_known = earlier().group_of, earlier().add(NAME), earlier().to_known(NAME)
    if is_sqlite():
        plus, minus = (
            f"{add} VALUES ({group_of(NAME, row)}, 1, {n}) {to_known};"
            for row, n in (("new", 1), ("old", -1))
        )
        return (
            f"""
            CREATE TRIGGER count_deliveries_on_insert AFTER INSERT ON deliveries
            BEGIN {plus} END
            """,
            f"""
            CREATE TRIGGER count_deliveries_on_update AFTER UPDATE ON deliveries
            WHEN ({group_of(NAME, "old")}) IS NOT ({group_of(NAME, "new")})
            BEGIN {minus} {plus} END
            """,
            f"""
            CREATE TRIGGER count_deliveries_on_delete AFTER DELETE ON deliveries
            BEGIN {minus} END
            """,
        )
    count_of = earlier().count_of
    function = f"""
        CREATE FUNCTION count_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            own_part bigint := pg_current_xact_id()::text::bigint;
        BEGIN
            IF TG_OP = 'INSERT' THEN
                {add} {count_of(NAME, "added", "own_part")} {to_known};
            ELSIF TG_OP = 'DELETE' THEN
                {add} {count_of(NAME, "removed", "own_part", "-")} {to_known};
            ELSE
                {add} {earlier().difference(NAME)} {to_known};
            END IF;
            RETURN NULL;
        END $$
        """
    return (function, *earlier().POSTGRESQL_TRIGGERS[1:])
