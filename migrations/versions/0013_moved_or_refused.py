"""A report that a delivery holds is moved, or the statement that overwrites it fails.

On PostgreSQL a constraint sees a row that a missing trigger would have emptied; rows from such a
time are mended first. A first time that was deleted by hand stops no statement any more.
"""

from types import ModuleType

from alembic import context, op

from migrations.locking import lock

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

NAME = "ck_deliveries_only_report"
# `query` is NULL where the trigger has moved the report, and where none came. Without the trigger a
# further report or an expiry leaves a row that is neither.
IS_HELD_OR_MOVED = """(times_received IS NULL) = (query IS NULL)
    AND (times_received IS NULL OR status IS NOT NULL)"""
# Rows that are neither, from a time without the trigger.
MEND = f"""UPDATE deliveries SET times_received = NULL, source = NULL, query = NULL
    WHERE NOT ({IS_HELD_OR_MOVED})"""
IF_WHOLE = "IF old.status IS NOT NULL THEN"
FIRST = "coalesce(old.first_received_at, old.decided_at)"


def upgrade() -> None:
    if is_sqlite():
        op.execute("DROP TRIGGER move_only_report")
        (trigger,) = migration("0012").SQLITE
        op.execute(with_first(trigger))
        return
    function, _ = migration("0012").POSTGRESQL
    move = with_first(migration("0012").MOVE)
    op.execute(with_first(replacing(function)).replace(move, f"{IF_WHOLE} {move} END IF;"))
    op.execute(MEND)
    lock(revision, "deliveries")
    # Not validated: that would read all rows under the lock.
    op.execute(f"ALTER TABLE deliveries ADD CONSTRAINT {NAME} CHECK ({IS_HELD_OR_MOVED}) NOT VALID")


def downgrade() -> None:
    if is_sqlite():
        op.execute("DROP TRIGGER move_only_report")
        (trigger,) = migration("0012").SQLITE
        op.execute(trigger)
        return
    function, _ = migration("0012").POSTGRESQL
    lock(revision, "deliveries")
    op.execute(replacing(function))
    op.drop_constraint(NAME, "deliveries")


def with_first(statement: str) -> str:
    changed = statement.replace("old.first_received_at", FIRST)
    assert changed != statement
    return changed


def replacing(function: str) -> str:
    return function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")


def is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def migration(number: str) -> ModuleType:
    return context.script.get_revision(number).module
