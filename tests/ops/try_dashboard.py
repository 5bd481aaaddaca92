"""`make try-dashboard`: the dashboard's queries and the alerts against a real Prometheus.

A service on PostgreSQL takes a simulated PaaSoo's reports, sends, asks and pushes for a minute.
Every query must then give a row that is a number, and every rule must work. Needs `prometheus`.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import yaml

from deploy.grafana.dashboard import FILE
from simulator.demo import Demo, running, send_until
from tests.databases import migrate
from tests.postgres import StoppableServer, new_database
from tests.process import ROOT, client_of, free_port, until

FOLDER: Final = ROOT / "deploy" / "prometheus"
SCRAPE_S: Final = 2
START_WITHIN_S: Final = 120  # of a busy machine
Simulator = subprocess.Popen[bytes]
JOB: Final = "paasoo-dlr"


@contextmanager
def prometheus(folder: Path, service_port: int, key: str) -> Iterator[httpx2.Client]:
    """Run Prometheus with the example's configuration, looking at this service alone."""
    (folder / "key").write_text(key)
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": "2s"}
    configuration["rule_files"] = [str(FOLDER / "alerts.yml")]
    (ours,) = (it for it in configuration["scrape_configs"] if it["job_name"] == JOB)
    ours["authorization"] = {"credentials_file": str(folder / "key")}
    ours["static_configs"] = [{"targets": [f"127.0.0.1:{service_port}"]}]
    configuration["scrape_configs"] = [ours]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'series'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    try:
        with client_of(port) as http:
            await_answer(port, "/-/ready")
            yield http
    finally:
        process.terminate()
        process.wait()


def await_answer(port: int, path: str) -> None:
    def answers() -> bool:
        try:
            return http.get(path).status_code < 500
        except httpx2.TransportError:
            return False

    with client_of(port) as http:
        until(answers, START_WITHIN_S)


@contextmanager
def busy_service(folder: Path, seconds: float) -> Iterator[tuple[Demo, Simulator]]:
    """Run a service that receives, asks and pushes, and is there to be sent through."""
    demo = Demo.new(folder, seconds + START_WITHIN_S)  # it goes on until it is ended
    with ExitStack() as stack:
        server = stack.enter_context(StoppableServer.started())
        url = stack.enter_context(new_database(server.url))
        migrate(url)
        settings = demo.service_settings() | {
            "DLR_DATABASE_URL": url.render_as_string(hide_password=False),
            "DLR_PAASOO_BALANCE_URL": f"{demo.provider}/balance",
        }
        # First: the service asks for the balance when it starts, and then in five minutes.
        simulating = running(folder, demo.simulate(), demo.simulator_settings(), None)
        simulator = stack.enter_context(simulating)
        await_answer(demo.provider_port, "/")
        stack.enter_context(running(folder, demo.serve(), settings, demo.log))
        await_answer(demo.port, "/readyz")
        receive(stack, demo)
        yield demo, simulator


def receive(stack: ExitStack, demo: Demo) -> None:
    """Add a webhook, and a system behind it that takes two pushes of three."""
    port = free_port()
    headers = {"Authorization": f"Bearer {demo.api_key}"}
    body = {"url": f"http://127.0.0.1:{port}/"}
    with client_of(demo.port) as http:
        answer = http.post("/v1/webhooks", json=body, headers=headers)
    words = ["--receive", f"127.0.0.1:{port}", "--receive-share", "fails=0.3"]
    words += ["--seconds", str(demo.seconds), "--ledger", "pushes.jsonl"]
    settings = {"DLR_SIMULATOR_RECEIVE_SECRET": answer.json()["secret"]}
    stack.enter_context(running(demo.folder, ["simulate", *words], settings, None))


def rows_of(http: httpx2.Client, query: str) -> list[float]:
    """The values of a query now, but those that are no number."""
    answer = http.get("/api/v1/query", params={"query": query})
    assert answer.status_code == 200, answer.text
    values = [float(row["value"][1]) for row in answer.json()["data"]["result"]]
    return [value for value in values if not math.isnan(value)]


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's title and query, with what Grafana puts in."""
    panels: list[Any] = json.loads(FILE.read_text())["panels"]
    for panel in panels:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$job", JOB)
            yield panel["title"], query.replace("$__rate_interval", f"{15 * SCRAPE_S}s")


def try_all(http: httpx2.Client) -> int:
    """Print the rows of each query, and the state of each rule; the number of those that fail."""
    failed = 0
    for title, query in queries():
        values = rows_of(http, query)
        failed += not values
        shown = ", ".join(f"{value:.4g}" for value in values[:6])
        print(f"{len(values):3} {'' if values else 'NONE '}{title}: {shown}")
    for group in http.get("/api/v1/rules").json()["data"]["groups"]:
        for rule in group["rules"]:
            failed += rule["health"] != "ok"
            if rule["health"] != "ok" or rule["state"] != "inactive":
                print(f"alert {rule['name']}: {rule['health']}, {rule['state']}")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    with (
        tempfile.TemporaryDirectory(prefix="paasoo-dlr-dashboard-") as name,
        busy_service(Path(name), seconds) as (demo, simulator),
        prometheus(Path(name), demo.port, demo.api_key) as http,
        client_of(demo.port) as service,
    ):
        service.headers["Authorization"] = f"Bearer {demo.api_key}"
        service.get(f"/callback/paasoo/{demo.token}?type=mo")
        send_until(time.monotonic() + seconds, service, simulator)
        failed = try_all(http)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
