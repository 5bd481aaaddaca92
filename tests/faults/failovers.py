"""Failovers under load, one after the other: nothing is lost that the standby had, or skipped."""

import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
from sqlalchemy import select

from app.query.schemas import delivery_of
from app.store.engine import open_database
from app.store.read import SHOWN
from tests.databases import migrate
from tests.faults.ledger import Ledger, Load
from tests.faults.programs import AUTHORIZED, is_ready, port_of, settings_for, spool_is_empty
from tests.process import serving, until
from tests.replication import Pair, replicated

REPORTS_BETWEEN = 500
# The standby of an asynchronous primary is held up for so long before the crash.
LAG_S = 0.5
BACK_WITHIN_S = 60
IN_STEP = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"


class FeedReader(threading.Thread):
    """Reads the feed to its end, over every outage, and remembers each state it was shown."""

    def __init__(self, http: httpx2.Client) -> None:
        super().__init__(daemon=True)
        self.shown: set[tuple[str, ...]] = set()
        self._http = http
        self._finishing = threading.Event()

    def finish(self) -> None:
        self._finishing.set()
        self.join()

    def run(self) -> None:
        parameters: dict[str, Any] = {"limit": 1000, "wait": 1}
        while True:
            was_finishing = self._finishing.is_set()
            answer = self._http.get("/v1/changes", params=parameters, headers=AUTHORIZED)
            if answer.status_code != 200:
                time.sleep(0.05)  # as `Retry-After` asks, only sooner
                continue
            page = answer.json()
            parameters["cursor"] = page["next_cursor"]
            self.shown |= {state_of(item) for item in page["items"]}
            if not page["items"] and was_finishing:
                return


def state_of(delivery: Any) -> tuple[str, ...]:
    fields = ("messageid", "to", "state", "status", "statuscode", "errcode", "network")
    return tuple(str(delivery[field]) for field in fields)


def fail_over_often(
    seed: int, times: int, synchronous: bool, on_progress: Callable[[], object] = lambda: None
) -> str:
    """Fail over so many times. Returns the summary in one line; raises `AssertionError`."""
    ledger = Ledger(seed)
    perhaps_lost: set[int] = set()
    with replicated() as pair, tempfile.TemporaryDirectory() as folder:
        pair.primary.execute("CREATE DATABASE dlr")
        url = pair.url("dlr")
        migrate(url)
        settings = settings_for(url, DLR_DATA_DIR=folder, DLR_LOG_LEVEL="warning")
        with serving(**settings) as program:
            reader = FeedReader(program.http)
            load = Load(ledger, [port_of(program)])
            reader.start()
            load.start()
            try:
                for number in range(times):
                    if number:
                        pair.stand_by()
                    _fail_over(pair, ledger, perhaps_lost, synchronous)
                    until(lambda: is_ready(program), BACK_WITHIN_S)
                    on_progress()
            finally:
                load.stop()
            until(lambda: spool_is_empty(program) and is_ready(program), BACK_WITHIN_S)
            reader.finish()
        ledger.check(url, perhaps_lost)
        lost = len(ledger.lost(url))
        database = open_database(url, hurried=False)
        with database.read.connect() as connection:
            rows = connection.execute(select(*SHOWN)).all()
        database.close()
    unseen = {state_of(delivery_of(row)) for row in rows} - reader.shown
    assert not unseen, f"seed {seed}: {len(unseen)} deliveries were never shown: {list(unseen)[:3]}"
    kind = "synchronous" if synchronous else "asynchronous"
    return (
        f"{times} {kind} failovers: {len(ledger.acknowledged)} reports acknowledged, lost {lost}"
        f" (not yet at the standby: at most {len(perhaps_lost)}), the feed skipped nothing of"
        f" {len(rows)} deliveries"
    )


def _fail_over(pair: Pair, ledger: Ledger, perhaps_lost: set[int], synchronous: bool) -> None:
    """Crash the primary, promote its standby, and move the address there."""
    primary, standby = pair.primary, pair.standby
    if synchronous:
        primary.configure(synchronous_standby_names="*")
        until(lambda: bool(primary.execute(IN_STEP)))
    answered = ledger.answers.total()
    until(ledger.has_answers(answered + REPORTS_BETWEEN), BACK_WITHIN_S)
    if synchronous:
        primary.crash()
    else:
        before = set(ledger.acknowledged)
        processes = standby.processes()
        for process in processes:
            process.suspend()
        time.sleep(LAG_S)  # the fault itself
        primary.crash()
        perhaps_lost |= ledger.acknowledged - before
        for process in processes:
            process.resume()
    standby.promote()
    pair.move_to(standby)
    pair.primary = standby
