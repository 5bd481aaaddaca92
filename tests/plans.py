"""The statements that code runs on deliveries and reports, and the databases' plans for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event

from app.reports import CHECK_PREFIX

Statement = tuple[str, Any]  # with its parameters

# The tests' tables are small: PostgreSQL is told of 100,000 rows a page, and of no values in them.
_TABLES = "('deliveries'::regclass, 'reports'::regclass)"
AS_WITH_MANY_ROWS = (
    f"UPDATE pg_class SET relpages = 1, reltuples = 100000 WHERE oid IN {_TABLES}",
    f"DELETE FROM pg_statistic WHERE starelid IN {_TABLES}",
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL enable_sort = off",
)


@contextmanager
def statements_on(*engines: Engine, with_checks: bool = False) -> Iterator[list[Statement]]:
    """The statements on deliveries and reports, as they are run.

    The periodic search for old checks may run beside a service's, and is left out.
    """
    statements: list[Statement] = []

    def note(
        _c: object, _d: object, statement: str, parameters: Any, _x: object, is_many: bool
    ) -> None:
        parameters = parameters[0] if is_many else parameters
        values = parameters.values() if isinstance(parameters, dict) else parameters
        words = {word.strip("(") for word in statement.split()}
        if words & {"deliveries", "reports"} and (with_checks or CHECK_PREFIX not in values):
            statements.append((statement, parameters))

    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


def plans_of(url: URL, statements: list[Statement]) -> Iterator[tuple[str, str]]:
    """Each statement with the database's plan for it with many rows."""
    engine = create_engine(url)
    with engine.connect() as connection:  # its transaction is rolled back
        how = "EXPLAIN QUERY PLAN "
        if connection.dialect.name == "postgresql":
            for prepare in AS_WITH_MANY_ROWS:
                connection.exec_driver_sql(prepare)
            how = "EXPLAIN "
        plans = [
            (statement, connection.exec_driver_sql(how + statement, parameters).all())
            for statement, parameters in statements
        ]
    engine.dispose()
    for statement, rows in plans:
        yield statement, "\n".join(str(row[-1]) for row in rows)


def reads_a_whole_table(plan: str) -> bool:
    lines = [line.strip() for line in plan.splitlines()]
    scanned = ("SCAN deliveries", "SCAN reports")
    on_sqlite = [line for line in lines if line in scanned]
    return bool(on_sqlite) or "Seq Scan on deliveries" in plan or "Seq Scan on reports" in plan
