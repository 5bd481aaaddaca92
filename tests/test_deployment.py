"""The files that set up, package and deploy the service agree with each other."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
SYSTEMD = ROOT / "deploy" / "systemd"
COMPOSE = (ROOT / "docker-compose.yml").read_text()


@pytest.fixture
def services() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(COMPOSE)
    services: dict[str, Any] = parsed["services"]
    return services


def test_compose_file_fits_the_compose_schema() -> None:
    check = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        "docker-compose.yml",
    ]

    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_file_takes_every_secret_from_outside(services: dict[str, Any]) -> None:
    secrets = {
        (service, name): value
        for service, settings in services.items()
        for name, value in settings["environment"].items()
        if re.search("PASSWORD|TOKEN|KEY|SECRET", name)
    }

    assert ("app", "DLR_CALLBACK_TOKENS") in secrets
    # Without a value, Compose passes the variable through if it is set.
    literal = [
        key
        for key, value in secrets.items()
        if value and not re.fullmatch(r"\$\{\w+:\?[^}]+\}", value)
    ]
    assert literal == []


def test_env_example_names_everything_compose_takes(services: dict[str, Any]) -> None:
    taken = set(re.findall(r"\$\{(\w+)", COMPOSE))
    taken |= {
        name
        for service in services.values()
        for name, value in service["environment"].items()
        if value is None
    }

    offered = set(
        re.findall(r"^#?([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    )

    assert offered == taken


def test_env_file_of_the_guide_is_the_same_to_a_shell_and_to_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (ROOT / "docs" / "operating.md").read_text().partition("\n## Replicas")[0]
    lines = re.findall(r"^    (DLR_.+)$", guide, re.MULTILINE)
    (tmp_path / ".env").write_text("\n".join(lines).replace("DIGEST", "0" * 64))
    read_by_the_service = load_settings()

    sourced = subprocess.run(
        ["sh", "-c", "set -a; . ./.env; set +a; env"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    (tmp_path / ".env").unlink()
    for name, _, value in (line.partition("=") for line in sourced.stdout.splitlines()):
        if name.startswith("DLR_"):
            monkeypatch.setenv(name, value)
    assert len(lines) >= 5
    assert load_settings() == read_by_the_service
    assert "&" in str(read_by_the_service.database)


def test_service_waits_for_the_database_and_its_schema(services: dict[str, Any]) -> None:
    assert "healthcheck" in services["db"]
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert services["app"]["depends_on"] == {
        "db": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }


def test_service_trusts_the_proxy_alone_unless_told_otherwise(services: dict[str, Any]) -> None:
    proxy = services["proxy"]["networks"]["edge"]["ipv4_address"]

    trusted = services["app"]["environment"]["DLR_TRUSTED_PROXIES"]

    assert trusted == f"${{DLR_TRUSTED_PROXIES:-{proxy}/32}}"


def test_compose_takes_every_setting(services: dict[str, Any]) -> None:
    settings = {f"DLR_{name.upper()}" for name in Settings.model_fields}

    assert settings == {name for name in services["app"]["environment"] if name != "PGPASSWORD"}


def test_one_service_alone_builds_the_image(services: dict[str, Any]) -> None:
    users = {name: it for name, it in services.items() if it["image"] == "paasoo-dlr"}

    assert [name for name, service in users.items() if "build" in service] == ["app"]
    assert [name for name, it in users.items() if it.get("pull_policy") == "never"] == ["migrate"]


def test_upgrade_migrates_before_it_stops_the_service(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "$@"\ncase "$*" in *"$FAILS"*) exit 1;; esac\n')
    docker.chmod(0o755)

    said = {
        fails: subprocess.run(
            [ROOT / "deploy" / "upgrade.sh"],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "FAILS": fails},
            capture_output=True,
            text=True,
            check=False,
        ).stdout.splitlines()
        for fails in ("compose build", "migrate", "nothing")
    }

    build, migrate, restart = said["nothing"]
    assert said["compose build"] == [build]
    assert said["migrate"] == [build, migrate]
    assert restart.startswith("compose up ")
    assert "--no-deps" in restart


def test_image_runs_as_a_fixed_unprivileged_user() -> None:
    final_stage = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]

    (user,) = re.findall(r"^USER (\S+)$", final_stage, re.MULTILINE)

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_image_build_sees_what_the_wheel_is_made_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)

    assert {*wheel, project["project"]["readme"], *project["project"]["license-files"]} <= set(
        let_in
    )


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile"])
def test_uv_is_taken_at_the_locked_version(file: str) -> None:
    (command,) = re.findall(r"sed -n '[^']+' pyproject\.toml", (ROOT / file).read_text())
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (locked,) = (package["version"] for package in lock["package"] if package["name"] == "uv")

    requirement = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert requirement.strip() == f"uv=={locked}"


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if not found:
        pytest.skip("systemd-analyze is not installed")
    return found


def test_service_of_systemd_may_do_little(systemd_analyze: str) -> None:
    unit = SYSTEMD / "paasoo-dlr.service"
    rate = [systemd_analyze, "security", "--offline=yes", "--threshold=30", str(unit)]  # 3.0 of 10

    done = subprocess.run(rate, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_units_of_systemd_are_understood(systemd_analyze: str, tmp_path: Path) -> None:
    program = tmp_path / "paasoo-dlr"
    program.touch(mode=0o755)
    for unit in SYSTEMD.iterdir():
        text = unit.read_text().replace("/opt/paasoo-dlr/.venv/bin/paasoo-dlr", str(program))
        (tmp_path / unit.name).write_text(text)
    units = [str(tmp_path / unit.name) for unit in SYSTEMD.iterdir()]

    done = subprocess.run(
        [systemd_analyze, "verify", "--man=no", *units],
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
