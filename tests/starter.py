"""Starts programs without loading them each time: this process has loaded them, and forks.

Loading takes a second of CPU, and the tests start programs hundreds of times. A forked program is a
process of its own all the same, with its own environment, folder and output alone.

It takes requests on the socket whose descriptor is its argument: what to run, as JSON, with the
descriptors for the replies, for stdout and for stderr. The replies are two integers: the process
id, and in the end the exit code.
"""

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
# A command loads these when it runs.
LOADED: Final = (
    "alembic.command",
    "app.commands.credentials",
    "app.commands.export",
    "app.commands.migrate",
    "app.commands.purge",
    "app.commands.quarantine",
    "app.commands.rebuild",
    "app.commands.serve",
    "simulator.command",
    "tests.faults.doomed",
)


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
    import_module(given["module"]).main()


def main() -> None:
    for module in LOADED:
        import_module(module)
    gc.collect()
    gc.freeze()  # so that no collection touches, and copies, what all programs share
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        start_on_request(requests)
