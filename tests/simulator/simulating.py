"""The simulator as its users run it: a process of its own, beside a running service."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from tempfile import TemporaryFile
from typing import IO, Any

import httpx2

from tests.process import (
    END_WITHIN_S,
    START_WITHIN_S,
    STARTER,
    Ended,
    Started,
    client_of,
    end_of,
    free_port,
    run,
    until,
)
from tests.service import ADMIN_KEY, TOKEN, Service

ACCOUNT = {"key": "simulator", "secret": "simulator"}
QUICK = ("--rate", "5000", "--delay-s", "0.05", "--late-s", "0.2")


def callback_of(service: Service) -> str:
    return f"{service.http.base_url}/callback/paasoo/{TOKEN}"


def account_on(port: int, **changes: Any) -> dict[str, Any]:
    """The settings of a service that sends through a simulator on this port."""
    return {
        "paasoo_url": f"http://127.0.0.1:{port}/json",
        "paasoo_key": ACCOUNT["key"],
        "paasoo_secret": ACCOUNT["secret"],
        **changes,
    }


def asking_on(port: int, **changes: Any) -> dict[str, Any]:
    """The same for a service that asks it for missing reports, soon."""
    address = f"http://127.0.0.1:{port}/dlr"
    soon = {"paasoo_report_url": address, "pull_after_minutes": 0.002, "pulls_a_second": 100}
    return account_on(port, **soon, **changes)


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
    """The events of a ledger, of these kinds, but for one that is just being written."""
    whole, _, _ = Path(ledger).read_text().rpartition("\n")
    lines = map(json.loads, whole.splitlines())
    return [event for event in lines if event["event"] in kinds]


@dataclass(frozen=True, slots=True)
class SendApi:
    """A simulator that serves its send API, and the ledger that it writes."""

    process: Started
    output: tuple[IO[bytes], IO[bytes]]
    http: httpx2.Client
    ledger: Path

    def send(self, **changes: object) -> Any:
        """Send to one recipient, with changes; None leaves a parameter out. Returns the JSON."""
        values = {**ACCOUNT, "to": "6588888888", "text": "Hello world", **changes}
        given = {name: str(value) for name, value in values.items() if value is not None}
        response = self.http.get("/json", params=given)
        assert response.status_code == 200
        return response.json()

    def ask(self, message_id: str, **changes: object) -> httpx2.Response:
        """Ask for the reports of a message."""
        values = {**ACCOUNT, "messageid": message_id, **changes}
        given = {name: str(value) for name, value in values.items() if value is not None}
        return self.http.get("/dlr", params=given, timeout=0.5)

    def events(self, *kinds: str) -> list[Any]:
        return events(self.ledger, *kinds)

    def end(self) -> Ended:
        self.process.send_signal(SIGTERM)
        return end_of(self.process, *self.output, END_WITHIN_S)


@contextmanager
def send_api(callback: str, *options: str, port: int | None = None) -> Iterator[SendApi]:
    """Run the simulator with a send API until the block ends, or something ends it before."""
    port = port or free_port()
    ledger = Path("send-api.jsonl").resolve()
    where = ("--callback", callback, "--listen", f"127.0.0.1:{port}", "--ledger", str(ledger))
    with started(*where, *QUICK, *options) as (process, output), client_of(port) as http:
        until(lambda: _answers(process, http), START_WITHIN_S)
        yield SendApi(process, output, http, ledger)


@dataclass(frozen=True, slots=True)
class Receiver:
    """A simulator that takes pushes, and the ledger that it writes."""

    process: Started
    output: tuple[IO[bytes], IO[bytes]]
    http: httpx2.Client
    ledger: Path

    def events(self, *kinds: str) -> list[Any]:
        return events(self.ledger, *kinds)

    def end(self) -> Ended:
        self.process.send_signal(SIGTERM)
        return self.ended()

    def ended(self, within_s: float = END_WITHIN_S) -> Ended:
        """Wait for the end, which something else has begun."""
        return end_of(self.process, *self.output, within_s)


@contextmanager
def receiver(*options: str, port: int | None = None, **environment: str) -> Iterator[Receiver]:
    """Run the simulator as a receiver of pushes until the block ends, or it ends before."""
    port = port or free_port()
    ledger = Path("pushes.jsonl").resolve()
    where = ("--receive", f"127.0.0.1:{port}", "--ledger", str(ledger))
    with (
        started(*where, *options, **environment) as (process, output),
        client_of(port) as http,
    ):
        until(lambda: _answers(process, http), START_WITHIN_S)
        yield Receiver(process, output, http, ledger)


@contextmanager
def started(
    *options: str, **environment: str
) -> Iterator[tuple[Started, tuple[IO[bytes], IO[bytes]]]]:
    """Start the simulator, and kill it when the block ends. Its output goes to two files."""
    with TemporaryFile() as stdout, TemporaryFile() as stderr:
        process = STARTER.start("app.cli", ("simulate", *options), environment, stdout, stderr)
        try:
            yield process, (stdout, stderr)
        finally:
            process.kill()
            process.wait()


def _answers(process: Started, http: httpx2.Client) -> bool:
    """True once it answers that there is nothing to get at its root."""
    assert process.poll() is None, "it ended at once"
    try:
        return http.get("/").status_code in {404, 405}
    except httpx2.TransportError:
        return False
