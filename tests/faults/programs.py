"""Settings for a running program, questions to it, and load on it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import httpx2
import psutil
from sqlalchemy import URL

from tests.faults.ledger import Ledger, Load
from tests.process import (
    END_WITHIN_S,
    START_WITHIN_S,
    STARTER,
    Serving,
    Started,
    client_of,
    free_port,
    until,
)
from tests.service import ADMIN_KEY, READ_KEY, SEND_KEY, TOKEN, a_report
from tests.simulator.simulating import account_on

AUTHORIZED = {"Authorization": f"Bearer {READ_KEY}"}


def settings_for(url: URL, **changes: str) -> dict[str, str]:
    return {
        "DLR_DATABASE_URL": url.render_as_string(hide_password=False),
        "DLR_CALLBACK_TOKENS": TOKEN,
        "DLR_API_KEYS": f"reader:read:{READ_KEY}",
        "DLR_DRAIN_SECONDS": "0",
        **changes,
    }


def asking_at(port: int, after_s: float | None, a_second: int = 200) -> dict[str, str]:
    """The settings of a service that asks a simulator on this port; None: that doesn't ask."""
    account = {name.upper(): value for name, value in account_on(port).items()}
    asking = {
        "PAASOO_REPORT_URL": f"http://127.0.0.1:{port}/dlr",
        "PULL_AFTER_MINUTES": str((after_s or 0) / 60),
        "PULLS_A_SECOND": str(a_second),
    }
    settings = account if after_s is None else account | asking
    return {f"DLR_{name}": value for name, value in settings.items()}


class Replica:
    """A `serve` that may be killed and started again, always on one port."""

    def __init__(self, url: URL, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self._log = folder / f"serve-{self.port}.log"
        self._settings = settings_for(
            url,
            DLR_API_KEYS=f"reader:read:{READ_KEY},shop:send:{SEND_KEY},boss:admin:{ADMIN_KEY}",
            DLR_DATA_DIR=str(folder / f"data-{self.port}"),
            DLR_LOG_LEVEL="warning",
            **settings,
        )
        self._process: Started | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self._log.open("ab") as log:
            serve = ("serve", "--port", str(self.port))
            self._process = STARTER.start("app.cli", serve, self._settings, log, log)
        until(self._is_ready, START_WITHIN_S)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """End it gracefully, and wait."""
        assert self._process
        self._process.terminate()
        self._process.wait(END_WITHIN_S)

    def pause(self, seconds: float) -> None:
        """Stop it for a while, as a machine that hangs does."""
        assert self._process
        self._process.send_signal(SIGSTOP)
        time.sleep(seconds)  # the fault itself
        self._process.send_signal(SIGCONT)

    def cpu_s(self) -> float:
        """The CPU seconds that it has taken since its start."""
        assert self._process
        taken = psutil.Process(self._process.pid).cpu_times()
        return float(taken.user + taken.system)

    def _is_ready(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        try:
            with client_of(self.port) as http:
                return http.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False


def port_of(program: Serving) -> int:
    assert program.http.base_url.port is not None
    return program.http.base_url.port


def call_back(program: Serving, message_id: str) -> int:
    query = a_report(messageid=message_id)
    return program.http.get(f"/callback/paasoo/{TOKEN}?{query}").status_code


def is_found(program: Serving, message_id: str) -> bool:
    path = f"/v1/messages/{message_id}"
    return program.http.get(path, headers=AUTHORIZED).status_code == 200


def metrics_of(program: Serving) -> str:
    return program.http.get("/metrics", headers=AUTHORIZED).text


def spool_is_empty(program: Serving) -> bool:
    return "\ndlr_spool_waiting 0.0\n" in metrics_of(program)


def is_ready(program: Serving) -> bool:
    return program.http.get("/readyz").status_code == 200


def messages_of(program: Serving) -> list[str]:
    return [line["message"] for line in program.log_lines()]


def log_has(program: Serving, part: str) -> bool:
    return any(part in message for message in messages_of(program))


@contextmanager
def under_load(ledger: Ledger, program: Serving, a_second: float = 1_000) -> Iterator[None]:
    """Send reports throughout the block: every one that was acknowledged is checked later."""
    load = Load(ledger, [port_of(program)], a_second=a_second)
    load.start()
    try:
        until(lambda: ledger.answers.total() > 100)
        yield
    finally:
        load.stop()
