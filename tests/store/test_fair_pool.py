"""The one connection that writes to SQLite goes to the thread that has waited longest."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.store.engine import open_database
from app.store.fair_pool import FairLock
from tests.process import until


def test_turns_come_in_the_order_of_asking() -> None:
    turns, order = FairLock(), list[int]()
    assert turns.take(0)

    def ask(number: int) -> None:
        assert turns.take(10)
        order.append(number)
        turns.pass_on()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads, start=1):
        thread.start()
        until(lambda number=number: len(turns._waiting) == number)  # type: ignore[misc]  # noqa: SLF001
    turns.pass_on()
    for thread in threads:
        thread.join()

    assert order == list(range(5))


def test_a_thread_that_gave_up_waiting_is_passed_over() -> None:
    turns = FairLock()
    assert turns.take(0)

    assert not turns.take(0.01)
    turns.pass_on()

    assert turns.take(0)


def test_a_thread_that_always_writes_keeps_no_other_from_writing(tmp_path: Path) -> None:
    database = open_database(URL.create("sqlite", database=str(tmp_path / "x.db")))
    stop, turns_taken = threading.Event(), 0

    def write_on() -> None:
        while not stop.is_set():
            with database.write.begin() as connection:
                connection.execute(text("CREATE TABLE IF NOT EXISTS x (y INTEGER)"))

    with ThreadPoolExecutor() as threads:
        busy = [threads.submit(write_on) for _ in range(2)]
        try:
            for _ in range(50):
                with database.write.begin() as connection:
                    connection.execute(text("CREATE TABLE IF NOT EXISTS x (y INTEGER)"))
                turns_taken += 1
        finally:
            stop.set()
        for one in busy:
            one.result()
    database.close()

    assert turns_taken == 50


def test_a_turn_that_does_not_come_is_an_error_of_the_pool(tmp_path: Path) -> None:
    database = open_database(URL.create("sqlite", database=str(tmp_path / "x.db")))
    pool = database.write.pool
    pool._timeout = 0.01  # type: ignore[attr-defined]  # noqa: SLF001

    with database.write.begin(), pytest.raises(PoolTimeoutError):
        database.write.connect()
    with database.write.begin() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    database.close()
