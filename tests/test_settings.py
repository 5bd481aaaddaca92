"""The sources and forms of settings, and the page that documents them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.settings import (
    PREFIX,
    Role,
    Settings,
    SettingsError,
    has_unreadable_env_file,
    load_settings,
    unknown_variables,
)

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


@pytest.fixture
def secrets_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("DLR_SECRETS_DIR", str(folder))
    return folder


def test_a_list_is_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLR_CALLBACK_TOKENS", "old-token, new-token")
    monkeypatch.setenv("DLR_TRUSTED_PROXIES", "192.0.2.7,2001:db8::/32")

    settings = load_settings()

    assert settings.callback_tokens == ("old-token", "new-token")
    assert settings.trusted_proxies == (ip_network("192.0.2.7/32"), ip_network("2001:db8::/32"))


def test_a_key_may_be_given_plain_or_by_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = sha256(b"a-key").hexdigest()
    monkeypatch.setenv("DLR_API_KEYS", f"shop:read:a-key,shop:read:sha256={digest}")

    plain, digested = load_settings().api_keys

    for key in (plain, digested):
        assert (key.name, key.role) == ("shop", Role.READ)
        assert key.digest == bytes.fromhex(digest)


def test_a_plain_key_may_have_colons_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLR_API_KEYS", "shop:read:a:key")

    (shop,) = load_settings().api_keys

    assert shop.digest == sha256(b"a:key").digest()


def test_a_secrets_directory_has_one_file_for_each_setting(secrets_dir: Path) -> None:
    (secrets_dir / "dlr_api_keys").write_text("shop:read:a-key\n")
    (secrets_dir / "dlr_callback_tokens").write_text("old-token,new-token\n")
    (secrets_dir / "dlr_database_url").write_text("postgresql://dlr:hush@db/dlr\n")

    settings = load_settings()

    assert [key.name for key in settings.api_keys] == ["shop"]
    assert settings.api_keys[0].digest == sha256(b"a-key").digest()
    assert settings.callback_tokens == ("old-token", "new-token")
    assert settings.database.password == "hush"


def test_a_dotenv_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DLR_PORT=9000\nPOSTGRES_PASSWORD=not-ours\n")

    assert load_settings().port == 9000


@contextmanager
def as_another_user() -> Iterator[None]:
    """Root could read everything. For any other user, a file without rights is enough."""
    if os.geteuid():
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_dotenv_file_that_cannot_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("DLR_PORT=9001")
    (tmp_path / ".env").chmod(0)
    monkeypatch.setenv("DLR_LOG_LEVEL", "debug")

    with as_another_user():
        settings = load_settings()
        is_said = has_unreadable_env_file()

    assert (settings.port, settings.log_level) == (8000, "debug")
    assert is_said


def test_a_folder_that_cannot_be_entered_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.chmod(0)

    with as_another_user():
        settings = load_settings()
        misspelt = unknown_variables()

    folder.chmod(0o700)
    assert (settings.port, misspelt) == (8000, {})


def test_the_nearer_source_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secrets_dir: Path
) -> None:
    ports = [load_settings().port]
    (secrets_dir / "dlr_port").write_text("9001")
    ports.append(load_settings().port)
    (tmp_path / ".env").write_text("DLR_PORT=9002")
    ports.append(load_settings().port)
    monkeypatch.setenv("DLR_PORT", "9003")
    ports.append(load_settings().port)
    ports.append(load_settings(port=9004).port)

    assert ports == [8000, 9001, 9002, 9003, 9004]


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLR_PORT", "")
    monkeypatch.setenv("DLR_API_KEYS", "")

    settings = load_settings()

    assert (settings.port, settings.api_keys) == (8000, ())


def test_blanks_around_a_value_are_dropped_in_every_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secrets_dir: Path
) -> None:
    monkeypatch.setenv("DLR_PAASOO_SECRET", " s3cret\n")
    monkeypatch.setenv("DLR_DATABASE_URL", "postgresql://dlr@db/dlr \n")
    monkeypatch.setenv("DLR_API_KEYS", "shop:read:a-key\n")
    (tmp_path / ".env").write_text("DLR_PAASOO_KEY=' account '\nDLR_LOG_LEVEL=' debug '\n")
    (secrets_dir / "dlr_root_path").write_text(" /sms\r\n")

    settings = load_settings(host=" ::1 ")

    assert settings.paasoo_secret is not None
    assert settings.paasoo_secret.get_secret_value() == "s3cret"
    assert settings.paasoo_key is not None
    assert settings.paasoo_key.get_secret_value() == "account"
    assert settings.database.database == "dlr"
    assert settings.api_keys[0].digest == sha256(b"a-key").digest()
    assert (settings.log_level, settings.root_path, settings.host) == ("debug", "/sms", "::1")


def test_an_empty_value_leaves_the_setting_to_the_next_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secrets_dir: Path
) -> None:
    (secrets_dir / "dlr_port").write_text("9001")
    (secrets_dir / "dlr_log_level").write_text("\n")
    (tmp_path / ".env").write_text("DLR_PORT='  '")
    monkeypatch.setenv("DLR_PORT", "\n")

    settings = load_settings(port="", host="")

    assert (settings.port, settings.host, settings.log_level) == (9001, "127.0.0.1", "info")


def test_an_empty_secrets_directory_is_one_that_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLR_SECRETS_DIR", "")
    (tmp_path / "dlr_port").write_text("9001")  # in the working directory

    assert load_settings().port == 8000


def refusal_of(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The error of a value in the environment."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DLR_API_KEYS", '"shop:admin:key"'),
        ("DLR_API_KEYS", "'shop:admin:key'"),
        ("DLR_API_KEYS", 'boss:admin:key,"shop:admin:key"'),
        ("DLR_CALLBACK_TOKENS", '"a-token"\n'),
        ("DLR_TRUSTED_PROXIES", '"10.0.0.1","10.0.0.2"'),
        ("DLR_DATABASE_URL", '"postgresql://dlr:hush@db/dlr"'),
        ("DLR_PAASOO_KEY", '"account"'),
        ("DLR_HOST", '"127.0.0.1"'),
        ("DLR_PORT", '"8000"'),
        ("DLR_SPOOL", "'on'"),
        ("DLR_DATA_DIR", "'/data'"),
    ],
)
def test_quotes_around_a_value_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = refusal_of(name, value, monkeypatch)

    assert refusal.startswith(f"{name}: has quotes around it; remove them")


def test_quotes_in_a_dotenv_file_are_the_files_own(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DLR_API_KEYS=\"shop:admin:key\"\nDLR_PORT='9000'\n")

    settings = load_settings()

    assert (settings.api_keys[0].name, settings.port) == ("shop", 9000)


def test_the_port_that_kubernetes_sets_for_a_service_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("DLR_PORT=9000")
    monkeypatch.setenv("DLR_PORT", "tcp://10.96.12.7:8000")

    assert load_settings().port == 9000


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:127.0.0.1", "127.0.0.1/32"),
        ("::ffff:c000:0200/120", "192.0.2.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("::ffff:0:0:0/96", "::ffff:0:0:0/96"),  # another prefix
    ],
)
def test_a_network_of_ipv4_within_ipv6_is_one_of_ipv4(
    given: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLR_TRUSTED_PROXIES", given)

    assert load_settings().trusted_proxies == (ip_network(meant),)


# A value, and the error behind the setting's name.
PLAIN_ERRORS = [
    ("DLR_SPOOL", "maybe", "must be `on` or `off`"),
    ("DLR_SHORTCUTS", "2", "must be `on` or `off`"),
    ("DLR_PORT", "http", "must be a whole number from 1 to 65535"),
    ("DLR_PORT", "65536", "must be a whole number from 1 to 65535"),
    ("DLR_PORT", "80.5", "must be a whole number from 1 to 65535"),
    ("DLR_QUEUE_LIMIT", "0", "must be a whole number from 1 on"),
    ("DLR_RETENTION_DAYS", "9" * 5000, "must be a whole number from 0 to 100000"),
    ("DLR_KEEP_ALIVE_SECONDS", "0", "must be a number above 0, at most 3600"),
    ("DLR_SEND_TIMEOUT_SECONDS", "nan", "must be a number from 1 to 300"),
    ("DLR_LOG_LEVEL", "loud", "must be one of debug, info, warning, error"),
    ("DLR_TRUSTED_PROXIES", "::ffff:0:0/95", "::ffff:0:0/95 is an IPv4 network within IPv6"),
    ("DLR_TRUSTED_PROXIES", "::ffff:10.0.0.0/90", "::ffff:10.0.0.0/90 is an IPv4 network within"),
    ("DLR_TRUSTED_PROXIES", "::ffff:10.0.0.1/104", "10.0.0.1/8 has host bits set; expected"),
]


@pytest.mark.parametrize(("name", "value", "error"), PLAIN_ERRORS)
def test_an_error_says_in_plain_words_what_a_value_must_be(
    name: str, value: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = refusal_of(name, value, monkeypatch)

    assert refusal.startswith(f"{name}: {error}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hu@sh@host/db",
        "postgres://u:hu@sh/word@host/db",
        "postgresql+psycopg://u:hu@sh:5432@host:5432/db",
        "postgresql://u:hu@sh?word@host/db",
        "postgresql://u:hu@sh?word=x@host/db",
        "postgresql://u:hu@sh#word@host/db",
        "postgresql://u:hu@sh,word@host/db",
        "postgresql://u/x:hush@host/db",
    ],
)
def test_an_at_sign_in_the_databases_password_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = refusal_of("DLR_DATABASE_URL", url, monkeypatch)

    assert refusal.startswith("DLR_DATABASE_URL: has ")
    assert "%40" in refusal
    assert "hu" not in refusal
    assert "word" not in refusal.replace("password", "")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hush@a:5432,b:5432/db",
        "postgresql://u:hush@a,b/db",
        "postgresql://a,b:5432?target_session_attrs=read-write",
    ],
)
def test_several_hosts_belong_behind_the_question_mark(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = refusal_of("DLR_DATABASE_URL", url, monkeypatch)

    assert "`?host=a,b`" in refusal
    assert "hush" not in refusal


@pytest.mark.parametrize("ports", ["5432,5433,5434", "abc", "5432,x"])
def test_a_wrong_port_of_several_hosts_is_refused(
    ports: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://u:hush@/db?host=a,b&port={ports}"

    refusal = refusal_of("DLR_DATABASE_URL", url, monkeypatch)

    assert refusal.startswith("DLR_DATABASE_URL: has a port that is no number, or another number")
    assert "hush" not in refusal


def test_one_port_is_that_of_all_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLR_DATABASE_URL", "postgresql://u:hush@/db?host=a,b,c&port=6432")

    assert load_settings().database.query["port"] == "6432,6432,6432"


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:hush@/db?host=a,b&port=1,2", "postgresql://u:h,u:s?h/%40@host/db?host=a,b"],
)
def test_a_right_database_url_is_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLR_DATABASE_URL", url)

    settings = load_settings()

    assert settings.database.query["host"] == "a,b"
    assert "***" in settings.database_shown


def test_a_password_in_the_query_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLR_DATABASE_URL", "postgresql://db/dlr?user=dlr&password=hush")

    assert "hush" not in load_settings().database_shown


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_bare_postgresql_url_is_understood(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLR_DATABASE_URL", f"{scheme}://dlr:hu%40sh@db:5433/reports")

    url = load_settings().database

    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password, url.host, url.port) == ("dlr", "hu@sh", "db", 5433)
    assert url.database == "reports"


def test_the_embedded_database_lies_in_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(load_settings().database) == "sqlite:///var/dlr.db"

    monkeypatch.setenv("DLR_DATA_DIR", "/data")

    assert str(load_settings().database) == "sqlite:////data/dlr.db"


def settings_table() -> str:
    """The table of `docs/settings.md`, made from the fields."""
    rows = ["| setting | meaning | default |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        shown = "none" if default in (None, ()) else f"`{default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {field.description} | {shown} |")
    return "\n".join(rows) + "\n"


def test_the_page_has_every_setting_with_its_meaning_and_default() -> None:
    page = PAGE.read_text()

    start = page.index("| setting |")
    found = page[start:].partition("\n\n")[0].rstrip("\n") + "\n"

    assert found == settings_table(), f"the table of {PAGE.name} should be:\n{settings_table()}"


def test_the_page_names_no_setting_that_is_not_there() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {"DLR_SECRETS_DIR"}

    assert set(re.findall(r"DLR_[A-Z_]*[A-Z]", PAGE.read_text())) == known


def test_one_key_under_two_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLR_API_KEYS", "app:read:the-same-key,boss:admin:the-same-key")

    with pytest.raises(SettingsError, match="DLR_API_KEYS: app and boss have the same key"):
        load_settings()


def test_a_misspelt_file_of_the_secrets_directory_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dlr_callback_allowed_network").write_text("10.0.0.0/8")
    (tmp_path / "another_secret").write_text("not ours")
    monkeypatch.setenv("DLR_SECRETS_DIR", str(tmp_path))

    assert unknown_variables() == {"DLR_CALLBACK_ALLOWED_NETWORK": "DLR_CALLBACK_ALLOWED_NETWORKS"}
