"""Settings for a running program, questions to it, and load on it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL

from tests.faults.ledger import Ledger, Load
from tests.process import Serving, until
from tests.service import READ_KEY, TOKEN, a_report

AUTHORIZED = {"Authorization": f"Bearer {READ_KEY}"}


def settings_for(url: URL, **changes: str) -> dict[str, str]:
    return {
        "DLR_DATABASE_URL": url.render_as_string(hide_password=False),
        "DLR_CALLBACK_TOKENS": TOKEN,
        "DLR_API_KEYS": f"reader:read:{READ_KEY}",
        "DLR_DRAIN_SECONDS": "0",
        **changes,
    }


def port_of(program: Serving) -> int:
    assert program.http.base_url.port is not None
    return program.http.base_url.port


def call_back(program: Serving, message_id: str) -> int:
    query = a_report(messageid=message_id)
    return program.http.get(f"/callback/paasoo/{TOKEN}?{query}").status_code


def is_found(program: Serving, message_id: str) -> bool:
    path = f"/v1/messages/{message_id}"
    return program.http.get(path, headers=AUTHORIZED).status_code == 200


def metrics_of(program: Serving) -> str:
    return program.http.get("/metrics", headers=AUTHORIZED).text


def spool_is_empty(program: Serving) -> bool:
    return "\ndlr_spool_waiting 0.0\n" in metrics_of(program)


def is_ready(program: Serving) -> bool:
    return program.http.get("/readyz").status_code == 200


@contextmanager
def under_load(ledger: Ledger, program: Serving, a_second: float = 1_000) -> Iterator[None]:
    """Send reports throughout the block: every one that was acknowledged is checked later."""
    load = Load(ledger, [port_of(program)], a_second=a_second)
    load.start()
    try:
        until(lambda: ledger.answers.total() > 100)
        yield
    finally:
        load.stop()
