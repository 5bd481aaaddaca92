"""The manifests for Kubernetes fit its schemas, each other, the image and the service."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from sqlalchemy import URL

from app.http.server import END_S
from app.settings import PREFIX, Settings, load_settings, unknown_variables
from tests.postgres import new_database
from tests.process import ROOT, run

FOLDER = ROOT / "deploy" / "kubernetes"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
VERSIONS = ("1.32", kubernetes_validate.latest_version())  # the oldest as the page says
MANIFESTS: list[Any] = [
    document
    for file in sorted(FOLDER.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for document in yaml.safe_load_all(file.read_text())
]
PODS: dict[str, Any] = {
    it["kind"]: it["spec"]["template"] for it in MANIFESTS if "template" in it.get("spec", {})
}
SETTINGS = dict(
    line.split("=", 1)
    for line in (FOLDER / "settings.env").read_text().splitlines()
    if not line.startswith("#")
)
SECRETS_DIR = "/etc/paasoo-dlr/secrets"


def of_kind(kind: str) -> Any:
    (found,) = (it for it in MANIFESTS if it["kind"] == kind)
    return found


def container_of(kind: str) -> Any:
    (container,) = PODS[kind]["spec"]["containers"]
    return container


def known(names: set[str]) -> set[str]:
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return names & (settings | {f"{PREFIX}SECRETS_DIR"})


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_fit_the_schemas(version: str) -> None:
    assert f"Kubernetes {VERSIONS[0]} or newer" in PAGE
    for manifest in MANIFESTS:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("folder", [FOLDER, FOLDER / "monitoring"], ids=lambda it: it.name)
def test_kustomization_lists_every_file(folder: Path) -> None:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    listed = set(kustomization["resources"])
    for generator in kustomization.get("configMapGenerator", ()):
        listed.update(generator["envs"])

    there = {file.name for file in folder.iterdir() if file.is_file()}

    assert listed == there - {"kustomization.yaml"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_puts_them_together() -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=True
    ).stdout

    manifests = list(yaml.safe_load_all(built))
    (settings,) = (it for it in manifests if it["kind"] == "ConfigMap")
    (stateful_set,) = (it for it in manifests if it["kind"] == "StatefulSet")
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    assert len(manifests) == len(MANIFESTS) + 1
    assert settings["data"] == SETTINGS
    assert container["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}]
    assert "registry.example.com" in container["image"]


def test_settings_exist_and_are_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_job = {it["name"]: it["value"] for it in container_of("Job")["env"]}
    in_page = set(re.findall(r"\bDLR_[A-Z_]+\b", PAGE))
    in_page |= {name.upper() for name in re.findall(r"\bdlr_[a-z]+_\w+", PAGE)} - {
        "DLR_SPOOL_WAITING"  # a metric
    }
    named = {*SETTINGS, *in_job, *in_page}
    for name, value in (SETTINGS | {"DLR_SECRETS_DIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)

    assert known(named) == named
    assert in_job.items() <= SETTINGS.items()
    assert load_settings().host == "0.0.0.0"


def test_secret_is_read_as_kubernetes_mounts_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = dict(re.findall(r"--from-literal=(dlr_\w+)=(\S+)", PAGE))
    # Each file is a link through a link to a folder, all of which change at once.
    (tmp_path / "..2026_11_22_08_00_00.1").mkdir()
    (tmp_path / "..data").symlink_to("..2026_11_22_08_00_00.1")
    for name, value in keys.items():
        text = value.strip("'").replace("DIGEST", "0" * 64, 1).replace("DIGEST", "1" * 64)
        (tmp_path / "..data" / name).write_text(f"{text}\n")
        (tmp_path / name).symlink_to(f"..data/{name}")
    monkeypatch.setenv("DLR_SECRETS_DIR", str(tmp_path))

    settings = load_settings()

    assert len(keys) == 3
    assert settings.database.host == "db.internal"
    assert [key.name for key in settings.api_keys] == ["billing", "prometheus"]
    assert unknown_variables() == {}


@pytest.mark.parametrize("kind", PODS)
def test_pods_may_do_nothing_that_they_need_not(kind: str) -> None:
    pod, container = PODS[kind]["spec"], container_of(kind)
    (user,) = re.findall(r"^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == int(user)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("kind", PODS)
def test_secrets_are_files_of_a_secret_made_outside(kind: str) -> None:
    (mounted,) = (it for it in PODS[kind]["spec"]["volumes"] if "secret" in it)
    (place,) = (it for it in container_of(kind)["volumeMounts"] if it["name"] == mounted["name"])

    assert mounted["secret"]["secretName"] == "paasoo-dlr"
    assert f"create secret generic {mounted['secret']['secretName']} " in PAGE
    assert place == {"name": mounted["name"], "mountPath": SECRETS_DIR, "readOnly": True}
    assert SETTINGS["DLR_SECRETS_DIR"] == SECRETS_DIR
    assert "Secret" not in {it["kind"] for it in MANIFESTS}


def test_selectors_find_the_servers_alone() -> None:
    labels = {kind: pod["metadata"]["labels"] for kind, pod in PODS.items()}
    selectors = [
        of_kind("StatefulSet")["spec"]["selector"]["matchLabels"],
        of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(it["spec"]["selector"] for it in MANIFESTS if it["kind"] == "Service"),
        *(
            it["labelSelector"]["matchLabels"]
            for it in PODS["StatefulSet"]["spec"]["topologySpreadConstraints"]
        ),
    ]

    assert len(selectors) == 6
    for selector in selectors:
        assert selector.items() <= labels["StatefulSet"].items()
        assert not selector.items() <= labels["Job"].items()


def test_monitor_looks_at_one_service() -> None:
    monitor = yaml.safe_load((FOLDER / "monitoring" / "service-monitor.yaml").read_text())
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    services = [it for it in MANIFESTS if it["kind"] == "Service"]

    (found,) = (it for it in services if wanted <= it["metadata"]["labels"].items())

    (endpoint,) = monitor["spec"]["endpoints"]
    assert found["metadata"]["name"] == "paasoo-dlr"  # the job that the alerts expect
    assert endpoint["port"] in {port["name"] for port in found["spec"]["ports"]}


def test_probes_do_not_depend_on_the_database() -> None:
    serve = container_of("StatefulSet")
    probes = [serve[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]

    assert {probe["path"] for probe in probes} == {"/livez"}
    assert {probe["port"] for probe in probes} == {port["name"] for port in serve["ports"]}
    assert [port["containerPort"] for port in serve["ports"]] == [int(SETTINGS["DLR_PORT"])]


def test_there_is_time_to_drain() -> None:
    pod, serve = PODS["StatefulSet"]["spec"], container_of("StatefulSet")

    slept = serve["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert pod["terminationGracePeriodSeconds"] >= slept + END_S + 10


def test_the_spool_fits_its_claim() -> None:
    (claim,) = of_kind("StatefulSet")["spec"]["volumeClaimTemplates"]
    (place,) = (it for it in container_of("StatefulSet")["volumeMounts"] if it["name"] == "data")
    (gibibytes,) = re.findall(r"^(\d+)Gi$", claim["spec"]["resources"]["requests"]["storage"])

    assert claim["metadata"]["name"] == "data"  # as the alert on disks expects
    # Not the claim's own folder, which belongs to root.
    assert Path(SETTINGS["DLR_DATA_DIR"]).parent == Path(place["mountPath"])
    assert int(gibibytes) * 2**30 >= 2 * int(SETTINGS["DLR_SPOOL_MAX_BYTES"])


def test_migration_needs_no_data_folder(postgres_server: URL, tmp_path: Path) -> None:
    with new_database(postgres_server) as url:
        address = url.render_as_string(hide_password=False)
        (tmp_path / "dlr_database_url").write_text(address)
        ended = run("migrate", DLR_SECRETS_DIR=str(tmp_path), DLR_DATA_DIR="/proc/nowhere")

    assert ended.code == 0, ended.stderr
