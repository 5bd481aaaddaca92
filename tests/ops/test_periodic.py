"""Periodic work goes on through errors, rests in outages, and stops at once."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import URL, select
from sqlalchemy.exc import OperationalError

from app.ingest.outage import Outage
from app.ops import upkeep
from app.ops.periodic import Job, Periodic
from app.store.tables import delivery_counts
from tests.process import until
from tests.service import a_report, running_service

OFTEN = 0.001


@contextmanager
def running(*jobs: Job, is_away: bool = False) -> Iterator[Periodic]:
    outage = Outage(is_embedded=False, has_spool=False)
    if not is_away:
        outage.end()
    periodic = Periodic(jobs, outage)
    periodic.start()
    yield periodic
    periodic.stop()
    assert not periodic.is_running(timeout_s=5)


def test_each_job_is_done_at_once_and_again_and_again() -> None:
    done: list[str] = []
    often = Job("often", OFTEN, lambda _: done.append("often"))
    rarely = Job("rarely", 3600, lambda _: done.append("rarely"))

    with running(rarely, often):
        until(lambda: done.count("often") > 5)

    assert done.count("rarely") == 1


def test_an_error_is_logged_once_and_the_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    errors = [*[OSError("full")] * 3, *[ValueError("odd")] * 2, None, OSError("full"), None]
    done = threading.Event()

    def fail(_stopping: threading.Event) -> None:
        error = errors.pop(0) if errors else None
        if not errors:
            done.set()
        if error:
            raise error

    with caplog.at_level(logging.WARNING), running(Job("a-job", OFTEN, fail)):
        assert done.wait(5)

    said = [(record.getMessage(), record.__dict__.get("error")) for record in caplog.records]
    assert said == [
        ("periodic work failed", "OSError"),
        ("periodic work failed", "ValueError"),
        ("periodic work succeeds again", None),
        ("periodic work failed", "OSError"),
        ("periodic work succeeds again", None),
    ]


def test_an_error_says_nothing_of_rows(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()

    def fail(_stopping: threading.Event) -> None:
        done.set()
        raise OperationalError("SELECT", {}, ValueError("no secret: 6588888888"))

    with running(Job("a-job", 3600, fail)):
        assert done.wait(5)

    assert "Traceback" not in caplog.text


def test_nothing_is_done_in_an_outage() -> None:
    done: list[str] = []

    with running(Job("a-job", OFTEN, lambda _: done.append("x")), is_away=True):
        time.sleep(0.1)  # nothing signals that nothing happens

    assert done == []


def test_long_work_is_told_to_stop() -> None:
    begun = threading.Event()

    def work(stopping: threading.Event) -> None:
        begun.set()
        assert stopping.wait(60)

    started = time.monotonic()
    with running(Job("long", 3600, work)):
        assert begun.wait(5)

    assert time.monotonic() - started < 5


def test_without_jobs_there_is_no_thread() -> None:
    with running() as periodic:
        assert not periodic.is_running(timeout_s=0)


def test_a_service_adds_up_its_statistics(
    database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "COMPACTION_INTERVAL_S", OFTEN)
    with running_service(database_url) as service:
        for number in range(5):
            service.call_back(a_report(messageid=f"m-{number}"))
        read = service.app.parts.database.read

        def added_up() -> int:
            with read.connect() as connection:
                return sum(connection.scalars(select(delivery_counts.c.deliveries)))

        until(lambda: added_up() == 5)
