"""A lock that lets reports through while it waits. Migration 0011 has one of its own."""

import time

from alembic import context, op
from alembic.util.exc import CommandError
from sqlalchemy.exc import OperationalError

# Reports queue behind a lock that waits, and give up after 1.5 s. An autovacuum gives way after
# `deadlock_timeout`, usually 1 s.
WITHIN = """
SELECT set_config('lock_timeout', least(setting::int + 200, 1400)::text, true)
    FROM pg_settings WHERE name = 'deadlock_timeout'
"""
TRIES = 12
PAUSE_S = 0.2
HOLDER = """
SELECT coalesce(backend_type, 'process') || ' ' || pid
        || coalesce(to_char(xact_start, '", in a transaction since" HH24:MI:SS'), '')
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE relation = to_regclass(%s) AND granted AND pid <> pg_backend_pid()
    ORDER BY xact_start LIMIT 1
"""


def lock(revision: str, table: str) -> None:
    """Let nobody read or write the table until the transaction ends. For PostgreSQL.

    It begins a transaction: a lock that an earlier migration took would let no report through.
    """
    with op.get_context().autocommit_block():
        pass
    connection = op.get_bind()
    progress = context.config.attributes.get("progress") or (lambda _: None)
    holder = None
    for _ in range(TRIES):
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(WITHIN)
                op.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        except OperationalError:
            found = connection.exec_driver_sql(HOLDER, (table,)).scalar()
            holder, known = found or "somebody", holder
            if holder != known:
                progress(f"migration {revision}: waits for {holder}")
            time.sleep(PAUSE_S)
        else:
            op.execute("SET LOCAL lock_timeout = '10s'")  # as `env.py` has it, for later ones
            return
    raise CommandError(
        f"migration {revision} gave up and changed nothing: `{table}` is held by {holder}; "
        "when that has ended, run `paasoo-dlr migrate` again"
    )
