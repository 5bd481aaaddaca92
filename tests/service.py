"""The service as its users meet it: over HTTP, on a port of its own."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import httpx2
from sqlalchemy import URL

from app.api.service import Service as ServiceApp
from app.http.server import DrainingServer
from app.main import create_app
from app.settings import Settings, load_settings
from tests.process import client_of

TOKEN = "a-token-of-the-tests"
READ_KEY = "a-key-that-reads"
SEND_KEY = "a-key-that-sends"
ADMIN_KEY = "a-key-that-administers"

SAMPLE = {
    "type": "dlr",
    "messageid": "052804b7368321",
    "to": "6588888888",
    "status": "0",
    "statuscode": "delivered",
    "errcode": "1",
    "network": "52099",
}


def a_report(**changes: object) -> str:
    """The guide's sample report, with changes; None leaves a parameter out."""
    values = {**SAMPLE, **changes}
    return urlencode({name: value for name, value in values.items() if value is not None})


@dataclass
class Service:
    """A running service and an HTTP client for it."""

    app: ServiceApp
    server: DrainingServer
    http: httpx2.Client
    database_url: URL

    @property
    def port(self) -> int:
        assert self.http.base_url.port is not None
        return self.http.base_url.port

    def call_back(self, query: str, **options: Any) -> httpx2.Response:
        """Send a raw query to the callback, as PaaSoo would."""
        return self.http.get(f"/callback/paasoo/{TOKEN}?{query}", **options)

    def get(self, path: str, key: str | None = READ_KEY, **options: Any) -> httpx2.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return self.http.get(path, headers=headers, **options)

    def register(
        self, message_id: str, key: str | None = SEND_KEY, **body: object
    ) -> httpx2.Response:
        """Register a message as sent elsewhere."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        path = f"/v1/messages/{quote(message_id, safe='')}"
        return self.http.put(path, headers=headers, json=body)

    def send(
        self, key: str | None = SEND_KEY, idempotency_key: str | None = None, **body: object
    ) -> httpx2.Response:
        """Send a message; the guide's sample gives the defaults."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        message = {"to": [SAMPLE["to"]], "text": "Hello world", **body}
        return self.http.post("/v1/messages", headers=headers, json=message)

    def found_by(self, reference: str) -> Any:
        """The deliveries with this reference."""
        response = self.get("/v1/deliveries", params={"reference": reference})
        assert response.status_code == 200, response.text
        return response.json()["items"]

    def message(self, message_id: str) -> Any:
        response = self.get(f"/v1/messages/{quote(message_id, safe='')}")
        assert response.status_code == 200, response.text
        return response.json()

    def delivery(self, message_id: str = SAMPLE["messageid"]) -> Any:
        """The delivery of a message that has only one."""
        (delivery,) = self.message(message_id)["deliveries"]
        return delivery

    def reports(self, message_id: str = SAMPLE["messageid"]) -> Any:
        response = self.get(f"/v1/messages/{quote(message_id, safe='')}/reports")
        assert response.status_code == 200, response.text
        return response.json()["reports"]

    def quarantine(self) -> Any:
        response = self.get("/v1/quarantine?limit=1000", key=ADMIN_KEY)
        assert response.status_code == 200, response.text
        return response.json()["items"]

    def metric(self, name: str) -> float:
        """The value of a line of /metrics, named with its labels."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0


def make_settings(database_url: URL, **changes: Any) -> Settings:
    values = {
        "database_url": database_url.render_as_string(hide_password=False),
        "callback_tokens": TOKEN,
        "api_keys": f"reader:read:{READ_KEY},shop:send:{SEND_KEY},boss:admin:{ADMIN_KEY}",
        **changes,
    }
    return load_settings(**values)


@contextmanager
def running_service(database_url: URL, **changes: Any) -> Iterator[Service]:
    """Serve in a thread, on a real port, until the block ends."""
    settings = make_settings(database_url, **changes)
    app = create_app(settings)
    server = DrainingServer(app, settings)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with client_of(port) as http:
                http.get("/livez")  # it has checked its database by then
                yield Service(app, server, http, database_url)
        finally:
            server.close()
            thread.join()
