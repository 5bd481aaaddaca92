"""The simulator as its users run it: a process of its own, beside a running service."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx2

from tests.process import END_WITHIN_S, PROGRAM, START_WITHIN_S, Ended, free_port, run, until
from tests.service import ADMIN_KEY, TOKEN, Service

ACCOUNT = {"key": "simulator", "secret": "simulator"}
QUICK = ("--rate", "5000", "--delay-s", "0.05", "--late-s", "0.2")


def callback_of(service: Service) -> str:
    return f"{service.http.base_url}/callback/paasoo/{TOKEN}"


def simulate(service: Service, *options: str, **environment: str) -> Ended:
    """Report to a service until the run ends."""
    return run("simulate", "--callback", callback_of(service), *QUICK, *options, **environment)


def check_of(service: Service, key: str = ADMIN_KEY) -> tuple[str, ...]:
    return ("--check", "--api", str(service.http.base_url), "--key", key)


def only(*behaviours: str) -> tuple[str, ...]:
    """The options for these behaviours and no other."""
    given = ["all=0", *(f"{name}=1" for name in behaviours)]
    return tuple(word for item in given for word in ("--share", item))


def events(ledger: str | Path, *kinds: str) -> list[Any]:
    """The events of a ledger, of these kinds."""
    lines = map(json.loads, Path(ledger).read_text().splitlines())
    return [event for event in lines if event["event"] in kinds]


@dataclass(frozen=True, slots=True)
class SendApi:
    """A simulator that serves its send API, and the ledger that it writes."""

    process: subprocess.Popen[str]
    http: httpx2.Client
    ledger: Path

    def send(self, **changes: object) -> Any:
        """Send to one recipient, with changes; None leaves a parameter out. Returns the JSON."""
        values = {**ACCOUNT, "to": "6588888888", "text": "Hello world", **changes}
        given = {name: str(value) for name, value in values.items() if value is not None}
        response = self.http.get("/json", params=given)
        assert response.status_code == 200
        return response.json()

    def events(self, *kinds: str) -> list[Any]:
        return events(self.ledger, *kinds)

    def end(self) -> Ended:
        self.process.send_signal(SIGTERM)
        stdout, stderr = self.process.communicate(timeout=END_WITHIN_S)
        return Ended(self.process.returncode, stdout, stderr)


@contextmanager
def send_api(callback: str, *options: str, port: int | None = None) -> Iterator[SendApi]:
    """Run the simulator with a send API until the block ends, or something ends it before."""
    port = port or free_port()
    ledger = Path("send-api.jsonl").resolve()
    where = ("--callback", callback, "--listen", f"127.0.0.1:{port}", "--ledger", str(ledger))
    with subprocess.Popen(
        [PROGRAM, "simulate", *where, *QUICK, *options],
        env={"PATH": os.defpath},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
                running = SendApi(process, http, ledger)
                until(lambda: _answers(running), START_WITHIN_S)
                yield running
        finally:
            process.kill()


def _answers(running: SendApi) -> bool:
    assert running.process.poll() is None, running.process.stderr
    try:
        return running.http.get("/").status_code == 404
    except httpx2.ConnectError:
        return False
