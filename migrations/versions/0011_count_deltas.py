"""The triggers count into a table of their own, which PostgreSQL only appends to.

As a part of `delivery_counts`, with its key and an index, it was a quarter of what a single report
wrote to PostgreSQL's log. `delivery_counts` stays as it is for replicas of the version before.
Their statistics stand still until a new replica runs, and are then some seconds late. They show no
source of the callbacks that a new one has stored: that is left out from now on.
"""

import time
from types import ModuleType

import sqlalchemy as sa
from alembic import context, op
from alembic.util.exc import CommandError
from sqlalchemy.exc import OperationalError

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

GROUP = "hour, mcc_mnc, state, reason"
ADD = f"INSERT INTO count_deltas ({GROUP}, deliveries)"
# A service whose role doesn't own the tables may do with the new one what it may with the old.
GRANTS = """
DO $$
DECLARE given record;
BEGIN
    FOR given IN
        SELECT privilege_type AS privilege, coalesce(rolname, 'public') AS role
        FROM pg_class CROSS JOIN aclexplode(relacl) LEFT JOIN pg_roles ON pg_roles.oid = grantee
        WHERE pg_class.oid = 'delivery_counts'::regclass AND grantee <> relowner
    LOOP
        EXECUTE format(
            CASE given.role WHEN 'public' THEN 'GRANT %s ON count_deltas TO PUBLIC'
                ELSE 'GRANT %s ON count_deltas TO %I' END,
            given.privilege, given.role);
    END LOOP;
END $$
"""
# Reports queue behind a lock that waits, and give up after 1.5 s. An autovacuum gives way after
# `deadlock_timeout`, usually 1 s.
LOCK_WITHIN = """
SELECT set_config('lock_timeout', least(setting::int + 200, 1400)::text, true)
    FROM pg_settings WHERE name = 'deadlock_timeout'
"""
LOCK_TRIES = 12
LOCK_PAUSE_S = 0.2
HOLDER = """
SELECT coalesce(backend_type, 'process') || ' ' || pid
        || coalesce(to_char(xact_start, '", in a transaction since" HH24:MI:SS'), '')
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE relation = to_regclass('deliveries') AND granted AND pid <> pg_backend_pid()
        AND mode NOT IN ('AccessShareLock', 'RowShareLock')
    ORDER BY xact_start LIMIT 1
"""


def upgrade() -> None:
    if not is_sqlite():
        lock("deliveries")
    op.create_table(
        "count_deltas",
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
    op.execute("ALTER TABLE count_deltas REPLICA IDENTITY FULL")  # it has no key for a publication
    op.execute(sa.text(GRANTS.replace(":", "\\:")))
    op.execute(postgresql_function())
    op.execute(f"""WITH parts AS (
            DELETE FROM delivery_counts WHERE part <> 0 RETURNING {GROUP}, deliveries
        ) {ADD} SELECT {GROUP}, deliveries FROM parts""")


def downgrade() -> None:
    if is_sqlite():
        migration("0004").drop_triggers()
        migration("0004").create_triggers(migration("0004").triggers())
    else:
        lock("deliveries, count_deltas")
        function, *_ = migration("0004").triggers()
        op.execute(function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute(f"""INSERT INTO delivery_counts ({GROUP}, part, deliveries)
        SELECT {GROUP}, 1, sum(deliveries) FROM count_deltas GROUP BY {GROUP}""")
    op.drop_table("count_deltas")
    op.execute("UPDATE reports SET source = 'callback' WHERE source = ''")


def lock(tables: str) -> None:
    """Let no report be under way until the transaction ends."""
    connection = op.get_bind()
    progress = context.config.attributes.get("progress") or (lambda _: None)
    holder = None
    for _ in range(LOCK_TRIES):
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(LOCK_WITHIN)
                op.execute(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE")
        except OperationalError:
            holder, known = connection.exec_driver_sql(HOLDER).scalar() or "a writer", holder
            if holder != known:
                progress(f"migration {revision}: waits for {holder}")
            time.sleep(LOCK_PAUSE_S)
        else:
            op.execute("SET LOCAL lock_timeout = '10s'")  # as `env.py` has it, for later ones
            return
    raise CommandError(
        f"migration {revision} gave up and changed nothing: `deliveries` is held by {holder}; "
        "when that has ended, run `paasoo-dlr migrate` again"
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
            DO UPDATE SET deliveries = count_deltas.deliveries + excluded.deliveries;"""
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
