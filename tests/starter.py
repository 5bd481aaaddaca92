"""Starts programs without loading them each time: this process has loaded them, and forks.

Loading takes a second of CPU, and the tests start programs hundreds of times. A forked program is a
process of its own all the same, with its own environment, folder and output alone. It ends as any
other, threads and exit handlers included, but leaves freeing its memory to the kernel: Python would
touch, and so copy, all that programs share, which takes longer than most commands.

It takes requests on the socket whose descriptor is its argument: what to run, as JSON, with the
descriptors for the replies, for stdout and for stderr. The replies are two integers: the process
id, and in the end the exit code.
"""

import atexit
import gc
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

REPLY_BYTES: Final = 4
# A command loads these when it runs, or a library of its does.
LOADED: Final = (
    "alembic.command",
    "alembic.config",
    "anyio._backends._asyncio",
    "app.commands.credentials",
    "app.commands.export",
    "app.commands.migrate",
    "app.commands.purge",
    "app.commands.quarantine",
    "app.commands.rebuild",
    "app.commands.serve",
    "encodings.idna",
    "fastapi.telemetry._runtime",
    "simulator.command",
    "tests.faults.doomed",
    "typer.rich_utils",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
)

# The exit code of the program that this process has become, once its `main` has ended.
_ended_with: int | None = None


def start_on_request(requests: socket.socket) -> None:
    """Start a program for each request, until the other side closes the socket.

    A program runs on from here, too: return, so that it ends as any other.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 65536, 3)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            _run_and_report(json.loads(message), *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        _collect_the_dead()


def _collect_the_dead() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run_and_report(given: dict[str, Any], reply: int, stdout: int, stderr: int) -> None:
    """Fork once more: the child is the program, and its parent waits to report its end."""
    pid = os.fork()
    if pid == 0:
        os.close(reply)
        _run(given, stdout, stderr)
        return
    os.close(stdout)
    os.close(stderr)
    with suppress(BrokenPipeError):  # the test is over
        os.write(reply, pid.to_bytes(REPLY_BYTES, signed=True))
        _, status = os.waitpid(pid, 0)
        os.write(reply, os.waitstatus_to_exitcode(status).to_bytes(REPLY_BYTES, signed=True))
    os._exit(0)


def _run(given: dict[str, Any], stdout: int, stderr: int) -> None:
    for descriptor, standard in ((stdout, 1), (stderr, 2)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.chdir(given["folder"])
    os.environ.clear()
    os.environ.update(given["environment"])
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, say, has it ignored
    sys.argv = given["arguments"]
    _run_main(given["module"])


def _run_main(module: str) -> None:
    global _ended_with  # noqa: PLW0603 - for `_end_at_once`, which gets no argument
    try:
        import_module(module).main()
    except SystemExit as ended:
        _ended_with = ended.code if isinstance(ended.code, int) else None
        raise
    _ended_with = 0


def _end_at_once() -> None:
    """End without freeing the memory, unless Python has an error to report."""
    if _ended_with is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_ended_with)


def analyse_endpoints() -> None:
    """Do it for all, too: FastAPI does so when it first needs the routes."""
    from fastapi.routing import iter_route_contexts  # noqa: PLC0415 - `main` loads what it needs

    from app.console import routes as console  # noqa: PLC0415
    from app.main import ROUTES  # noqa: PLC0415

    for _ in iter_route_contexts([*ROUTES, *console.ROUTES]):
        pass


def main() -> None:
    atexit.register(_end_at_once)  # the first to be registered is the last to be called
    for module in LOADED:
        import_module(module)
    analyse_endpoints()
    gc.collect()
    gc.freeze()  # so that no collection touches, and copies, what all programs share
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        start_on_request(requests)
