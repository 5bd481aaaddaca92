"""`paasoo-dlr doctor`: what is wrong has a line that says what to do, and nothing is changed."""

import os
import pty
import sqlite3
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from signal import SIGKILL
from types import SimpleNamespace

import pytest
from sqlalchemy import URL, create_engine, text

from app.commands import doctor_database, doctor_disk
from app.commands.database import IF_ODD
from app.commands.findings import standing_alone
from app.settings import load_settings
from app.store import postgresql
from app.store.engine import open_database
from app.store.spool import Spool
from tests.process import STARTER, Ended, free_port, run, serving
from tests.sending.provider import ACCOUNT, SECRET, Provider, answered, running_provider
from tests.service import TOKEN, a_report

LONG = "k" * 20
LONG_TOKEN = "t" * 20
SECRETS = {"DLR_CALLBACK_TOKENS": LONG_TOKEN, "DLR_API_KEYS": f"ops:admin:{LONG}"}
AWAY = {"DLR_DATABASE_URL": "postgresql://dlr:hush-hush@127.0.0.1:1/dlr", **SECRETS}
OF_A_SERVER = {
    *("database", "schema", "primary", "statement_timeout", "synchronous_commit", "pooler"),
    *("rights", "standbys", "clock"),
}
OF_ALL = {"data folder", "free space", "spool", "variables", "tokens", "keys", "account"}


def doctor(**environment: str) -> tuple[Ended, dict[str, str]]:
    """The end of the command, and each line's level and words by what it is about."""
    ended = run("doctor", **environment)
    assert ended.stderr == ""
    for secret in (LONG, LONG_TOKEN, "hush-hush", SECRET, ACCOUNT):
        assert secret not in ended.stdout
    return ended, lines_of(ended.stdout)


def lines_of(output: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in output.splitlines():
        level, what, words = line[:7].strip(), line[9:27].strip(), line[29:]
        assert level in {"ok", "warning", "error"}
        found[what] = f"{found[what]}\n{level} {words}" if what in found else f"{level} {words}"
    return found


@pytest.fixture
def environment(database_url: URL) -> dict[str, str]:
    return {"DLR_DATABASE_URL": database_url.render_as_string(hide_password=False), **SECRETS}


def traces_of(folder: Path) -> dict[str, object]:
    """Everything that a command could change in a folder, but for SQLite's index of its log."""
    return {
        str(path): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.is_file() and sha256(path.read_bytes()).digest(),
        )
        for path in (folder, *folder.rglob("*"))
        if not path.name.endswith("-shm")
    }


def test_a_service_that_is_well_has_no_error(
    environment: dict[str, str], database_url: URL
) -> None:
    with serving(**environment) as service:
        service.http.get(f"/callback/paasoo/{LONG_TOKEN}?{a_report()}")
        ended, lines = doctor(**environment)
        assert service.http.get("/readyz").status_code == 200

    is_server = database_url.get_backend_name() == "postgresql"
    assert ended.code == 0, ended.stdout
    expected = OF_ALL | (OF_A_SERVER if is_server else {"database", "schema"})
    assert expected - lines.keys() == set()
    assert ("PostgreSQL" if is_server else "SQLite") in lines["database"]
    assert {name for name, line in lines.items() if not line.startswith("ok ")} <= {
        "fsync",  # of the tests' own server
        "full_page_writes",
    }
    if is_server:
        assert lines["statement_timeout"] == "ok 1500 ms to write, 3000 ms to read"
        assert lines["synchronous_commit"] == "ok on"


def test_a_first_run_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    ended, lines = doctor()

    assert ended.code == 0
    assert lines["database"].startswith("warning sqlite:///var/dlr.db")
    assert "first `serve` makes" in lines["data folder"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("state", ["stopped", "killed"])
def test_it_changes_nothing(environment: dict[str, str], tmp_path: Path, state: str) -> None:
    """Not even what `serve` mends at its start: the rights of others."""
    with serving(**environment) as service:
        service.http.get(f"/callback/paasoo/{LONG_TOKEN}?{a_report()}")
        if state == "stopped":
            service.terminate()
        service.process.send_signal(SIGKILL)
        service.process.wait(10)
    data = tmp_path / "var"
    data.mkdir(exist_ok=True)
    (data / "spool-3.db").write_bytes(b"")
    data.chmod(0o755)
    for file in tmp_path.rglob("*.db*"):
        file.chmod(0o644)
    before = traces_of(tmp_path)

    _, lines = doctor(**environment)

    assert "others may enter" in lines["data folder"]
    assert "others may use" in lines["data folder"]
    assert "chmod" in lines["data folder"]
    assert traces_of(tmp_path) == before


def test_a_database_that_is_away_keeps_no_other_check_from_being_made() -> None:
    ended, lines = doctor(**AWAY)

    assert ended.code == 1
    assert lines["database"].startswith("error postgresql+psycopg://dlr:***@127.0.0.1:1/dlr")
    assert "spool" in lines["database"]
    assert lines.keys() == OF_ALL | {"database"}


def test_a_schema_that_is_not_current_is_told(empty_database_url: URL) -> None:
    url = empty_database_url.render_as_string(hide_password=False)
    if empty_database_url.get_backend_name() == "sqlite":
        assert empty_database_url.database
        sqlite3.connect(empty_database_url.database).close()
        Path(empty_database_url.database).touch()

    ended, lines = doctor(DLR_DATABASE_URL=url, **SECRETS)

    if empty_database_url.get_backend_name() == "sqlite":
        assert ended.code == 0  # `serve` mends it
        assert lines["schema"].startswith("warning none")
    else:
        assert ended.code == 1
        assert "paasoo-dlr migrate" in lines["schema"]


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    Path("dlr.db").write_text("a text of more than a few bytes, and no database" * 100)

    ended, lines = doctor(DLR_DATABASE_URL="sqlite:///dlr.db", **SECRETS)

    assert ended.code == 1
    assert lines["database"].startswith("error ")


def test_a_server_that_is_read_only_is_told(postgres_url: URL) -> None:
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    name = postgres_url.database
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    engine.dispose()

    url = postgres_url.render_as_string(hide_password=False)
    ended, lines = doctor(DLR_DATABASE_URL=url, **SECRETS)

    assert ended.code == 1
    assert lines["primary"].startswith("error yes, but read-only")


@pytest.mark.parametrize(
    ("granted", "found"),
    [
        ("SELECT, INSERT, UPDATE, DELETE", "ok to read"),
        ("SELECT", "error no DELETE, INSERT, UPDATE on some tables"),
    ],
)
def test_a_user_who_may_not_write_is_told(postgres_url: URL, granted: str, found: str) -> None:
    role = f"reader_{token_hex(4)}"
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(text(f"GRANT {granted} ON ALL TABLES IN SCHEMA public TO {role}"))
        try:
            url = postgres_url.set(username=role).render_as_string(hide_password=False)
            ended, lines = doctor(DLR_DATABASE_URL=url, **SECRETS)
        finally:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
    engine.dispose()

    assert lines["rights"].startswith(found)
    assert ended.code == (1 if found.startswith("error") else 0)


def test_a_copy_that_was_restored_over_the_tables_is_told_from_a_server_that_is_away(
    postgres_url: URL,
) -> None:
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO feed SELECT * FROM feed"))
    engine.dispose()

    url = postgres_url.render_as_string(hide_password=False)
    ended, lines = doctor(DLR_DATABASE_URL=url, **SECRETS)

    assert ended.code == 1
    assert IF_ODD in lines["database"]


@pytest.mark.parametrize(("ahead_s", "level"), [(0, "ok"), (20, "warning"), (-300, "error")])
def test_clocks_that_differ_are_told(
    postgres_url: URL, monkeypatch: pytest.MonkeyPatch, ahead_s: float, level: str
) -> None:
    database = open_database(postgres_url)
    ours = SimpleNamespace(time=lambda: time.time() - ahead_s)
    monkeypatch.setattr(postgresql, "time", ours)

    (finding,) = doctor_database.look_at_clock(database)
    database.close()

    assert finding.level == level


@pytest.fixture
def spool() -> Iterator[Spool]:
    taken = Spool.claim(Path("var"), 1024**2)
    yield taken
    taken.close()


def test_what_waits_in_a_spool_is_counted_beside_the_process_that_has_it(spool: Spool) -> None:
    spool.put([(1, a_report()), (2, a_report(status="404"))])

    _, lines = doctor(**AWAY)

    assert lines["spool"].startswith("warning 2 callbacks in ")


def test_a_spool_that_is_nearly_full_is_an_error(spool: Spool) -> None:
    spool.put([(number, "x" * 4000) for number in range(220)])

    _, lines = doctor(**AWAY, DLR_SPOOL_MAX_BYTES=str(1024**2))

    assert lines["spool"].startswith("error 220 callbacks in ")


def test_a_damaged_spool_is_told_and_the_others_are_counted(spool: Spool) -> None:
    spool.put([(1, a_report())])
    Path("var", "spool-1.db").write_text("no database at all, and long enough to be read" * 100)

    _, lines = doctor(**AWAY)

    waiting, damaged = lines["spool"].splitlines()
    assert waiting.startswith("warning 1 callback in ")
    assert damaged.startswith("error ")
    assert "paasoo-dlr spool recover var/spool-1.db" in damaged


def test_a_spool_that_nothing_drains_is_told(spool: Spool) -> None:
    spool.put([(1, a_report())])

    _, lines = doctor(**SECRETS)

    assert lines["spool"].startswith("warning ")
    assert "DLR_DATABASE_URL" in lines["spool"]


def test_a_spool_that_is_off_is_told() -> None:
    _, lines = doctor(**AWAY, DLR_SPOOL="off")

    assert lines["spool"].startswith("warning off")


def test_names_that_no_setting_has_are_told() -> None:
    _, lines = doctor(**SECRETS, DLR_RETENTION_DAY="9", DLR_CHECK_KEY=LONG)

    assert lines["variables"].splitlines() == [
        "warning no setting is named DLR_RETENTION_DAY: is it DLR_RETENTION_DAYS?"
    ]


def test_tokens_and_keys_that_are_too_short_are_told() -> None:
    tokens, keys = f"{LONG_TOKEN},short", f"ops:admin:{LONG},shop:read:short"

    ended, lines = doctor(DLR_CALLBACK_TOKENS=tokens, DLR_API_KEYS=keys)

    assert ended.code == 0
    assert lines["tokens"].startswith("warning number 2 of DLR_CALLBACK_TOKENS")
    assert lines["keys"].startswith("warning number 2 of DLR_API_KEYS (shop)")


def test_a_server_database_without_tokens_and_keys_is_an_error() -> None:
    ended, lines = doctor(DLR_DATABASE_URL=AWAY["DLR_DATABASE_URL"])

    assert ended.code == 1
    assert "paasoo-dlr token new" in lines["tokens"]
    assert "paasoo-dlr key new" in lines["keys"]


def test_a_key_for_checks_that_is_not_known_is_told() -> None:
    _, lines = doctor(**SECRETS, DLR_CHECK_KEY=TOKEN)

    assert "DLR_CHECK_KEY is none of DLR_API_KEYS" in lines["keys"]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as running:
        yield running


def account_at(address: str) -> dict[str, str]:
    return {
        "DLR_PAASOO_KEY": ACCOUNT,
        "DLR_PAASOO_SECRET": SECRET,
        "DLR_PAASOO_BALANCE_URL": address,
    }


@pytest.mark.parametrize(
    ("answer", "found", "code"),
    [
        ({"balance": "0.972", "currency": "EUR"}, "ok 0.972 EUR", 0),
        ({"balance": "0.00", "currency": "EUR"}, "warning 0.00 EUR", 0),
        ({"status": "4", "status_code": SECRET}, "error refused (provider_refused_cred", 1),
        ("<h1>Hello</h1>", "error PaaSoo's answer has no balance", 1),
    ],
    ids=["known", "used up", "refused", "a page"],
)
def test_the_balance_shows_if_the_account_works(
    provider: Provider, answer: object, found: str, code: int
) -> None:
    provider.will_answer(answered(answer))

    ended, lines = doctor(**SECRETS, **account_at(provider.url))

    assert ended.code == code
    assert lines["account"].startswith("warning DLR_PAASOO_BALANCE_URL: plain http")
    assert lines["balance"].startswith(found)


def test_a_provider_that_cannot_be_reached_is_told() -> None:
    address = f"http://127.0.0.1:{free_port()}/balance"

    ended, lines = doctor(**SECRETS, **account_at(address))

    assert ended.code == 1
    assert lines["balance"].startswith("error 127.0.0.1 can't be reached")


def test_a_data_folder_on_a_disk_that_is_not_mounted_is_told() -> None:
    Path("var").symlink_to("/nowhere/at/all")

    ended, lines = doctor(**AWAY)

    assert ended.code == 1
    assert "error /" in lines["data folder"]
    assert "is its disk mounted?" in lines["data folder"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_data_folder_that_is_closed_to_the_user_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "closed" / "var"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    settings = load_settings(data_dir=folder, database_url=AWAY["DLR_DATABASE_URL"])

    os.seteuid(65534)
    try:
        (finding,) = standing_alone("folder", lambda: doctor_disk.look_at_folder(settings))
    finally:
        os.seteuid(0)

    assert finding.level == "error"
    assert f"{folder} is closed to user 65534" in finding.words


def test_a_data_folder_that_is_a_file_is_told() -> None:
    Path("var").write_text("")

    ended, lines = doctor(**SECRETS, DLR_DATABASE_URL="sqlite:///dlr.db")

    assert ended.code == 1
    assert lines["data folder"].endswith("is no folder: name one in DLR_DATA_DIR")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_of_another_user_is_told(environment: dict[str, str]) -> None:
    Path("var").mkdir(mode=0o700)
    Path("var", "spool-0.lock").touch(mode=0o600)
    os.chown("var", 4711, 4711)

    ended, lines = doctor(**environment)

    assert ended.code == 1
    assert "spool-0.lock" in lines["data folder"]
    assert "chown" in lines["data folder"]


def test_a_wrong_setting_is_one_line() -> None:
    ended = run("doctor", DLR_PORT="0")

    assert ended.code == 2
    (line,) = ended.stderr.splitlines()
    assert "DLR_PORT" in line


def test_a_terminal_is_shown_colours_and_nothing_else_is() -> None:
    ours, terminal = pty.openpty()
    with open(ours, "rb", buffering=0) as shown, open(terminal, "wb", buffering=0) as output:  # noqa: PTH123
        process = STARTER.start("app.cli", ["doctor"], {}, output, output)
        assert process.wait(30) == 0
        coloured = shown.read(65536)
    plain = run("doctor")

    assert b"\x1b[32mok" in coloured
    assert "\x1b" not in plain.stdout
