"""The sources and forms of settings, and the page that documents them."""

import re
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.settings import PREFIX, Role, Settings, load_settings

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
    monkeypatch.setenv("DLR_API_KEYS", f"shop:read:a-key,boss:admin:sha256={digest}")

    shop, boss = load_settings().api_keys

    assert (shop.name, shop.role) == ("shop", Role.READ)
    assert (boss.name, boss.role) == ("boss", Role.ADMIN)
    assert shop.digest == boss.digest == bytes.fromhex(digest)


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
