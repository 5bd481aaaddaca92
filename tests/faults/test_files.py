"""Files taken away under the process: nothing is acknowledged into a file that no path leads to."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from stat import S_IMODE
from typing import Final

import pytest
from sqlalchemy import URL

from tests.faults.programs import (
    AUTHORIZED,
    call_back,
    is_ready,
    metrics_of,
    settings_for,
    spool_is_empty,
)
from tests.faults.test_limits import SECRETS, fill_up
from tests.postgres import StoppableServer
from tests.process import Serving, run, serving, until
from tests.service import READ_KEY, a_report


def delete(file: Path) -> None:
    file.unlink()


def delete_all(file: Path) -> None:
    for each in file.parent.glob(f"{file.name}*"):
        each.unlink()


def move(file: Path) -> None:
    file.rename(file.with_suffix(".moved"))


def replace(file: Path) -> None:
    shutil.copy(file, file.with_suffix(".copy"))
    file.with_suffix(".copy").rename(file)


def delete_the_log(file: Path) -> None:
    Path(f"{file}-wal").unlink()


def copy_over(file: Path) -> None:
    file.write_bytes(b"")  # as `cp` begins


TAKEN_AWAY = [delete, delete_all, move, replace, delete_the_log, copy_over]


@pytest.mark.parametrize("take_away", TAKEN_AWAY)
def test_nothing_is_acknowledged_into_a_database_that_was_taken_away(
    tmp_path: Path, take_away: Callable[[Path], None]
) -> None:
    with serving(DLR_DATA_DIR=str(tmp_path), **SECRETS) as program:
        assert call_back(program, "before") == 200
        take_away(tmp_path / "dlr.db")

        assert not is_ready(program)
        assert [call_back(program, f"after-{number}") for number in range(5)] == [503] * 5
        assert not is_ready(program)
        said = [line for line in program.whole_log() if "takes no reports" in line["message"]]
        # Each reason once: a connection that opens meanwhile makes a new log, so that a log that
        # was moved becomes one that was replaced.
        reasons = [line["error"] for line in said]
        assert 1 <= len(reasons) == len(set(reasons))
        assert all("dlr.db" in reason for reason in reasons)


def test_a_database_that_is_put_back_is_used_again(tmp_path: Path) -> None:
    file = tmp_path / "dlr.db"
    with serving(DLR_DATA_DIR=str(tmp_path), **SECRETS) as program:
        assert call_back(program, "before") == 200
        move(file)
        assert call_back(program, "meanwhile") == 503
        file.with_suffix(".moved").rename(file)

        assert call_back(program, "afterwards") == 200
        assert is_ready(program)


def opened(file: Path) -> closing[sqlite3.Connection]:
    """The database as an operator's shell has it, in autocommit."""
    return closing(sqlite3.connect(file, isolation_level=None, timeout=10))


def test_a_database_that_was_overwritten_is_not_written_to_again(tmp_path: Path) -> None:
    file, copy = tmp_path / "dlr.db", tmp_path / "copy.db"
    with serving(DLR_DATA_DIR=str(tmp_path), **SECRETS) as program:
        with opened(file) as source, opened(copy) as target:
            source.backup(target)
        for number in range(120):  # more than fit into free pages: the file must grow
            assert call_back(program, f"m-{number}") == 200
        with opened(file) as shell:
            shell.execute("PRAGMA wal_checkpoint").fetchall()
        assert call_back(program, "last") == 200
        file.write_bytes(copy.read_bytes())
        assert not is_ready(program)
        with opened(file) as shell:  # as the service's own would, after some more reports
            shell.execute("PRAGMA wal_checkpoint").fetchall()
            assert file.stat().st_size > copy.stat().st_size
            before = [Path(f"{file}{end}").read_bytes() for end in ("", "-wal")]

            assert [call_back(program, f"after-{number}") for number in range(5)] == [503] * 5
            assert not is_ready(program)
        program.terminate()
        assert [Path(f"{file}{end}").read_bytes() for end in ("", "-wal")] == before


def test_a_database_may_be_vacuumed_meanwhile(tmp_path: Path) -> None:
    file = tmp_path / "dlr.db"
    with serving(DLR_DATA_DIR=str(tmp_path), **SECRETS) as program:
        for number in range(100):
            assert call_back(program, f"m-{number}") == 200
        with opened(file) as shell:
            shell.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            assert call_back(program, "then") == 200
            before = file.stat().st_size
            shell.execute("DELETE FROM deliveries")
            shell.execute("VACUUM")
            shell.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            assert file.stat().st_size < before

        assert is_ready(program)
        assert call_back(program, "after") == 200
        with opened(file) as shell:
            shell.execute("VACUUM")
            shell.execute("PRAGMA wal_checkpoint").fetchall()
        assert call_back(program, "in the end".replace(" ", "-")) == 200
        assert is_ready(program)


@pytest.mark.parametrize("take_away", [delete_all, move])
def test_nothing_is_acknowledged_into_a_spool_that_was_taken_away(
    server: StoppableServer,
    server_database: URL,
    tmp_path: Path,
    take_away: Callable[[Path], None],
) -> None:
    settings = settings_for(server_database, DLR_DATA_DIR=str(tmp_path))
    with serving(**settings) as program:
        server.stop("immediate")
        assert call_back(program, "in the spool".replace(" ", "-")) == 200
        take_away(tmp_path / "spool-0.db")

        assert [call_back(program, f"after-{number}") for number in range(5)] == [503] * 5
        checks = program.http.get("/readyz").json()["checks"]
        assert checks["spool"] != "ok"


@pytest.mark.parametrize("take_away", [delete_all, move, replace])
def test_nothing_is_acknowledged_into_a_spool_that_was_taken_away_before_its_first_use(
    server: StoppableServer,
    server_database: URL,
    tmp_path: Path,
    take_away: Callable[[Path], None],
) -> None:
    settings = settings_for(server_database, DLR_DATA_DIR=str(tmp_path))
    with serving(**settings) as program:
        take_away(tmp_path / "spool-0.db")
        server.stop("immediate")

        assert [call_back(program, f"m-{number}") for number in range(5)] == [503] * 5
        assert program.http.get("/readyz").json()["checks"]["spool"] != "ok"


def test_a_database_is_watched_before_its_first_report(tmp_path: Path) -> None:
    settings = {"DLR_DATA_DIR": str(tmp_path), "DLR_RETENTION_DAYS": "0", **SECRETS}
    with serving(**settings) as program:
        until(lambda: Path(tmp_path / "dlr.db-wal").exists())
        delete_all(tmp_path / "dlr.db")

        assert [call_back(program, f"m-{number}") for number in range(5)] == [503] * 5


def test_with_a_full_disk_it_is_not_ready_until_a_write_succeeds(
    disk_for_a_database: Path,
) -> None:
    filler = disk_for_a_database / "filler"
    with serving(DLR_DATA_DIR=str(disk_for_a_database), **SECRETS) as program:
        assert call_back(program, "before") == 200
        assert is_ready(program)
        with pytest.raises(OSError, match="space"):
            fill_up(filler)
        until(lambda: call_back(program, "x" * 100) == 503)
        assert not is_ready(program)
        filler.unlink()

        assert call_back(program, "afterwards") == 200
        assert is_ready(program)


def damage(file: Path, first_page: int = 2) -> None:
    """Overwrite pages in the middle of a SQLite file."""
    with sqlite3.connect(file) as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(file.read_bytes())
    pages = len(content) // 4096
    for page in range(first_page, pages, 7):
        content[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    file.write_bytes(content)


def test_what_can_be_read_of_a_damaged_spool_is_recovered(
    server: StoppableServer, server_database: URL, tmp_path: Path
) -> None:
    settings = settings_for(server_database, DLR_DATA_DIR=str(tmp_path))
    spool = tmp_path / "spool-0.db"
    with serving(**settings) as program:
        server.stop("immediate")
        for number in range(400):
            assert call_back(program, f"m-{number}") == 200
        program.kill()
    server.start()
    damage(spool)

    with serving(**settings) as program:
        until(lambda: program.http.get("/readyz").json()["checks"]["spool"] != "ok")
        detail = program.http.get("/readyz").json()["detail"]
        assert "spool-0.db is damaged" in detail
        assert "\ndlr_spool_damaged 1.0\n" in metrics_of(program)
        assert call_back(program, "takes reports all the same") == 400
        assert call_back(program, "takes-reports") == 200
        done = run("spool", "recover", str(spool), **settings)
        assert done.code == 0, done.stderr
        recovered = int(done.stdout.split()[1])
        assert 200 < recovered < 400
        until(lambda: is_ready(program), 30)
        until(lambda: _found(program) == recovered, 30)
    assert not spool.exists() or list(tmp_path.glob("*.damaged"))


# Each damages the query of a row as a disk may: in SQLite's eyes the file is whole.
DAMAGED_QUERIES = {
    "not UTF-8": "CAST(x'747970653dff' || CAST(query AS BLOB) AS TEXT)",
    "another type": "CAST(query AS BLOB)",
    "a NUL": "CAST(CAST(query AS BLOB) || x'00' AS TEXT)",
    "a number": "17",
    "an answer of PaaSoo's": "' m-5 {\"to\":\"658888' || x'e1' || '8\"'",
    "half an answer": "' m-5 [{'",
}


@pytest.mark.parametrize("damaged", DAMAGED_QUERIES.values(), ids=DAMAGED_QUERIES)
@pytest.mark.parametrize("is_recovered", [False, True], ids=["drained", "recovered"])
def test_a_damaged_row_of_a_spool_holds_up_no_other(
    postgres_url: URL, tmp_path: Path, damaged: str, is_recovered: bool
) -> None:
    spool = tmp_path / "spool-0.db"
    settings = settings_for(
        postgres_url,
        DLR_DATA_DIR=str(tmp_path),
        DLR_API_KEYS=f"reader:admin:{READ_KEY}",
    )
    with serving(**settings):
        pass  # it makes the spool
    with opened(spool) as shell:
        rows = [(a_report(messageid=f"m-{number}"),) for number in range(50)]
        shell.executemany("INSERT INTO spooled (received_at, query) VALUES (17, ?)", rows)
        shell.execute(f"UPDATE spooled SET received_at = 'x', query = {damaged} WHERE id = 6")
    if is_recovered:
        done = run("spool", "recover", str(spool), **settings)
        assert done.stdout.startswith("recovered 50 callbacks"), done

    with serving(**settings) as program:
        until(lambda: spool_is_empty(program) and is_ready(program), 30)
        until(lambda: _found(program) >= 49)
        assert call_back(program, "afterwards") == 200
        refused = program.http.get("/v1/quarantine", headers=AUTHORIZED).json()["items"]
        assert _found(program) + len(refused) == 50
        assert "6588888888" not in program.stderr
        assert "Traceback" not in program.stderr


def test_only_a_spool_is_recovered(tmp_path: Path) -> None:
    database = tmp_path / "dlr.db"
    other, text = tmp_path / "other.db", tmp_path / "a-text"
    text.write_text("no database at all " * 100)
    with opened(other) as shell:
        shell.execute("CREATE TABLE of_another_program (id)")
    settings = {"DLR_DATA_DIR": str(tmp_path), **SECRETS}
    with serving(**settings) as program:
        assert call_back(program, "before") == 200
        files = sorted(tmp_path.iterdir())

        for wrong in (database, other, text, tmp_path):
            done = run("spool", "recover", str(wrong), **settings)
            assert (done.code, done.stdout) == (2, ""), done
            assert str(wrong) in done.stderr
            assert "Traceback" not in done.stderr
        elsewhere = {**settings, "DLR_DATA_DIR": "elsewhere"}
        assert run("spool", "recover", str(database), **elsewhere).code == 2
        assert sorted(tmp_path.iterdir()) == files
        assert call_back(program, "after") == 200


# Root without the right to open what belongs to others, so as any other user.
NO_ROOT: Final = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")
A_USER: Final = 12345


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_spool_of_another_user_counts_as_damaged(postgres_url: URL, tmp_path: Path) -> None:
    settings = settings_for(postgres_url, DLR_DATA_DIR=str(tmp_path))
    spool = tmp_path / "spool-0.db"
    spool.touch(0o600)
    os.chown(spool, A_USER, A_USER)

    with serving(*NO_ROOT, **settings) as program:
        assert "spool-0.db is damaged" in program.http.get("/readyz").json()["detail"]
        assert "\ndlr_spool_damaged 1.0\n" in metrics_of(program)
        assert call_back(program, "all-the-same") == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_leaves_a_recovered_spool_to_its_owner(tmp_path: Path) -> None:
    spool = tmp_path / "spool-0.db"
    with opened(spool) as shell:
        shell.execute("CREATE TABLE spooled (id INTEGER PRIMARY KEY, received_at, query)")
    os.chown(spool, A_USER, A_USER)

    assert run("spool", "recover", str(spool), DLR_DATA_DIR=str(tmp_path)).code == 0

    left = [file.stat() for file in tmp_path.glob("spool-*") if file.suffix != ".damaged"]
    assert {(found.st_uid, S_IMODE(found.st_mode)) for found in left} == {(A_USER, 0o600)}
    assert len(left) == 3  # a new spool, its lock, and that of the damaged one


def test_what_another_program_mended_of_a_spool_is_recovered(tmp_path: Path) -> None:
    mended = tmp_path / "mended.db"
    with opened(mended) as shell:
        shell.execute("CREATE TABLE spooled (id INTEGER PRIMARY KEY, received_at, query)")
        shell.execute("INSERT INTO spooled VALUES (1, 17, 'type=dlr')")

    done = run("spool", "recover", str(mended), DLR_DATA_DIR=str(tmp_path))

    assert done.code == 0, done.stderr
    assert done.stdout.startswith("recovered 1 callbacks")


def test_a_spool_without_a_readable_page_is_set_aside(tmp_path: Path) -> None:
    spool = tmp_path / "spool-0.db"
    spool.write_bytes(b"\xff" * 8192)

    done = run("spool", "recover", str(spool), DLR_DATA_DIR=str(tmp_path))

    assert done.code == 0, done.stderr
    assert done.stdout.startswith("recovered 0 callbacks")
    assert spool.with_suffix(".db.damaged").exists()


def _found(program: Serving) -> int:
    paths = [f"m-{number}" for number in range(400)]
    key = {"Authorization": "Bearer a-key-that-reads"}
    answer = program.http.post("/v1/messages/lookup", json={"messageids": paths}, headers=key)
    return len(answer.json()["messages"])
