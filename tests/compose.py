"""The Compose stack with TLS, upgraded, restarted and killed part by part under callbacks.

It needs a Docker engine and no more than Python's standard library: `python3 -m tests.compose`.
Where images can't be pulled, `PYTHON_IMAGE`, `POSTGRES_IMAGE` and `CADDY_IMAGE` name others.
"""

import argparse
import itertools
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final = "paasoo-dlr-compose-test"
TOKEN: Final = "a-token-of-the-compose-test"
KEY: Final = "a-key-of-the-compose-test"
CALLBACK: Final = f"https://localhost:18444/callback/paasoo/{TOKEN}"
API: Final = "http://127.0.0.1:18001"
CALLERS: Final = 4
PAUSE_S: Final = 0.1
PATIENCE_S: Final = 60
ALLOWED: Final = "192.0.2.7"
# A program on this machine is seen as the network's gateway, by Caddy too.
GATEWAY: Final = "172.30.95.1"
# Signs that Compose would replace if they weren't in single quotes, and empty values.
SETTINGS: Final = f"""
POSTGRES_PASSWORD='a$b${{HOME}}#c d'
DLR_CALLBACK_TOKENS={TOKEN}
DLR_API_KEYS=reader:read:{KEY}
DLR_PORT=
DOMAIN=
PUBLISH=127.0.0.1:18001
EDGE_PREFIX=172.30.95
DLR_TRUSTED_PROXIES={GATEWAY},172.30.95.2
DLR_CALLBACK_ALLOWED_NETWORKS={ALLOWED},{GATEWAY}
DLR_QUEUE_LIMIT=9999
"""
OVERRIDE: Final = """
services:
  db: {{image: "{postgres}"}}
  migrate: {{image: {project}}}
  app:
    image: {project}
    build:
      context: {root}
      additional_contexts: {python}
      labels: {{version: "${{VERSION}}"}}
  proxy:
    image: "{caddy}"
    ports: !override ["127.0.0.1:18444:443"]
"""


@dataclass
class Callbacks:
    """All that was sent while something happened to the stack: each message id with its answer."""

    answers: dict[str, str] = field(default_factory=dict)
    longest_s: float = 0

    @property
    def acknowledged(self) -> list[str]:
        return [message_id for message_id, answer in self.answers.items() if answer == "200"]

    def send(self, message_id: str) -> None:
        started = time.monotonic()
        query = f"type=dlr&messageid={message_id}&to=6588888888&status=0&statuscode=delivered"
        self.answers[message_id] = _status_of(f"{CALLBACK}?{query}&errcode=1&network=52099")
        self.longest_s = max(self.longest_s, time.monotonic() - started)


def _status_of(url: str, headers: dict[str, str] | None = None) -> str:
    # Caddy's own authority signed the certificate of `localhost`.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        request = urllib.request.Request(url, headers=headers or {})
        with opener.open(request, timeout=PATIENCE_S) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as refused:
        return str(refused.code)
    except (OSError, HTTPException) as error:
        return type(error).__name__


@contextmanager
def calling_back(name: str) -> Iterator[Callbacks]:
    """Call back all the time, from a second before the block to a second after it."""
    callbacks, is_over = Callbacks(), threading.Event()

    def call(caller: int) -> None:
        for number in itertools.count():
            callbacks.send(f"{name}-{caller}-{number}")
            if is_over.wait(PAUSE_S):
                return

    callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        time.sleep(1)
        yield callbacks
        time.sleep(1)
    finally:
        is_over.set()
        for caller in callers:
            caller.join()


def lost(callbacks: Callbacks) -> list[str]:
    """The acknowledged reports that can't be found, once the stack has settled."""
    deadline = time.monotonic() + PATIENCE_S
    missing = callbacks.acknowledged
    while True:
        missing = [message_id for message_id in missing if not _is_found(message_id)]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.5)


def _is_found(message_id: str) -> bool:
    headers = {"Authorization": f"Bearer {KEY}"}
    return _status_of(f"{API}/v1/messages/{message_id}", headers) == "200"


def compose(*arguments: str) -> None:
    run("docker", "compose", *arguments)


def run(*command: str) -> str:
    """Run a command to its end, and return its output. Ends the program if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout


def wait_until_ready() -> None:
    """Wait for the way from outside through all parts."""
    deadline = time.monotonic() + PATIENCE_S
    while _status_of("https://localhost:18444/readyz") != "200":
        if time.monotonic() > deadline:
            raise SystemExit("the stack doesn't become ready")
        time.sleep(0.2)


def restart(part: str) -> None:
    compose("restart", part)


def kill(part: str) -> None:
    """End its process as a crash does: what `docker kill` has ended, Docker doesn't start again."""
    container = run("docker", "compose", "ps", "--quiet", part).strip()
    pid = run("docker", "inspect", "--format", "{{.State.Pid}}", container).strip()
    as_root = ("--rm", "--pid", "host", "--user", "0", "--entrypoint", "python")
    run("docker", "run", *as_root, PROJECT, "-c", f"import os; os.kill({int(pid)}, 9)")


def upgrade(by: str) -> None:
    os.environ["VERSION"] = str(time.monotonic_ns())  # as another version's image
    before = run("docker", "compose", "ps", "--quiet", "app")
    run("deploy/upgrade.sh") if by == "script" else compose("up", "-d", "--build")
    if run("docker", "compose", "ps", "--quiet", "app") == before:
        raise SystemExit("the upgrade replaced nothing")


def events(by: str) -> dict[str, Callable[[], None]]:
    def named(part: str) -> dict[str, Callable[[], None]]:
        return {f"restart-{part}": lambda: restart(part), f"kill-{part}": lambda: kill(part)}

    upgrades = {f"upgrade-{number}": lambda: upgrade(by) for number in (1, 2)}
    return {**upgrades, **named("app"), **named("db"), **named("proxy")}


def set_up(folder: Path) -> None:
    """Point `docker compose`, and the script that calls it, to this program's own stack."""
    (base,) = re.findall(r"(?m)^FROM (python:\S+)", (ROOT / "Dockerfile").read_text())
    python = os.environ.get("PYTHON_IMAGE")
    images = {
        "python": json.dumps({base: f"docker-image://{python}"} if python else {}),
        "postgres": os.environ.get("POSTGRES_IMAGE", "postgres:18-trixie"),
        "caddy": os.environ.get("CADDY_IMAGE", "caddy:2.10.2-alpine"),
    }
    override = folder / "override.yml"
    override.write_text(OVERRIDE.format(root=json.dumps(str(ROOT)), project=PROJECT, **images))
    (folder / "env").write_text(SETTINGS)
    os.environ |= {
        "COMPOSE_PROJECT_NAME": PROJECT,
        "COMPOSE_FILE": f"{ROOT / 'docker-compose.yml'}{os.pathsep}{override}",
        "COMPOSE_ENV_FILES": str(folder / "env"),
        "COMPOSE_PROFILES": "tls",
        "VERSION": "1",
    }


def try_all(by: str, only: str) -> bool:
    """Let each event happen under callbacks, and say what became of them. True if all is well."""
    chosen = {name: happen for name, happen in events(by).items() if only in name}
    is_well = bool(chosen)
    for name, happen in chosen.items():
        with calling_back(name) as callbacks:
            happen()
        wait_until_ready()
        sent, acknowledged = len(callbacks.answers), len(callbacks.acknowledged)
        missing = lost(callbacks)
        others = {answer for answer in callbacks.answers.values() if answer != "200"}
        _say(
            f"{name}: {acknowledged} of {sent} answered 200, the longest after "
            f"{callbacks.longest_s:.1f} s, {len(missing)} lost {sorted(others) or ''}"
        )
        # Nothing stands before the proxy: while it's away itself, callbacks are refused.
        is_away = name.endswith("-proxy")
        is_well &= not missing and acknowledged > 0 and (acknowledged == sent or is_away)
    return is_well


def knows_callers() -> bool:
    """Try a proxy of one's own, without Caddy, for a caller that is allowed and for another."""
    callback = f"{API}/callback/paasoo/{TOKEN}?type=dlr&messageid=own&to=6588888888&status=0"
    answers = {
        address: _status_of(callback, {"X-Forwarded-For": address})
        for address in (ALLOWED, "198.51.100.1")
    }
    _say(f"a proxy of one's own: {answers}")
    return [*answers.values()] == ["200", "403"]


def starts_as_any_user() -> bool:
    """Make the first-run files as a uid that the image doesn't know, as OpenShift does."""
    rights = ("--rm", "--read-only", "--tmpfs", "/tmp", "--user", "54321:0")
    start = (
        "import subprocess, sys, time, urllib.request as u\n"
        "serve = subprocess.Popen(['paasoo-dlr', 'serve'], stderr=subprocess.DEVNULL)\n"
        "while serve.poll() is None:\n"
        "    try: sys.exit(u.urlopen('http://127.0.0.1:8000/readyz').status != 200)\n"
        "    except OSError: time.sleep(0.1)\n"
        "sys.exit(1)\n"
    )
    run("docker", "run", *rights, "--entrypoint", "python", PROJECT, "-c", start)
    _say("an arbitrary uid: ready")
    return True


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--by", choices=("script", "up"), default="script", help="how to upgrade")
    parser.add_argument("--only", default="", help="only events with this in their name")
    options = parser.parse_args()
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        _say("no Docker engine answers")
        return 2
    with TemporaryDirectory() as folder:
        set_up(Path(folder))
        try:
            compose("up", "-d", "--build")
            wait_until_ready()
            is_well = knows_callers() and starts_as_any_user()
            return 0 if try_all(options.by, options.only) and is_well else 1
        finally:
            compose("down", "--volumes", "--remove-orphans")


if __name__ == "__main__":
    sys.exit(main())
