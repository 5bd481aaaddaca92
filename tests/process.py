"""The program as its users run it: a process of its own, with exactly the given environment."""

import atexit
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import randbelow
from signal import SIGKILL, SIGTERM
from subprocess import TimeoutExpired
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, Any, Final

import httpx2

from tests.starter import REPLY_BYTES

PROGRAM = Path(sys.executable).with_name("paasoo-dlr")
ROOT = Path(__file__).parents[1]
START_WITHIN_S = 30
END_WITHIN_S = 10
RUN_WITHIN_S = 60
# A command that runs the program: it loads it anew, as its users do.
AFRESH: Final = "/usr/bin/env"
# Not `-m`, which programs would show as their name.
STARTER_CODE: Final = "from tests.starter import main; main()"
# Without it each client loads all certificates of the machine: that takes longer than its requests.
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of a command."""

    code: int
    stdout: str
    stderr: str

    @property
    def errors(self) -> list[str]:
        """The lines of stderr, but for the first, if it says which database was used."""
        lines = self.stderr.splitlines()
        return lines[1:] if self.stderr.startswith("database: ") else lines


class Started:
    """A process that the starter has forked, with what tests need of `subprocess.Popen`."""

    def __init__(self, replies: socket.socket) -> None:
        self.returncode: int | None = None
        self._replies = replies
        self.pid = self._next_reply()

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        with suppress(TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end, and return the exit code. Raises `TimeoutExpired`."""
        if self.returncode is None:
            self._replies.settimeout(timeout_s)
            try:
                self.returncode = self._next_reply()
            except (TimeoutError, BlockingIOError):
                raise TimeoutExpired("the program", timeout_s or 0) from None
            self._replies.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(SIGTERM)

    def kill(self) -> None:
        self.send_signal(SIGKILL)

    def _next_reply(self) -> int:
        reply = self._replies.recv(REPLY_BYTES)
        assert reply, "the starter has died"
        return int.from_bytes(reply, signed=True)


class Starter:
    """The process in `starter.py`. One is enough: it starts with the first request."""

    def __init__(self) -> None:
        self._requests: socket.socket | None = None
        self._one_at_a_time = Lock()

    def start(
        self, module: str, arguments: Sequence[str], environment: dict[str, str], *output: IO[bytes]
    ) -> Started:
        """Run a module's `main` with only these variables, and with files for stdout and stderr."""
        request = {
            "module": module,
            "arguments": [PROGRAM.name, *arguments],
            "environment": _only(environment),
            "folder": str(Path.cwd()),
        }
        ours, theirs = socket.socketpair()
        with theirs, self._one_at_a_time:
            if self._requests is None:
                self._requests = self._new()
            descriptors = [theirs.fileno(), *(file.fileno() for file in output)]
            socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
            return Started(ours)

    @staticmethod
    def _new() -> socket.socket:
        requests, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", STARTER_CODE, str(theirs.fileno())],
                env=_only({}),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(process.wait)
        atexit.register(requests.close)  # called first, it ends the process
        return requests


STARTER = Starter()


@dataclass(frozen=True, slots=True)
class Serving:
    """A running `serve`, an HTTP client for it, and the files that its output goes to."""

    process: Started | subprocess.Popen[bytes]
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

    def whole_log(self) -> list[Any]:
        """End the program, and return its log: a thread of its own writes it."""
        self.terminate()
        return self.log_lines()

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
    return run_module("app.cli", *arguments, **environment)


def run_module(module: str, *arguments: str, **environment: str) -> Ended:
    """Run another module's `main` in the same way."""
    with TemporaryFile() as stdout, TemporaryFile() as stderr:
        process = STARTER.start(module, arguments, environment, stdout, stderr)
        try:
            return end_of(process, stdout, stderr, RUN_WITHIN_S)
        finally:
            process.kill()


def end_of(process: Started, stdout: IO[bytes], stderr: IO[bytes], within_s: float) -> Ended:
    """Wait for the end of a process that writes to these files. Raises `TimeoutExpired`."""
    code = process.wait(within_s)
    for file in (stdout, stderr):
        file.seek(0)
    return Ended(code, stdout.read().decode(), stderr.read().decode())


def run_afresh(*arguments: str, **environment: str) -> Ended:
    """Run a command to its end as its users do: it loads all of the program."""
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
        timeout=RUN_WITHIN_S,
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
    arguments = ("serve", "--port", str(port))
    process: Started | subprocess.Popen[bytes]
    with stdout_file.open("wb") as stdout, stderr_file.open("wb") as stderr:
        if before:
            process = subprocess.Popen(
                [*before, PROGRAM, *arguments],
                env=_only(environment),
                stdout=stdout,
                stderr=stderr,
            )
        else:
            process = STARTER.start("app.cli", arguments, environment, stdout, stderr)
    try:
        with client_of(port) as http:
            program = Serving(process, http, stdout_file, stderr_file)
            until(lambda: _lives(program), START_WITHIN_S)
            yield program
    finally:
        process.kill()
        process.wait()


def client_of(port: int, timeout_s: float = 30) -> httpx2.Client:
    """A client for what listens there."""
    return httpx2.Client(
        base_url=f"http://127.0.0.1:{port}", timeout=timeout_s, trust_env=False, verify=NO_TLS
    )


def until(holds: Callable[[], bool], within_s: float = 10) -> None:
    """Check until the condition holds, soon and then ever less often. Fail at the deadline."""
    deadline, pause_s = time.monotonic() + within_s, 0.01
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, 0.1)  # most conditions take a request


def free_port() -> int:
    """A port that nobody listens on, of those that no system gives away by itself.

    So it stays free while the server there ends and starts again.
    """
    while True:
        port = 10_000 + randbelow(22_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
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
