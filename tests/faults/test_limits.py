"""Full disks, locked files, overload, silent connections."""

import re
import socket
import sqlite3
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from sqlalchemy import URL

from tests.faults.ledger import Ledger, Load
from tests.faults.programs import (
    AUTHORIZED,
    call_back,
    is_ready,
    messages_of,
    metrics_of,
    port_of,
    settings_for,
    spool_is_empty,
)
from tests.postgres import StoppableServer
from tests.process import run, serving, until
from tests.service import READ_KEY, TOKEN, a_report

SECRETS = {"DLR_CALLBACK_TOKENS": TOKEN, "DLR_API_KEYS": f"reader:read:{READ_KEY}"}


def fill_up(filler: Path) -> None:
    with filler.open("wb", buffering=0) as opened:
        while True:
            opened.write(bytes(4096))


def test_a_full_disk_refuses_and_recovers_without_a_restart(
    seed: int, disk_for_a_database: Path
) -> None:
    ledger = Ledger(seed)
    filler = disk_for_a_database / "filler"
    with serving(DLR_DATA_DIR=str(disk_for_a_database), **SECRETS) as program:
        load = Load(ledger, [port_of(program)])
        load.start()
        until(lambda: ledger.answers[200] > 100)
        with pytest.raises(OSError, match="space"):
            fill_up(filler)
        until(lambda: ledger.answers[503] > 100, 30)
        filler.unlink()
        kept = ledger.answers[200]
        until(lambda: ledger.answers[200] > kept + 50)
        load.stop()

        assert call_back(program, "afterwards") == 200
        assert "the database takes no reports" in messages_of(program)
        assert "the database takes reports again" in messages_of(program)
    ledger.check(URL.create("sqlite", database=str(disk_for_a_database / "dlr.db")))


def test_a_disk_that_the_spool_has_filled_loses_nothing_and_is_freed(
    seed: int, disk_for_a_spool: Path, server: StoppableServer, server_database: URL
) -> None:
    ledger = Ledger(seed, padding=1000)
    settings = settings_for(server_database, DLR_DATA_DIR=str(disk_for_a_spool))
    with serving(**settings) as program:
        load = Load(ledger, [port_of(program)])
        load.start()
        until(lambda: ledger.answers[200] > 100)
        server.stop("immediate")
        until(lambda: ledger.answers[503] > 100, 60)
        server.start()
        until(lambda: spool_is_empty(program), 30)
        load.stop()
        until(lambda: spool_is_empty(program), 30)

        assert sum(file.stat().st_size for file in disk_for_a_spool.glob("spool-*")) < 1024**2
    ledger.check(server_database)


def test_readyz_recovers_from_a_failed_write_though_no_report_comes(tmp_path: Path) -> None:
    with serving(DLR_DATA_DIR=str(tmp_path), **SECRETS) as program:
        other = sqlite3.connect(tmp_path / "dlr.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert call_back(program, "while-locked") == 503
        assert not is_ready(program)
        other.rollback()
        other.close()

        until(lambda: is_ready(program))
        assert "\ndlr_database_up 1.0\n" in metrics_of(program)


def test_a_locked_file_refuses_and_recovers_without_a_restart(tmp_path: Path) -> None:
    with serving(DLR_DATA_DIR=str(tmp_path), **SECRETS) as program:
        other = sqlite3.connect(tmp_path / "dlr.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert call_back(program, "meanwhile") == 503
        other.execute("ROLLBACK")
        other.close()

        assert call_back(program, "afterwards") == 200
        assert messages_of(program).count("the database takes no reports") == 1
        assert program.http.get("/v1/messages/meanwhile", headers=AUTHORIZED).status_code == 404


def test_a_folder_that_is_not_writable_is_an_error_at_start(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")

    ended = run("serve", DLR_DATA_DIR=str(blocked), **SECRETS)

    assert ended.code == 2
    assert "DLR_DATA_DIR" in ended.stderr


@pytest.mark.timeout(180)
def test_overload_is_refused_in_bounded_memory_and_passes(seed: int, database_url: URL) -> None:
    ledger = Ledger(seed)
    address = database_url.render_as_string(hide_password=False)
    # A queue small enough for this machine's clients to fill.
    with serving(
        DLR_DATABASE_URL=address, DLR_QUEUE_LIMIT="20", DLR_LOG_LEVEL="warning", **SECRETS
    ) as program:
        memory = psutil.Process(program.process.pid).memory_info
        load = Load(ledger, [port_of(program)], connections=300)
        load.start()
        until(lambda: ledger.answers.total() > 3_000, 60)
        plateau = memory().rss
        until(lambda: ledger.answers.total() > 12_000, 120)
        grown = memory().rss - plateau
        load.stop()
        started = time.monotonic()
        assert call_back(program, "afterwards") == 200

        assert time.monotonic() - started < 5
        assert ledger.answers.keys() == {200, 503}, f"seed {seed}: {ledger.answers}"
        assert grown < 20 * 1024**2
    ledger.check(database_url)


def test_half_open_connections_keep_no_report_from_being_served(database_url: URL) -> None:
    address = database_url.render_as_string(hide_password=False)
    with serving(DLR_DATABASE_URL=address, **SECRETS) as program, ExitStack() as opened:
        for number in range(500):
            half_open = socket.create_connection(("127.0.0.1", port_of(program)))
            opened.enter_context(half_open)
            if number % 2:
                half_open.sendall(b"GET /callback/paasoo/" + TOKEN.encode() + b"?type=dlr")

        for number in range(50):
            assert call_back(program, f"m-{number}") == 200


def test_descriptors_for_the_disk_are_kept_back_from_connections() -> None:
    """A hard limit that the process can't raise, and more connections than that."""
    with serving("prlimit", "--nofile=400", **SECRETS) as program, ExitStack() as stack:
        port = program.http.base_url.port
        assert port is not None
        assert program.http.get("/livez").status_code == 200  # keeps its connection
        many = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(450)
        ]
        answered = [one.recv(15) for one in many[-100:]]

        assert set(answered) == {b"HTTP/1.1 503 Se"}
        for number in range(20):  # the disk is written as ever
            report = a_report(messageid=f"m{number}")
            assert program.http.get(f"/callback/paasoo/{TOKEN}?{report}").status_code == 200
        key = {"Authorization": f"Bearer {READ_KEY}"}
        metrics = program.http.get("/metrics", headers=key).text
        refused = re.findall(r"^dlr_connections_refused_total (\S+)", metrics, re.MULTILINE)
        assert float(refused[0]) >= 100
        told = [line for line in program.whole_log() if "connections refused" in line["message"]]
        assert len(told) == 1


def test_doctor_tells_of_a_disk_that_is_nearly_full(disk_for_a_spool: Path) -> None:
    ended = run("doctor", DLR_DATA_DIR=str(disk_for_a_spool), **SECRETS)

    assert ended.code == 1
    (line,) = (line for line in ended.stdout.splitlines() if line[9:].startswith("free space"))
    assert line.startswith("error ")
