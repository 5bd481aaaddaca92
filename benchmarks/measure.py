"""One contender under one load: the figures, and the check that nothing acknowledged was lost."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from sqlalchemy import URL, create_engine, select

from app.store.tables import deliveries
from benchmarks import load
from benchmarks.baselines import NaiveDelivery
from benchmarks.contenders import Running
from benchmarks.load import Load, Outcome
from benchmarks.stage import Cores, Stage

WARM_UP_S: Final = 1
IDS_A_QUERY: Final = 1000

# The columns in which acknowledged ids must be found afterwards.
OUR_IDS: Final = deliveries.c.message_id
NAIVE_IDS: Final = NaiveDelivery.message_id


class LostReportsError(Exception):
    """An acknowledged report is not in the database, or a report was refused."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run of a contender; None if the row has no such figure."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None = None  # a request
    database_us: float | None = None  # PostgreSQL's CPU time a request
    wal_bytes: float | None = None  # PostgreSQL's, a request
    peak_mib: float | None = None
    commit_ms: float | None = None  # the mean, of ours
    refused: int = 0
    missing: int = 0  # ids that were sent and not stored; their requests were not acknowledged


@dataclass(frozen=True, slots=True)
class Run:
    """A load and its result."""

    load: Load
    outcome: Outcome


def under_load(  # noqa: PLR0913, PLR0917 - most are left out by most callers
    running: Running,
    loads: tuple[Load, Load],
    connections: int,
    seconds: int,
    warm_up_s: int = WARM_UP_S,
    stage: Stage | None = None,
) -> tuple[Figures, list[Run]]:
    """Warm up with one load, then measure the other; with a stage, what PostgreSQL uses, too.

    The runs are for the check, after a graceful end of the server.
    """
    warm_up, measured = loads
    warm = load.run_wrk(warm_up, running.address, connections, warm_up_s)
    commits, commits_s = running.commits()
    before = stage.database_use() if stage else None
    cpu_s = running.cpu_s()
    outcome = load.run_wrk(measured, running.address, connections, seconds)
    cpu_s = running.cpu_s() - cpu_s
    after = stage.database_use() if stage else None
    more_commits, more_commits_s = running.commits()
    commits, commits_s = more_commits - commits, more_commits_s - commits_s
    figures = Figures(
        per_s=outcome.per_s,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        cpu_us=cpu_s / max(outcome.acknowledged, 1) * 1e6,
        peak_mib=running.peak_mib(),
        commit_ms=commits_s / commits * 1e3 if commits else None,
        refused=outcome.refused,
    )
    if before and after:
        figures = replace(
            figures,
            database_us=(after.cpu_s - before.cpu_s) / max(outcome.acknowledged, 1) * 1e6,
            wal_bytes=(after.wal_bytes - before.wal_bytes) / max(outcome.acknowledged, 1),
        )
    return figures, [Run(warm_up, warm), Run(measured, outcome)]


def pgbench(database: URL, run: int, seconds: int, cores: Cores) -> Figures:
    """The same insert, one per transaction, directly on PostgreSQL."""
    load.run_pgbench(database, run, WARM_UP_S, cores)
    outcome, cpu_s = load.run_pgbench(database, run + 1, seconds, cores)
    return Figures(
        per_s=outcome.per_s,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        cpu_us=cpu_s / outcome.acknowledged * 1e6,
    )


def require_all_taken(runs: Iterable[Run]) -> None:
    """Raise `LostReportsError` if a report was refused: wrk would count a fast answer."""
    for run in runs:
        if run.outcome.refused:
            raise LostReportsError(f"{run.outcome.refused} of {run.outcome.sent} were refused")


def missing_of(runs: Iterable[Run], database: URL, ids: Any, connections: int) -> int:
    """Count the ids that were sent and aren't stored. Raises `LostReportsError` if too many.

    wrk doesn't tell which requests were answered, but the ids are numbered. No more may be missing
    than were refused or unanswered, and at most one per connection may be unanswered, as wrk closes
    each with a request under way. Usually none is missing, because an admitted report is stored
    even if its caller goes: this proves that every acknowledged id is stored. Otherwise it proves
    that at least as many are stored as were acknowledged.
    """
    engine = create_engine(database)
    missing = 0
    with engine.connect() as connection:
        for run in runs:
            sent = load.new_ids(run.load, run.outcome.sent)
            lost = 0
            while some := list(islice(sent, IDS_A_QUERY)):
                found = connection.execute(select(ids).where(ids.in_(some))).scalars()
                lost += len(set(some) - set(found))
            unanswered = run.outcome.unanswered
            not_acknowledged = unanswered + run.outcome.refused
            if lost > not_acknowledged:
                raise LostReportsError(
                    f"{lost} of {run.outcome.sent} reports are not stored, "
                    f"and only {not_acknowledged} were not acknowledged"
                )
            if unanswered > connections + run.outcome.broken:
                raise LostReportsError(f"{unanswered} requests unanswered: wrk doesn't add up")
            missing += lost
    engine.dispose()
    return missing
