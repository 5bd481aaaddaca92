"""Periodic work: a thread that runs jobs every few seconds, or every hour."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from app.ingest.outage import Outage
from app.store import faults
from app.telemetry import RepeatedFault

log = logging.getLogger(__name__)

# During an outage, the pause between looks.
AWAY_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """Work to repeat `every_s` seconds after its last end.

    `run` gets the event that tells it to stop: a long job checks it in between.
    """

    name: str
    every_s: float
    run: Callable[[threading.Event], object]
    first_after_s: float = 0


class Periodic:
    """Runs the jobs in turn, each soon after the start and then periodically, but in no outage."""

    def __init__(self, jobs: Sequence[Job], outage: Outage) -> None:
        self._jobs = jobs
        self._outage = outage
        now = time.monotonic()
        self._due_at = {job.name: now + job.first_after_s for job in jobs}
        self._ended: set[str] = set()
        self._faults = {job.name: _fault_of(job) for job in jobs}
        self._stopping = threading.Event()
        # A daemon thread, so that a hanging database doesn't keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="periodic", daemon=True)

    def start(self) -> None:
        if self._jobs:
            self._thread.start()

    def stop(self) -> None:
        """End after the current transaction. `is_running` waits for it."""
        self._stopping.set()

    def is_running(self, timeout_s: float) -> bool:
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return self._thread.is_alive()

    def has_run(self, name: str) -> bool:
        """True once the job of this name has ended."""
        return name in self._ended

    def _work(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            if self._outage.is_on:
                pause_s = AWAY_PAUSE_S
                continue
            for job in self._jobs:
                if self._due_at[job.name] <= time.monotonic() and not self._stopping.is_set():
                    self._run(job)
                    self._ended.add(job.name)
                    self._due_at[job.name] = time.monotonic() + job.every_s
            pause_s = max(0.0, min(self._due_at.values()) - time.monotonic())

    def _run(self, job: Job) -> None:
        try:
            job.run(self._stopping)
        except Exception as error:  # noqa: BLE001 - the next run may well succeed
            self._faults[job.name].note(faults.description(error))
        else:
            self._faults[job.name].end()


def _fault_of(job: Job) -> RepeatedFault:
    return RepeatedFault(log, "periodic work failed", "periodic work succeeds again", job=job.name)
