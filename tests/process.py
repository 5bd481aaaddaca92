"""The program as its users run it: a process of its own, with exactly the given environment."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx2

PROGRAM = Path(sys.executable).with_name("paasoo-dlr")
ROOT = Path(__file__).parents[1]
START_WITHIN_S = 30
END_WITHIN_S = 10


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of a command."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Serving:
    """A running `serve`, an HTTP client for it, and the files that its output goes to."""

    process: subprocess.Popen[bytes]
    http: httpx2.Client
    stdout_file: Path
    stderr_file: Path

    @property
    def stdout(self) -> str:
        return self.stdout_file.read_text()

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    def log_lines(self) -> list[Any]:
        """The log so far; each line must be JSON."""
        return [json.loads(line) for line in self.stderr.splitlines()]

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit code. Raises `TimeoutExpired` if it doesn't end."""
        self.process.send_signal(SIGTERM)
        return self.process.wait(END_WITHIN_S)

    def kill(self) -> int:
        """Send SIGKILL, which the process can't handle."""
        self.process.kill()
        return self.process.wait(END_WITHIN_S)


def run(*arguments: str, **environment: str) -> Ended:
    """Run a command to its end, with only these variables."""
    return _run(PROGRAM, *arguments, environment=environment)


def run_python(*arguments: str, **environment: str) -> Ended:
    """Run this Python, where `tests` can be imported, with only these variables."""
    return _run(sys.executable, *arguments, environment={"PYTHONPATH": str(ROOT), **environment})


def _run(*command: str | Path, environment: dict[str, str]) -> Ended:
    done = subprocess.run(
        command,
        env=_only(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@contextmanager
def serving(*before: str, **environment: str) -> Iterator[Serving]:
    """Run `serve` on a free port until the block ends, or something ends it before.

    `before` is a command that runs it, with that command's options.
    """
    port = free_port()
    run_id = f"serve-{time.monotonic_ns()}"
    stdout_file, stderr_file = (Path(f"{run_id}.{end}").resolve() for end in ("out", "err"))
    with stdout_file.open("wb") as stdout, stderr_file.open("wb") as stderr:
        process = subprocess.Popen(
            [*before, PROGRAM, "serve", "--port", str(port)],
            env=_only(environment),
            stdout=stdout,
            stderr=stderr,
        )
    try:
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False
        ) as http:
            program = Serving(process, http, stdout_file, stderr_file)
            until(lambda: _lives(program), START_WITHIN_S)
            yield program
    finally:
        process.kill()
        process.wait()


def until(holds: Callable[[], bool], within_s: float = 10) -> None:
    """Check again and again until the condition holds. Fail at the deadline."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _lives(program: Serving) -> bool:
    assert program.process.poll() is None, program.stderr
    try:
        return program.http.get("/livez").status_code == 200
    except httpx2.ConnectError:
        return False


def _only(environment: dict[str, str]) -> dict[str, str]:
    return {"PATH": os.defpath, **environment}
