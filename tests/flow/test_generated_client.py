"""A client that a stranger generates from the OpenAPI document does what the document says."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.service import READ_KEY, SAMPLE, Service, a_report

GENERATOR = Path(sys.executable).with_name("openapi-python-client")
PACKAGE = "generated_client"


@pytest.fixture(scope="session")
def package(
    kept_services: dict[str, Service], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The generated package, made once: that takes some seconds."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "config.yml").write_text("post_hooks: []\n")  # no formatting
    (folder / "openapi.json").write_text(kept_services["sqlite"].http.get("/openapi.json").text)
    command: list[str | Path] = [
        *(GENERATOR, "generate", "--fail-on-warning", "--meta", "none"),
        *("--path", folder / "openapi.json", "--config", folder / "config.yml"),
        *("--output-path", folder / PACKAGE),
    ]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    sys.path.insert(0, str(folder))
    yield PACKAGE
    sys.path.remove(str(folder))


@pytest.fixture
def client(package: str, service: Service) -> Iterator[Any]:
    url = f"http://127.0.0.1:{service.port}"
    with import_module(package).AuthenticatedClient(base_url=url, token=READ_KEY) as client:
        yield client


def call(operation: str, client: Any, *arguments: object, **options: object) -> Any:
    """Call an operation of the generated package, named by its tag and id."""
    return import_module(f"{PACKAGE}.api.{operation}").sync(*arguments, client=client, **options)


def test_generated_client_looks_up_a_message(service: Service, client: Any) -> None:
    service.call_back(a_report())

    message = call("status.show_message", client, SAMPLE["messageid"])

    assert (message.state, message.final) == ("delivered", True)
    assert [(one.to, one.network) for one in message.deliveries] == [("6588888888", "52099")]


def test_generated_client_reads_a_problem(service: Service, client: Any) -> None:
    unknown = call("status.show_message", client, "unknown")
    malformed = call("status.list_deliveries", client, to="1")

    assert (unknown.code, unknown.messageid) == ("message_not_found", "unknown")
    assert [fault.field for fault in malformed.errors] == ["to"]


def test_generated_client_lists_deliveries_page_by_page(service: Service, client: Any) -> None:
    for number in range(3):
        service.call_back(a_report(messageid=f"message-{number}"))

    first = call("status.list_deliveries", client, state="delivered", limit=2)
    second = call("status.list_deliveries", client, limit=2, cursor=first.next_cursor)

    found = [one.messageid for page in (first, second) for one in page.items]
    assert found == ["message-2", "message-1", "message-0"]
    assert second.next_cursor is None


def test_generated_client_follows_the_changes(service: Service, client: Any) -> None:
    begun = call("changes.list_changes", client, cursor="now")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(
            call, "changes.list_changes", client, cursor=begun.next_cursor, wait=30.0
        )
        service.call_back(a_report(messageid="a-change"))
        page = following.result(20)

    assert [(one.messageid, one.state) for one in page.items] == [("a-change", "delivered")]
    assert page.next_cursor != begun.next_cursor


def test_generated_client_waits_for_a_message(service: Service, client: Any) -> None:
    service.register("awaited", to=[SAMPLE["to"]])
    began = time.monotonic()
    waited = call("status.show_message", client, "awaited", wait=0.2)
    took_s = time.monotonic() - began
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, "status.show_message", client, "awaited", wait=30.0)
        service.call_back(a_report(messageid="awaited"))
        message = waiting.result(20)

    assert (waited.state, took_s >= 0.2) == ("pending", True)
    assert (message.state, message.final) == ("delivered", True)
