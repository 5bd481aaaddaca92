"""Periodic work reads and writes by indexes: a whole table would hold up the writer for seconds."""

from sqlalchemy import URL

from app.callback.parse import parse
from app.reports import CHECK_PREFIX, TEST_NUMBER
from app.store import changes, checks, retention, submissions, write
from app.store.engine import open_database
from app.store.submissions import Submission
from tests.plans import plans_of, reads_a_whole_table, statements_on

TIES = {
    "ix_deliveries_never_reported": "last_received_at = 0",
    "ix_deliveries_never_changed": "changed_in = 0",
}


def test_upkeep_reads_no_whole_table(database_url: URL) -> None:
    database = open_database(database_url, hurried=False)
    raw = [f"type=dlr&messageid=m-{it}&to=6588888888&status=0" for it in range(3)]
    raw += [f"type=dlr&messageid={CHECK_PREFIX}1&to={TEST_NUMBER}&status=0"]
    raw += ["type=dlr&messageid=open&to=6588888888&status=0&statuscode=accepted"]
    with database.transaction() as connection:
        write.record(connection, [parse(it.encode(), 1) for it in raw])
        submissions.register(connection, Submission("sent", ["6588888888"], None, 1), 1)

    with statements_on(database.read, database.write, with_checks=True) as statements:
        with database.transaction() as connection:
            assert submissions.expire(connection, cutoff=2, now=3, limit=10) == 2
        with database.read.connect() as connection:
            assert retention.objection(connection, 2**40)
            changes.after(connection, changes.BEGINNING, 10)
        with database.transaction() as connection:
            assert checks.remove(connection, 2**50) == 1
        assert sum(it.deliveries for it in retention.purge(database, 2**40)) == 5

    assert [it for it, _ in statements if it.startswith("DELETE")]
    for statement, plan in plans_of(database_url, statements):
        assert not reads_a_whole_table(plan), statement + plan
        for index, ties in TIES.items():
            is_in_their_order = ties in statement and "ORDER BY" in statement
            assert (index in plan) == is_in_their_order, statement + plan
    database.close()
