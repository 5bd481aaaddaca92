"""Two replicas behind nginx, as `deploy/nginx.conf` has them: one after the other may restart."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import URL

from tests.faults.programs import AUTHORIZED, Replica
from tests.flow.proxies import nginx_as_deployed
from tests.process import client_of, free_port
from tests.service import TOKEN, a_report

CALLERS = 3
PAUSE_S = 0.02


def test_no_callback_goes_unanswered_while_one_replica_dies_and_then_the_other_restarts(
    postgres_url: URL, tmp_path: Path
) -> None:
    replicas = [Replica(postgres_url, tmp_path) for _ in range(2)]
    are_over = threading.Event()
    with ExitStack() as started:
        for it in replicas:
            started.callback(it.kill)
            it.start()
        ports = (replicas[0].port, replicas[1].port)
        proxy = started.enter_context(nginx_as_deployed(ports, tmp_path))
        with ThreadPoolExecutor(CALLERS) as callers:
            calls = [callers.submit(call_back, proxy, name, are_over) for name in range(CALLERS)]
            for it, end in zip(replicas, (Replica.kill, Replica.terminate), strict=True):
                end(it)
                it.start()
            are_over.set()
        answers = {key: value for call in calls for key, value in call.result().items()}
        with client_of(proxy) as http:
            found = {name: http.get(f"/v1/messages/{name}", headers=AUTHORIZED) for name in answers}

    assert len(answers) > CALLERS
    assert set(answers.values()) == {200}
    assert {response.status_code for response in found.values()} == {200}


def call_back(port: int, caller: int, are_over: threading.Event) -> dict[str, int]:
    """Call back until the restarts are over: the status of each message's answer."""
    answers: dict[str, int] = {}
    with client_of(port) as http:
        while not are_over.wait(PAUSE_S):
            name = f"{caller}-{len(answers)}"
            path = f"/callback/paasoo/{TOKEN}?{a_report(messageid=name)}"
            answers[name] = http.get(path).status_code
    return answers


def test_nginx_writes_no_address_of_a_callback(tmp_path: Path) -> None:
    with nginx_as_deployed((free_port(), free_port()), tmp_path) as port, client_of(port) as http:
        assert http.get(f"/callback/paasoo/{TOKEN}?{a_report()}").status_code == 502

    written = "".join(file.read_text() for file in tmp_path.glob("*.log"))
    assert not re.search(f"{TOKEN}|6588888888", written)
