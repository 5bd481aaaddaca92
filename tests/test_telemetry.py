"""The log: no fault of a line stops its caller."""

import json
import logging
import os
import time
from collections.abc import Iterator

import pytest

from app.telemetry import JsonFormatter, LogQueue
from tests.process import run_python, until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def a_queue(descriptor: int) -> LogQueue:
    queue = LogQueue(descriptor)
    queue.setFormatter(JsonFormatter())
    return queue


def a_record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("tests", logging.INFO, "", 0, message, arguments, None)


def test_a_line_that_can_not_be_formatted_is_no_fault_of_its_caller(
    pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = pipe
    queue = a_queue(writing)

    queue.handle(a_record("%d", "not a number"))
    queue.handle(a_record("goes on"))
    queue.close()

    assert json.loads(os.read(reading, 65536))["message"] == "goes on"
    assert "Logging error" in capsys.readouterr().err


def test_a_full_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    queue = a_queue(writing)
    long = "x" * 200_000  # more than a pipe holds

    before = time.process_time()
    queue.handle(a_record(long))
    waited_until = time.monotonic() + 1  # time in which a busy loop would show
    until(lambda: time.monotonic() > waited_until)
    used = time.process_time() - before
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(reading, 65536)
    queue.close()

    assert json.loads(line)["message"] == long
    assert used < 0.5


LOGS_IN_A_SIGNAL_HANDLER = """
import logging, signal
from app.telemetry import set_up_logging

handled = 0

def handle(*_):
    global handled
    handled += 1
    logging.info("in the handler")

set_up_logging("info")
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
while handled < 2000:
    logging.info("outside")
signal.setitimer(signal.ITIMER_REAL, 0)
print("goes on")
"""


def test_a_signal_handler_may_log_while_its_thread_logs() -> None:
    ended = run_python("-c", LOGS_IN_A_SIGNAL_HANDLER)

    assert ended.stdout == "goes on\n"
