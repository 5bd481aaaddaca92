"""A provider that gives any answer, including those that the simulator never gives."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from ssl import SSLContext
from threading import Event, Thread
from urllib.parse import parse_qs, urlsplit

# Words that occur nowhere else, so that a leak is found.
ACCOUNT = "an-account-key"
SECRET = "an-account-s3cr3t"


def answered(body: object, status: int = 200) -> bytes:
    """A whole HTTP answer: JSON, or plain text."""
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return bytes_answered(content, status=status)


def bytes_answered(content: bytes, *headers: str, status: int = 200) -> bytes:
    """A whole HTTP answer, its body to the byte."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def accepted(message_id: str = "052804b7368321") -> bytes:
    return answered({"status": "0", "messageid": message_id})


HANGS_UP = b""


@dataclass
class Provider:
    """Its answers, one after the other, and the requests that it got."""

    url: str = ""
    answers: Queue[bytes] = field(default_factory=Queue)
    asked: list[str] = field(default_factory=list)
    peers: list[tuple[str, int]] = field(default_factory=list)  # the clients' addresses
    is_asked: Event = field(default_factory=Event)

    def will_answer(self, *answers: bytes) -> None:
        for answer in answers:
            self.answers.put(answer)

    @property
    def queries(self) -> list[dict[str, str]]:
        """The parameters of each request."""
        return [
            {name: value for name, (value,) in parse_qs(urlsplit(target).query).items()}
            for target in self.asked
        ]


def account_at(provider: Provider) -> dict[str, str]:
    """The settings of a service that sends through a provider."""
    return {"paasoo_url": provider.url, "paasoo_key": ACCOUNT, "paasoo_secret": SECRET}


@contextmanager
def running_provider(tls: SSLContext | None = None) -> Iterator[Provider]:
    """A provider on a port of its own. It doesn't answer while it has no answer left."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            provider.peers.append(self.client_address)
            provider.asked.append(self.path)
            provider.is_asked.set()
            answer = provider.answers.get()
            self.wfile.write(answer)
            self.close_connection = b"\r\n\r\n" not in answer or b"Connection: close" in answer

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            pass  # the service went away, or doesn't trust the certificate

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if tls is None else "https"
        provider.url = f"{scheme}://127.0.0.1:{server.server_port}/json"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()
