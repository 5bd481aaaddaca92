"""`make demo`: the service and the simulator together for a minute, and the figures.

The service runs as its users run it, in a temporary folder, sends through the simulator, and asks
it for the reports that never came. The simulator also reports on messages that it makes up, and at
the end checks what the service shows.
"""

import argparse
import math
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx2
from rich.console import Console
from rich.table import Table

from simulator.check import Source, check
from simulator.ledger import LedgerError
from simulator.options import Check, OptionError

PROGRAM: Final = Path(sys.executable).with_name("paasoo-dlr")
HOST: Final = "127.0.0.1"
START_WITHIN_S: Final = 30.0
END_WITHIN_S: Final = 10.0
SETTLE_S: Final = 10.0

REPORTS_A_SECOND: Final = 100
SENDS_A_SECOND: Final = 5.0
MANY: Final = 1_000_000  # more messages than the time allows
RECIPIENTS: Final = (1, 1, 1, 2, 5)
NEVER_CALLED_BACK: Final = 12  # the weight among all behaviours
ODD_PULLS: Final = 0.1
# The service asks after so long, or sooner in a short demonstration.
ASK_AFTER_S: Final = 6.0
MOST_GROUPS: Final = 12

console = Console(highlight=False, soft_wrap=True)


class DemoError(Exception):
    """A part of the demonstration doesn't work."""


def main() -> int:
    """Run the demonstration; 0 if all agree, 1 if there is a difference, 2 if it can't run."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=_seconds, default=60.0, help="time to send messages for")
    seconds = parser.parse_args().seconds
    try:
        with tempfile.TemporaryDirectory(prefix="paasoo-dlr-demo-") as folder:
            return demonstrate(Path(folder), seconds)
    except (DemoError, LedgerError, OptionError, httpx2.HTTPError) as error:
        print(f"demo: {error or type(error).__name__}", file=sys.stderr)  # noqa: T201 - the output
        return 2
    except KeyboardInterrupt:
        return 130


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds < math.inf:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return seconds


def demonstrate(folder: Path, seconds: float) -> int:
    """Start both, send, wait for the check, and print the figures. Return the exit code."""
    demo = Demo.new(folder, seconds)
    console.print(f"The service, with a database that lasts as long as this: {demo.service}/docs")
    console.print(f"Its key, for `Authorization: Bearer`: {demo.api_key}")
    console.print(f"The simulator, in PaaSoo's place: {demo.provider}/json")
    console.print(f"For {seconds:g} s it makes up messages, and the service sends some through it.")
    with (
        running(folder, demo.serve(), demo.service_settings(), demo.log) as program,
        httpx2.Client(
            base_url=demo.service,
            headers={"Authorization": f"Bearer {demo.api_key}"},
            timeout=30,
            trust_env=False,
        ) as http,
    ):
        await_answer(program, f"{demo.service}/readyz", demo.log)
        with running(folder, demo.simulate(), demo.simulator_settings(), None) as simulator:
            # Not the send API: it would count a refused send.
            await_answer(simulator, f"http://{HOST}:{demo.provider_port}/", None)
            # The simulator ends by itself: leave time to ask about the last send.
            deadline = time.monotonic() + seconds * 0.9 - demo.ask_after_s
            sent = send_until(deadline, http, simulator)
            code = simulator.wait()
        console.print(f"{sent:,} of the messages went through POST /v1/messages.")
        explain(demo, http)
        summarise(http)
    return code


@dataclass(frozen=True, slots=True)
class Demo:
    """Addresses and secrets of a service and a simulator that know each other."""

    folder: Path
    seconds: float
    port: int
    provider_port: int
    token: str
    api_key: str
    account_key: str
    account_secret: str

    @classmethod
    def new(cls, folder: Path, seconds: float) -> Self:
        port, provider_port = free_ports(2)
        token, api_key, key, secret = (secrets.token_urlsafe(24) for _ in range(4))
        return cls(folder, seconds, port, provider_port, token, api_key, key, secret)

    @property
    def service(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def provider(self) -> str:
        return f"http://{HOST}:{self.provider_port}"

    @property
    def ask_after_s(self) -> float:
        return min(ASK_AFTER_S, self.seconds / 5)

    @property
    def log(self) -> Path:
        return self.folder / "service.log"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    def serve(self) -> list[str]:
        return ["serve", "--host", HOST, "--port", str(self.port)]

    def service_settings(self) -> dict[str, str]:
        return {
            "DLR_DATA_DIR": str(self.folder / "data"),
            "DLR_CALLBACK_TOKENS": self.token,
            "DLR_API_KEYS": f"demo:admin:{self.api_key}",
            "DLR_PAASOO_URL": f"{self.provider}/json",
            "DLR_PAASOO_REPORT_URL": f"{self.provider}/dlr",
            "DLR_PULL_AFTER_MINUTES": str(self.ask_after_s / 60),
            "DLR_PAASOO_KEY": self.account_key,
            "DLR_PAASOO_SECRET": self.account_secret,
        }

    def simulate(self) -> list[str]:
        options = {
            "--listen": f"{HOST}:{self.provider_port}",
            "--messages": MANY,
            "--seconds": self.seconds,
            "--rate": REPORTS_A_SECOND,
            "--late-s": min(10.0, self.seconds),
            "--share": f"never-called-back={NEVER_CALLED_BACK}",
            "--odd-pulls": ODD_PULLS,
            "--ledger": self.ledger,
            "--api": self.service,
            "--settle-s": SETTLE_S,
        }
        words = [str(word) for option in options.items() for word in option]
        return ["simulate", "--check", *words]

    def simulator_settings(self) -> dict[str, str]:
        return {
            "DLR_SIMULATOR_CALLBACK": f"{self.service}/callback/paasoo/{self.token}",
            "DLR_SIMULATOR_KEY": self.api_key,
            "DLR_SIMULATOR_ACCOUNT_KEY": self.account_key,
            "DLR_SIMULATOR_ACCOUNT_SECRET": self.account_secret,
        }


def send_until(deadline: float, http: httpx2.Client, simulator: "subprocess.Popen[bytes]") -> int:
    """Send messages through the service at a steady pace, and return their number."""
    sent = 0
    started = time.monotonic()
    while time.monotonic() < deadline and simulator.poll() is None:
        recipients = RECIPIENTS[sent % len(RECIPIENTS)]
        message = {
            "to": [f"659{sent:05}{number:02}" for number in range(recipients)],
            "text": f"Your order {sent} is on its way",
            "reference": f"order {sent}",
        }
        answer = http.post(
            "/v1/messages", json=message, headers={"Idempotency-Key": f"order {sent}"}
        )
        if answer.status_code != 201:
            raise DemoError(f"a send is answered {answer.status_code}: {answer.text}")
        sent += 1
        time.sleep(max(0, started + sent / SENDS_A_SECOND - time.monotonic()))
    return sent


def explain(demo: Demo, http: httpx2.Client) -> None:
    """Say how the reports came, and which deliveries the tables leave out."""
    verdict = check(Check(demo.service, demo.api_key, settle_s=0), demo.ledger)
    called_back, asked = verdict.sent.stored, verdict.known[Source.ASKED]
    total = stats(http, "state")["totals"]["total"]
    unknown = verdict.sent.deliveries - total
    console.print(
        f"Reports: {called_back:,} came by callback, {asked:,} only when the service asked."
    )
    console.print(
        f"Deliveries: {verdict.sent.deliveries:,} by the simulator's count, less {unknown:,} that"
        " the service can't know of\n"
        f"(made up, and without a valid report): {total:,} in the tables.\n"
    )


def summarise(http: httpx2.Client) -> None:
    """Print the service's statistics as tables."""
    states = stats(http, "state,reason")
    table = Table("state", "reason", title="By state and reason")
    table.add_column("deliveries", justify="right")
    for group in most_first(states["groups"]):
        table.add_row(group["state"], group["reason"] or "", f"{group['total']:,}")
    console.print(table)

    networks = most_first(stats(http, "network")["groups"])
    table = Table("network", title="By network", caption=_left_out(networks))
    for heading in ("deliveries", "delivered", "rate of the final"):
        table.add_column(heading, justify="right")
    for group in networks[:MOST_GROUPS]:
        table.add_row(group["network"] or "not known", *_figures(group))
    table.add_section()
    table.add_row("all", *_figures(states["totals"]))
    console.print(table)


def stats(http: httpx2.Client, keys: str) -> Any:
    answer = http.get("/v1/stats", params={"group_by": keys})
    if answer.status_code != 200:
        raise DemoError(f"the statistics are answered {answer.status_code}")
    return answer.json()


def most_first(groups: list[Any]) -> list[Any]:
    return sorted(groups, key=lambda group: -group["total"])


def _figures(group: Any) -> tuple[str, str, str]:
    rate = group["delivery_rate"]
    delivered = group["by_state"].get("delivered", 0)
    return f"{group['total']:,}", f"{delivered:,}", "" if rate is None else f"{rate:.1%}"


def _left_out(networks: list[Any]) -> str | None:
    left_out = len(networks) - MOST_GROUPS
    return f"and {left_out} more" if left_out > 0 else None


@contextmanager
def running(
    folder: Path, words: list[str], settings: dict[str, str], log: Path | None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `paasoo-dlr` beside the block and end it after; `log` takes its output."""
    # The machine's own settings must not count: no DLR_ variable, and no `.env`.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DLR_")}
    with open(log or os.devnull, "wb") as file:  # noqa: PTH123 - devnull is no path of ours
        output = file if log else None
        process = subprocess.Popen(  # noqa: S603 - our own program
            [PROGRAM, *words], cwd=folder, env=kept | settings, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_answer(process: "subprocess.Popen[bytes]", url: str, log: Path | None) -> None:
    """Wait until an address answers anything."""
    deadline = time.monotonic() + START_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx2.get(url, trust_env=False)
        except httpx2.TransportError:
            time.sleep(0.05)
        else:
            return
    told = f": {log.read_text(errors='replace').strip()}" if log else ""
    raise DemoError(f"a part doesn't start{told}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    listeners = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


if __name__ == "__main__":
    sys.exit(main())
