"""A receiver of pushes that verifies each, and answers as a test wants."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from ssl import SSLContext
from threading import Event, Thread
from typing import Any

from sqlalchemy import select
from standardwebhooks.webhooks import Webhook

from app.store.tables import webhooks
from tests.service import ADMIN_KEY, Service

# Far longer than a push takes, as the machine may be busy.
WITHIN_S = 20


@dataclass(frozen=True)
class Push:
    """A push as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float  # of the monotonic clock

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.body)["data"]["items"]
        return items

    @property
    def message_ids(self) -> list[str]:
        return [item["messageid"] for item in self.items]

    def verify(self, secret: str) -> None:
        """Raises what the official library raises."""
        Webhook(secret).verify(self.body, dict(self.headers))


@dataclass
class Receiver:
    """The pushes that came, and the answers to give: 204 while none is set."""

    url: str = ""
    pushes: Queue[Push] = field(default_factory=Queue)
    answers: Queue[bytes] = field(default_factory=Queue)
    let_go: Event = field(default_factory=Event)

    def next_push(self, within_s: float = WITHIN_S) -> Push:
        return self.pushes.get(timeout=within_s)

    def has_push(self) -> bool:
        return not self.pushes.empty()

    def take_all(self, number: int) -> list[dict[str, Any]]:
        """The items of the next pushes, this many in all."""
        items: list[dict[str, Any]] = []
        while len(items) < number:
            items += self.next_push().items
        assert len(items) == number
        return items


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


TAKEN = answer(204)
HANGS = b""


@contextmanager
def running_receiver(tls: SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver on a port of its own."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.pushes.put(Push(self.path, headers, body, time.monotonic()))
            try:
                given = receiver.answers.get_nowait()
            except Empty:
                given = TAKEN
            if given == HANGS:
                receiver.let_go.wait(60)
                self.close_connection = True
                return
            self.wfile.write(given)

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """The service hangs up on what is too long."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        receiver.url = f"{scheme}://127.0.0.1:{server.server_port}/dlr"
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.let_go.set()
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Hooks:
    """The webhooks' endpoints of a service, with the key of an administrator."""

    service: Service

    def call(self, method: str, path: str = "", key: str | None = ADMIN_KEY, **options: Any) -> Any:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        path = f"/v1/webhooks{path}"
        return self.service.http.request(method, path, headers=headers, **options)

    def add(self, url: str, **body: object) -> Any:
        response = self.call("POST", json={"url": url, **body})
        assert response.status_code == 201, response.text
        return response.json()

    def show(self, webhook_id: str) -> Any:
        response = self.call("GET", f"/{webhook_id}")
        assert response.status_code == 200, response.text
        return response.json()

    def enable(self, webhook_id: str) -> None:
        assert self.call("POST", f"/{webhook_id}/enable").status_code == 200


def owner_of(service: Service, webhook_id: str) -> object:
    """The process that pushes to an address."""
    with service.app.parts.database.read.connect() as connection:
        query = select(webhooks.c.owner).where(webhooks.c.id == webhook_id)
        return connection.execute(query).scalar_one()
