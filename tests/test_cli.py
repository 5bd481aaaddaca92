"""The commands, run as their users run them."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer.main
from sqlalchemy import URL, create_engine, inspect, text

from app.cli import program
from app.settings import PREFIX, Settings
from app.store.engine import open_database
from tests.process import (
    AFRESH,
    PROGRAM,
    Ended,
    free_port,
    run,
    run_afresh,
    run_python,
    serving,
    until,
)
from tests.service import READ_KEY, TOKEN, a_report

ROLES = ("read", "send", "admin")

# A secret within wrong settings: no part of it may be printed.
SECRET = "hush-hush"

GIVEN_LONG = {"DLR_CALLBACK_TOKENS": "t" * 20, "DLR_API_KEYS": f"bob:read:{'k' * 20}"}
GIVEN = {"DLR_CALLBACK_TOKENS": "a-token", "DLR_API_KEYS": "bob:read:a-key"}

WRONG_SETTINGS = [
    ("DLR_DATABASE_URL", "nonsense"),
    ("DLR_DATABASE_URL", f"mysql://dlr:{SECRET}@127.0.0.1/dlr"),
    ("DLR_DATABASE_URL", f"postgresql://dlr:{SECRET}@127.0.0.1:port/dlr"),
    ("DLR_DATABASE_URL", f"postgresql://dlr:{SECRET}@127.0.0.1/dlr?no_such_option=1"),
    ("DLR_DATABASE_URL", "sqlite://"),
    ("DLR_DATABASE_URL", "sqlite:///:memory:"),
    ("DLR_DATABASE_URL", "sqlite:////proc/nowhere/dlr.db"),
    ("DLR_DATABASE_URL", "sqlite:///a-folder"),
    ("DLR_DATABASE_URL", "sqlite:///not-a-database"),
    ("DLR_HOST", "not a host"),
    ("DLR_HOST", "192.0.2.1"),  # another machine's
    ("DLR_PORT", "http"),
    ("DLR_PORT", "0"),
    ("DLR_PORT", "65536"),
    ("DLR_DATA_DIR", "/proc/nowhere"),
    ("DLR_DATA_DIR", "not-a-database"),
    ("DLR_CALLBACK_TOKENS", f"a-token,,{SECRET}"),
    ("DLR_CALLBACK_TOKENS", ","),
    ("DLR_CALLBACK_TOKENS", f"{SECRET}/{SECRET}"),
    ("DLR_CALLBACK_ALLOWED_NETWORKS", "192.0.2.0/33"),
    ("DLR_CALLBACK_ALLOWED_NETWORKS", "192.0.2.0/24,"),
    ("DLR_WEBHOOK_ALLOWED_NETWORKS", "192.0.2.0/33"),
    ("DLR_TRUSTED_PROXIES", "proxy.example.com"),
    ("DLR_API_KEYS", SECRET),
    ("DLR_API_KEYS", f"bob:read:{SECRET},"),
    ("DLR_API_KEYS", f":read:{SECRET}"),
    ("DLR_API_KEYS", "bob:read:"),
    ("DLR_API_KEYS", f"bob:king:{SECRET}"),
    ("DLR_API_KEYS", f"bob:read:sha256={SECRET}"),
    ("DLR_API_KEYS", f"bob:read:sha256={'0' * 63}"),
    ("DLR_SPOOL", "maybe"),
    ("DLR_SPOOL_MAX_BYTES", "1"),
    ("DLR_QUEUE_LIMIT", "0"),
    ("DLR_QUARANTINE_MAX_ROWS", "many"),
    ("DLR_REPORT_TIMEOUT_HOURS", "-1"),
    ("DLR_REPORT_TIMEOUT_HOURS", "soon"),
    ("DLR_RETENTION_DAYS", "-1"),
    ("DLR_RETENTION_DAYS", "1.5"),
    ("DLR_RETENTION_DAYS", "forever"),
    ("DLR_METRICS_PUBLIC", "perhaps"),
    ("DLR_SEND_TIMEOUT_SECONDS", "0"),
    ("DLR_KEEP_ALIVE_SECONDS", "0"),
    ("DLR_ROOT_PATH", "sms"),
    ("DLR_DRAIN_SECONDS", "6"),
    ("DLR_SHORTCUTS", "maybe"),
    ("DLR_CONSOLE", "maybe"),
    ("DLR_LOG_LEVEL", "loud"),
    ("DLR_PAASOO_URL", "api.paasoo.com/json"),
    ("DLR_PAASOO_URL", "ftp://api.paasoo.com/json"),
    ("DLR_PAASOO_URL", f"http://shop:{SECRET}@api.paasoo.com/json"),
    ("DLR_PAASOO_URL", f"http://api.paasoo.com/json?key={SECRET}"),
    ("DLR_PAASOO_KEY", SECRET),  # without the secret
    ("DLR_PAASOO_SECRET", SECRET),
    ("DLR_PAASOO_FROM", "My Shop in Town"),
    ("DLR_PAASOO_REPORT_URL", "api.paasoo.com/dlr"),
    ("DLR_PAASOO_REPORT_URL", f"https://api.paasoo.com/dlr?secret={SECRET}"),
    ("DLR_PAASOO_REPORT_URL", "https://api.paasoo.com/dlr"),  # without an account
    ("DLR_PULL_AFTER_MINUTES", "0"),
    ("DLR_PULLS_A_SECOND", "many"),
    ("DLR_PAASOO_BALANCE_URL", "api.paasoo.com/balance"),
    ("DLR_PAASOO_BALANCE_URL", f"https://api.paasoo.com/balance?secret={SECRET}"),
    ("DLR_PAASOO_BALANCE_URL", "https://api.paasoo.com/balance"),  # without an account
    ("DLR_WEBHOOK_ALLOWED_NETWORKS", "10.0.0.0/33"),
    ("DLR_CHECK_KEY", f"ops:read:{SECRET}"),
    ("DLR_CHECK_KEY", f"sha256={SECRET}"),
    ("DLR_CHECK_KEY", f"{SECRET}-\u00e9"),
    ("DLR_SECRETS_DIR", "nowhere"),
]


def commands(group: Any = None, *names: str) -> Iterator[tuple[str, ...]]:
    """Every command and group of commands, as the words that call it."""
    group = group or typer.main.get_command(program)
    yield names
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *names, name)


def assert_stopped_by(name: str, ended: Ended) -> None:
    """True for one line that names the setting and holds no secret."""
    assert ended.code == 2, ended
    assert len(ended.errors) == 1, ended.stderr
    assert name in ended.stderr
    assert SECRET not in ended.stdout + ended.stderr


@pytest.mark.parametrize("command", list(commands()), ids=lambda words: " ".join(words) or "alone")
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    ended = run(*command, "--help")

    assert ended.code == 0, ended.stderr
    assert f"Usage: {' '.join(['paasoo-dlr', *command])} " in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize(
    "command",
    [["--version"], ["--help"], ["serve", "--port", "http"], ["key", "new"]],
    ids=" ".join,
)
def test_help_and_wrong_options_load_nothing_of_the_service(command: list[str]) -> None:
    loads_much = {"alembic", "fastapi", "httpx2", "pydantic_settings", "simulator", "sqlalchemy"}

    ended = run_python("-X", "importtime", "-c", "from app.cli import main; main()", *command)

    lines = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip() for line in lines}
    assert "app.cli" in loaded
    assert loaded & loads_much == set()


def test_a_new_key_lets_its_user_in_as_far_as_its_role_reaches() -> None:
    made = {role: run("key", "new", f"a-{role}", "--role", role) for role in ROLES}
    keys, items = (
        [ended.stdout.splitlines()[line].rpartition(" ")[2] for ended in made.values()]
        for line in (0, 1)
    )

    with serving(DLR_CALLBACK_TOKENS="a-token", DLR_API_KEYS=",".join(items)) as service:
        answers = {
            role: tuple(
                service.http.get(path, headers={"Authorization": f"Bearer {key}"}).status_code
                for path in ("/v1/messages/nobody-knows-it", "/v1/quarantine")
            )
            for role, key in zip(made, keys, strict=True)
        }

    assert answers == {"read": (404, 403), "send": (404, 403), "admin": (404, 200)}
    assert not any(key in item for key in keys for item in items)


def test_a_new_token_opens_the_callback() -> None:
    token, other = (run("token", "new").stdout.strip() for _ in range(2))

    with serving(DLR_CALLBACK_TOKENS=token, DLR_API_KEYS="bob:read:a-key") as service:
        answer = service.http.get(f"/callback/paasoo/{token}?{a_report()}")
        turned_away = service.http.get(f"/callback/paasoo/{other}?{a_report()}")

    assert (answer.status_code, turned_away.status_code) == (200, 404)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bob"], "--role"),
        (["bob", "--role", "king"], "--role"),
        (["--role", "read"], "name"),
        (["", "--role", "read"], "name"),
        (["bob:by", "--role", "read"], "name"),
        (["bob,by", "--role", "read"], "name"),
        (["bob by", "--role", "read"], "name"),
    ],
    ids=" ".join,
)
def test_no_key_is_made_for_a_wrong_name_or_role(arguments: list[str], named: str) -> None:
    ended = run("key", "new", *arguments)

    assert ended.code == 2
    assert ended.stdout == ""
    assert named in ended.stderr.lower()
    assert "Traceback" not in ended.stderr


def test_migrate_makes_the_schema_and_then_leaves_it_alone(empty_database_url: URL) -> None:
    url = empty_database_url.render_as_string(hide_password=False)

    first = run_afresh("migrate", DLR_DATABASE_URL=url)
    second = run("migrate", DLR_DATABASE_URL=url)

    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    assert first.stdout.startswith("schema: none -> ")
    newest = first.stdout.split()[-1]
    assert second.stdout == f"schema: {newest}\n"
    with serving(AFRESH, DLR_DATABASE_URL=url, **GIVEN) as service:
        assert service.http.get("/readyz").status_code == 200


def test_migrations_at_once_take_turns(empty_database_url: URL) -> None:
    url = empty_database_url.render_as_string(hide_password=False)

    with ThreadPoolExecutor() as threads:
        all_at_once = list(threads.map(lambda _: run("migrate", DLR_DATABASE_URL=url), range(4)))

    assert [ended.code for ended in all_at_once] == [0] * 4, all_at_once


def test_a_migration_that_fails_leaves_nothing_behind(empty_database_url: URL) -> None:
    url = empty_database_url.render_as_string(hide_password=False)
    engine = create_engine(empty_database_url)
    # The last table that the first migration makes: the earlier ones must be rolled back.
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE quarantine (in_the_way INTEGER)"))

    failed = run("migrate", DLR_DATABASE_URL=url)
    with engine.begin() as connection:
        tables = inspect(connection).get_table_names()
        connection.execute(text("DROP TABLE quarantine"))
    engine.dispose()
    repeated = run("migrate", DLR_DATABASE_URL=url)

    assert_stopped_by("DLR_DATABASE_URL", failed)
    assert set(tables) <= {"quarantine", "alembic_version"}
    assert repeated.code == 0, repeated.stderr


@pytest.mark.parametrize(("name", "value"), WRONG_SETTINGS)
def test_a_wrong_setting_stops_serve_with_one_line(name: str, value: str) -> None:
    Path("a-folder").mkdir()
    Path("not-a-database").write_text("a text of more than a few bytes, and no database" * 100)

    assert_stopped_by(name, run("serve", **{**GIVEN, name: value}))


def test_a_data_folder_that_cannot_be_written_stops_a_first_run() -> None:
    assert_stopped_by("DLR_DATA_DIR", run("serve", DLR_DATA_DIR="/proc/nowhere"))


def warnings_of(message: str, **environment: str) -> list[dict[str, Any]]:
    """The fields of the log lines with this message that `serve` writes at its start."""
    with serving(**environment) as service:
        service.terminate()
    standard = ("time", "level", "logger", "message")
    warnings = [line for line in service.log_lines() if line["level"] == "warning"]
    lines = [line for line in warnings if message in line["message"]]
    assert SECRET not in service.stderr
    return [{name: line[name] for name in line if name not in standard} for line in lines]


def test_names_that_no_setting_has_are_warned_about_with_the_nearest() -> None:
    Path(".env").write_text("DLR_RETENTION_DAY=30\nDLR_LOG_LEVEL=info\nDOMAIN=x\n")
    misspelt = {"DLR_CALLBACK_TOKEN": SECRET, "dlr_log_levle": "info", "DLR_X": SECRET}

    found = warnings_of("no setting has this name", DLR_SIMULATOR_SECRET=SECRET, **misspelt)

    assert found == [
        {"variable": "DLR_CALLBACK_TOKEN", "nearest": "DLR_CALLBACK_TOKENS"},
        {"variable": "DLR_LOG_LEVLE", "nearest": "DLR_LOG_LEVEL"},
        {"variable": "DLR_RETENTION_DAY", "nearest": "DLR_RETENTION_DAYS"},
        {"variable": "DLR_X", "nearest": None},
    ]


def test_a_dotenv_that_is_a_pipe_is_read_once() -> None:
    os.mkfifo(".env")
    content = "\n".join(f"{name}={value}" for name, value in GIVEN_LONG.items())
    with ThreadPoolExecutor() as threads:
        threads.submit(Path(".env").write_text, content)
        assert warnings_of("") == []


# As Kubernetes sets them for services named `dlr` and `dlr-db`.
KUBERNETES = {
    "DLR_SERVICE_HOST": "10.96.12.7",
    "DLR_SERVICE_PORT": "8000",
    "DLR_SERVICE_PORT_HTTP": "8000",
    "DLR_PORT": "tcp://10.96.12.7:8000",
    "DLR_PORT_8000_TCP": "tcp://10.96.12.7:8000",
    "DLR_PORT_8000_TCP_PROTO": "tcp",
    "DLR_PORT_8000_TCP_PORT": "8000",
    "DLR_PORT_8000_TCP_ADDR": "10.96.12.7",
    "DLR_DB_SERVICE_HOST": "10.96.12.8",
    "DLR_DB_PORT": "tcp://10.96.12.8:5432",
    "DLR_DB_PORT_5432_TCP": "tcp://10.96.12.8:5432",
}


def test_the_variables_of_a_kubernetes_service_are_ignored_with_one_warning() -> None:
    assert warnings_of("", **GIVEN_LONG, **KUBERNETES) == [{"variable": "DLR_PORT"}]


def test_short_tokens_and_keys_are_warned_about_by_their_place() -> None:
    long, short, digest = "x" * 20, SECRET, "0" * 64
    tokens = f"{long},{short}"
    keys = f"shop:read:{short},boss:admin:{long},ops:read:sha256={digest}"

    found = warnings_of("shorter than 20", DLR_CALLBACK_TOKENS=tokens, DLR_API_KEYS=keys)

    assert found == [
        {"variable": "DLR_CALLBACK_TOKENS", "position": 2},
        {"variable": "DLR_API_KEYS", "position": 1, "key": "shop"},
    ]


def test_an_account_over_plain_http_is_warned_about_once() -> None:
    account = {"DLR_PAASOO_KEY": SECRET, "DLR_PAASOO_SECRET": SECRET}
    send, balance = "http://127.0.0.1:1/json", "HTTP://127.0.0.1:1/balance"

    found = [
        warnings_of("plain http", **given)
        for given in (
            {**account, "DLR_PAASOO_URL": send, "DLR_PAASOO_BALANCE_URL": balance},
            {**account, "DLR_PAASOO_URL": send},
            {**account, "DLR_PAASOO_BALANCE_URL": "https://127.0.0.1:1/balance"},
            {"DLR_PAASOO_URL": send},
        )
    ]

    assert found == [
        [{"variable": "DLR_PAASOO_URL, DLR_PAASOO_BALANCE_URL"}],
        [{"variable": "DLR_PAASOO_URL"}],
        [],
        [],
    ]


def test_an_empty_option_is_one_that_is_not_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = str(listener.getsockname()[1])
        ended = run("serve", "--host", "", "--port", "", DLR_PORT=taken, **GIVEN)

    assert_stopped_by(f"127.0.0.1 port {taken}", ended)


@pytest.mark.parametrize(
    ("option", "value"), [("--port", "0"), ("--port", "65536"), ("--port", "tcp://x:1")]
)
def test_a_wrong_option_is_named(option: str, value: str) -> None:
    ended = run("serve", option, value)

    assert ended.code == 2
    assert option in ended.stderr
    assert "from 1 to 65535" in ended.stderr


def test_a_wrong_value_of_an_option_names_the_option_and_the_setting() -> None:
    ended = run("serve", "--host", "'::1'")

    assert_stopped_by("--host, DLR_HOST: has quotes", ended)


def test_every_setting_has_a_wrong_value_above() -> None:
    settings = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}

    assert settings - {name for name, _ in WRONG_SETTINGS} == set()


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://dlr:{SECRET}@127.0.0.1:1/dlr",
        f"postgresql://dlr:an-@-unescaped-{SECRET}@127.0.0.1:1/dlr",
        f"postgresql://dlr:{SECRET}@no-such-host.invalid/dlr",
        f"postgresql://dlr:{SECRET}@127.0.0.1/dlr?connect_timeout=soon",
        "sqlite:///a-folder",
        "sqlite:////proc/nowhere/dlr.db",
        "sqlite:///not-a-database",
    ],
)
def test_migrate_says_in_one_line_that_the_database_cannot_be_used(url: str) -> None:
    Path("a-folder").mkdir()
    Path("not-a-database").write_text("a text of more than a few bytes, and no database" * 100)

    assert_stopped_by("DLR_DATABASE_URL", run("migrate", DLR_DATABASE_URL=url))


@pytest.mark.parametrize(
    "command",
    [
        ["migrate"],
        ["purge", "--days", "9"],
        ["rebuild"],
        ["rebuild", "--dry-run"],
        ["export", "--format", "csv"],
    ],
    ids=" ".join,
)
def test_commands_say_first_which_database_they_work_on(
    command: list[str], postgres_url: URL
) -> None:
    url = postgres_url.set(password=SECRET).render_as_string(hide_password=False)

    ended = run(*command, DLR_DATABASE_URL=url)
    without_it = run(*command)

    assert ended.code == 0, ended.stderr
    assert ended.stderr.splitlines()[0] == "database: " + url.replace(SECRET, "***")
    assert SECRET not in ended.stderr + ended.stdout
    assert without_it.stderr.splitlines()[0] == "database: sqlite:///var/dlr.db"


@pytest.mark.parametrize("command", [["serve"], ["migrate"]], ids=" ".join)
def test_a_secrets_directory_that_is_not_there_stops_every_command(command: list[str]) -> None:
    assert_stopped_by("DLR_SECRETS_DIR", run(*command, DLR_SECRETS_DIR="nowhere"))


def test_several_wrong_settings_are_all_named_in_the_one_line() -> None:
    ended = run("serve", DLR_PORT="0", DLR_LOG_LEVEL="loud")

    assert_stopped_by("DLR_PORT", ended)
    assert_stopped_by("DLR_LOG_LEVEL", ended)


def test_every_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    assert run("migrate", DLR_DATA_DIR=str(folder)).code == 0

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["move_only_report", "count_deliveries_on_update"])
def test_a_database_without_a_trigger_is_not_served(empty_database_url: URL, name: str) -> None:
    environment = {
        "DLR_DATABASE_URL": empty_database_url.render_as_string(hide_password=False),
        "DLR_CALLBACK_TOKENS": TOKEN,
        "DLR_API_KEYS": f"reader:read:{READ_KEY}",
    }
    assert run("migrate", **environment).code == 0
    database = open_database(empty_database_url, hurried=False)
    of_table = "" if database.is_embedded else " ON deliveries"
    with database.transaction() as connection:
        connection.execute(text(f"DROP TRIGGER {name}{of_table}"))
    database.close()

    served = run("serve", "--port", str(free_port()), **environment)
    told = run("doctor", **environment)

    assert served.code == 2
    assert f"`deliveries` lacks enabled triggers ({name})" in served.stderr.splitlines()[-1]
    assert f"({name})" in told.stdout


def test_a_program_older_than_its_database_says_so(empty_database_url: URL) -> None:
    environment = {
        "DLR_DATABASE_URL": empty_database_url.render_as_string(hide_password=False),
        "DLR_CALLBACK_TOKENS": TOKEN,
        "DLR_API_KEYS": f"reader:read:{READ_KEY}",
    }
    assert run("migrate", **environment).code == 0
    database = open_database(empty_database_url, hurried=False)
    with database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()

    for command in (("serve", "--port", str(free_port())), ("export", "--format", "csv")):
        ended = run(*command, **environment)
        assert ended.code == 2
        assert "this program is older than its database" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("pause_s", [0, 0.2, 0.4, 0.6])
def test_an_interrupted_start_leaves_no_traceback(tmp_path: Path, pause_s: float) -> None:
    process = subprocess.Popen(
        [PROGRAM, "serve", "--port", str(free_port())],
        env={"PATH": "/usr/bin:/bin", "DLR_DATA_DIR": str(tmp_path / "data")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Before it loads its first libraries it is Python itself that starts.
    maps = Path(f"/proc/{process.pid}/maps")
    until(lambda: "lib-dynload" in maps.read_text(), 30)
    time.sleep(pause_s)  # a moment of its start, not a wait
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)

    assert "Traceback" not in stderr, stderr


INTERRUPTED_WHILE_IT_LOADS = """
import os, signal, sys

class Destroyed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

class Finder:
    def find_spec(self, name, *_):
        if name == "app.cli":
            Destroyed()

sys.meta_path.insert(0, Finder())
sys.argv = ["paasoo-dlr", "--version"]
from app.__main__ import main
main()
"""


def test_an_interrupt_that_meets_a_destructor_ends_the_loading() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_IT_LOADS], capture_output=True, check=False
    )

    assert ended.returncode == -signal.SIGINT, ended.stdout
    assert ended.stderr == b""


def test_an_interrupt_that_the_shell_had_us_ignore_is_ignored() -> None:
    """A background job of a script; the interrupt comes while it loads, and when it has loaded."""
    code = INTERRUPTED_WHILE_IT_LOADS.replace(
        "from app", "signal.signal(signal.SIGINT, signal.SIG_IGN)\nfrom app"
    ).replace("main()\n", "try: main()\nexcept SystemExit: os.kill(os.getpid(), signal.SIGINT)\n")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout[:1].isdigit()


def test_an_interrupt_is_not_an_exception_that_a_destructor_could_swallow(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [PROGRAM, "serve", "--port", str(free_port())],
        env={"PATH": "/usr/bin:/bin", "DLR_DATA_DIR": str(tmp_path / "data")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    maps = Path(f"/proc/{process.pid}/maps")
    until(lambda: "sqlalchemy" in maps.read_text(), 30)
    process.send_signal(signal.SIGINT)

    assert process.wait(30) == -signal.SIGINT


@pytest.mark.parametrize("command", [("migrate",), ("quarantine", "list")], ids=" ".join)
def test_a_data_folder_of_before_is_closed_to_others(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    folder = tmp_path / "data"
    settings = {"DLR_DATA_DIR": str(folder)}
    assert run("migrate", **settings).code == 0
    for name in ("callback-token", "spool-0.db", "spool-0.lock"):
        (folder / name).touch()
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)

    ended = run(*command, **settings)

    assert ended.code == 0, ended.stderr
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in folder.iterdir()} == {0}


def test_a_folder_that_is_not_the_services_alone_stays_open(tmp_path: Path) -> None:
    (tmp_path / "of another program").mkdir()
    tmp_path.chmod(0o755)

    ended = run("migrate", DLR_DATA_DIR=str(tmp_path))

    assert ended.code == 0
    assert "others may enter it" in ended.stderr
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "dlr.db").stat().st_mode) == 0o600
