"""What triggers count goes into a table of its own, which PostgreSQL only appends to.

A part of `delivery_counts` cost an entry in two indexes, a third of what a single report wrote to
PostgreSQL's log. A replica of the version before shows changes in its statistics once a new one has
added them up, some seconds later, and no source of the reports that a new one has stored: of
callbacks, that is left out from now on.
"""

from types import ModuleType

import sqlalchemy as sa
from alembic import context, op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

GROUP = "hour, mcc_mnc, state, reason"
ADD = f"INSERT INTO count_changes ({GROUP}, deliveries)"
TAKE_PARTS = f"WHERE part <> 0 RETURNING {GROUP}, deliveries"
INDEX = "ix_delivery_counts_part"
# No report is under way at the moment of the change.
ALONE = "LOCK TABLE deliveries IN SHARE ROW EXCLUSIVE MODE"


def upgrade() -> None:
    if is_sqlite():
        op.drop_index(INDEX, "delivery_counts")
    else:
        with op.get_context().autocommit_block():
            migration("0010").leave_transaction()
            op.drop_index(INDEX, if_exists=True, postgresql_concurrently=True)
        op.execute("SET LOCAL lock_timeout = '10s'")  # the block ended the transaction that had it
        op.execute(ALONE)
    op.create_table(
        "count_changes",
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("mcc_mnc", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column(
            "deliveries",
            sa.BigInteger(),
            nullable=False,
            comment="more, or fewer if negative",
        ),
        *([sa.PrimaryKeyConstraint(*GROUP.split(", "))] if is_sqlite() else []),
        sqlite_with_rowid=False,
    )
    if is_sqlite():
        migration("0004").drop_triggers()
        migration("0004").create_triggers(sqlite_triggers())
        op.execute(f"""{ADD} SELECT {GROUP}, sum(deliveries) FROM delivery_counts
            WHERE part <> 0 GROUP BY {GROUP}""")
        op.execute("DELETE FROM delivery_counts WHERE part <> 0")
        return
    op.execute("""ALTER TABLE count_changes SET (
        autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)""")
    op.execute(postgresql_function())
    op.execute(f"""WITH parts AS (DELETE FROM delivery_counts {TAKE_PARTS})
        {ADD} SELECT {GROUP}, deliveries FROM parts""")


def downgrade() -> None:
    op.execute("UPDATE reports SET source = 'callback' WHERE source = ''")
    if is_sqlite():
        migration("0004").drop_triggers()
        migration("0004").create_triggers(migration("0004").triggers())
    else:
        op.execute(ALONE)
        function, *_ = migration("0004").triggers()
        op.execute(function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute(f"""INSERT INTO delivery_counts ({GROUP}, part, deliveries)
        SELECT {GROUP}, 1, sum(deliveries) FROM count_changes GROUP BY {GROUP}""")
    op.drop_table("count_changes")
    is_part = sa.text("part <> 0")
    op.create_index(
        INDEX, "delivery_counts", ["part"], postgresql_where=is_part, sqlite_where=is_part
    )


def is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def migration(number: str) -> ModuleType:
    return context.script.get_revision(number).module


def group_of(row: str) -> str:
    group: str = migration("0002").group_of("delivery_counts", row)
    return group


def postgresql_function() -> str:
    return f"""
        CREATE OR REPLACE FUNCTION count_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                {ADD} SELECT {group_of("added")}, count(*) FROM added GROUP BY 1, 2, 3, 4;
            ELSIF TG_OP = 'DELETE' THEN
                {ADD} SELECT {group_of("removed")}, -count(*) FROM removed GROUP BY 1, 2, 3, 4;
            ELSE
                {ADD} SELECT {GROUP}, sum(n) FROM (
                    SELECT {group_of("added")}, 1 FROM added
                    UNION ALL SELECT {group_of("removed")}, -1 FROM removed
                ) AS change ({GROUP}, n)
                GROUP BY 1, 2, 3, 4 HAVING sum(n) <> 0;
            END IF;
            RETURN NULL;
        END $$
        """


def sqlite_triggers() -> tuple[str, ...]:
    plus, minus = (
        f"""{ADD} VALUES ({group_of(row)}, {n}) ON CONFLICT ({GROUP})
            DO UPDATE SET deliveries = count_changes.deliveries + excluded.deliveries;"""
        for row, n in (("new", 1), ("old", -1))
    )
    return (
        f"""
        CREATE TRIGGER count_deliveries_on_insert AFTER INSERT ON deliveries
        BEGIN {plus} END
        """,
        f"""
        CREATE TRIGGER count_deliveries_on_update AFTER UPDATE ON deliveries
        WHEN ({group_of("old")}) IS NOT ({group_of("new")})
        BEGIN {minus} {plus} END
        """,
        f"""
        CREATE TRIGGER count_deliveries_on_delete AFTER DELETE ON deliveries
        BEGIN {minus} END
        """,
    )
