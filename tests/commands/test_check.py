"""`paasoo-dlr check`: each fault on the way of a callback has a name, and nothing is left."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import URL, create_engine, text

from app.commands import check as check_command
from app.ops import upkeep
from app.store import checks
from tests.process import Ended, free_port, run
from tests.sending.provider import bytes_answered
from tests.service import ADMIN_KEY, READ_KEY, TOKEN, Service, running_service

CERTIFICATE = Path(__file__).parents[1] / "sending" / "tls" / "localhost-with-key.pem"


def check(address: str, key: str | None = READ_KEY, **environment: str) -> tuple[Ended, list[str]]:
    """The end of the command, and the first two words of each line."""
    given = environment if key is None else {"DLR_CHECK_KEY": key, **environment}
    ended = run("check", address, **given)
    assert ended.stderr == ""
    assert TOKEN not in ended.stdout
    assert READ_KEY not in ended.stdout
    return ended, [" ".join(line.split()[:2]) for line in ended.stdout.splitlines()]


def address_of(service: Service, token: str = TOKEN) -> str:
    return f"http://127.0.0.1:{service.port}/callback/paasoo/{token}"


# A private address, without TLS.
REACHED = ["warning name", "ok connection", "warning tls"]
ACCEPTED = [*REACHED, "ok proxy", "ok token", "ok networks", "ok storage"]


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks are removed soon, so that the command has less to wait for."""
    monkeypatch.setattr(upkeep, "CHECKS_INTERVAL_S", 0.2)
    monkeypatch.setattr(checks, "KEPT_S", 2)


@pytest.mark.usefixtures("_soon")
def test_a_callback_that_works_is_found_and_leaves_nothing_behind(database_url: URL) -> None:
    with running_service(database_url) as service:
        ended, lines = check(address_of(service))

        assert (ended.code, lines) == (0, [*ACCEPTED, "ok lookup", "ok removal"])
        for path in ("/v1/deliveries", "/v1/changes"):
            assert service.get(path).json()["items"] == []
        assert service.get("/v1/stats").json()["totals"]["total"] == 0
        assert service.get("/v1/quarantine", key=ADMIN_KEY).json()["items"] == []


def test_a_wrong_token_is_told(service: Service) -> None:
    ended, lines = check(address_of(service, "another"))

    assert (ended.code, lines) == (1, [*REACHED, "ok proxy", "error token"])


def test_a_key_that_is_not_known_is_told(service: Service) -> None:
    ended, lines = check(address_of(service), "a-key-of-nobody")

    assert (ended.code, lines) == (1, [*ACCEPTED, "error lookup"])
    assert "DLR_CHECK_KEY" in ended.stdout


def test_without_a_key_it_is_not_looked_up(service: Service) -> None:
    ended, lines = check(address_of(service), key=None)

    assert (ended.code, lines) == (0, [*ACCEPTED, "warning lookup"])
    assert "DLR_CHECK_KEY" in ended.stdout


def test_networks_that_leave_the_caller_out_are_told(database_url: URL) -> None:
    with running_service(database_url, callback_allowed_networks="192.0.2.0/24") as service:
        ended, lines = check(address_of(service))

    assert (ended.code, lines) == (1, [*REACHED, "ok proxy", "ok token", "error networks"])
    assert "DLR_CALLBACK_ALLOWED_NETWORKS" in ended.stdout


def test_a_report_that_cannot_be_stored_is_told(database_url: URL) -> None:
    with running_service(database_url, spool="off") as service:
        engine = create_engine(database_url)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE deliveries RENAME TO elsewhere"))
        ended, lines = check(address_of(service))
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO deliveries"))
        engine.dispose()

    assert (ended.code, lines) == (1, [*ACCEPTED[:-1], "error storage"])


def test_a_report_that_waits_in_the_spool_is_told() -> None:
    away = URL.create("postgresql+psycopg", "dlr", None, "127.0.0.1", 1, "dlr")
    with running_service(away) as service:
        ended, lines = check(address_of(service))

    assert (ended.code, lines) == (1, [*ACCEPTED, "error lookup"])
    assert "spool" in ended.stdout


@contextmanager
def answering(callback: bytes, lookup: bytes = b"", tls: str | None = None) -> Iterator[int]:
    """Something that isn't the service. `tls`: the file of its certificate and key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(callback if "/callback/" in self.path else lookup)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that doesn't trust the certificate hangs up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def problem(status: int, code: str) -> bytes:
    body = f'{{"code": "{code}"}}'.encode()
    return bytes_answered(body, "Content-Type: application/problem+json", status=status)


HTML = "Content-Type: text/html"
OK = bytes_answered(b"OK", "Content-Type: text/plain; charset=utf-8")
LOGIN = "Location: https://login.example.com/secret-path"
STRANGERS = {
    "a proxy without the service": (bytes_answered(b"", HTML, status=502), "can't reach"),
    "a login page": (bytes_answered(b"<h1>Sign in</h1>", HTML), "login page"),
    "a redirect": (bytes_answered(b"", LOGIN, status=302), "https://login.example.com"),
    "a login": (bytes_answered(b"", "WWW-Authenticate: Basic", status=401), "wants a login"),
    "a firewall": (bytes_answered(b"no", HTML, status=403), "firewall"),
    "another path": (bytes_answered(b"no", HTML, status=404), "doesn't pass"),
    "a cache": (bytes_answered(b"OK", "Age: 17"), "cache"),
    "a changed query": (problem(400, "invalid_encoding"), "invalid_encoding"),
}


@pytest.mark.parametrize(("answer", "part"), STRANGERS.values(), ids=STRANGERS)
def test_what_stands_in_front_is_told(answer: bytes, part: str) -> None:
    with answering(answer) as port:
        ended, lines = check(f"http://127.0.0.1:{port}/callback/paasoo/{TOKEN}")

    assert (ended.code, lines) == (1, [*REACHED, "error proxy"])
    assert part in ended.stdout.splitlines()[-1]
    assert "secret-path" not in ended.stdout


LOOKUPS = {
    "another database": (problem(404, "message_not_found"), "another database"),
    "a role that is too low": (problem(403, "forbidden"), "role"),
    "a proxy without the API": (bytes_answered(b"no", HTML, status=404), "doesn't pass"),
    "a page": (bytes_answered(b"<h1>Hello</h1>", HTML), "login page"),
}


@pytest.mark.parametrize(("answer", "part"), LOOKUPS.values(), ids=LOOKUPS)
def test_a_lookup_that_finds_nothing_is_told(answer: bytes, part: str) -> None:
    with answering(OK, answer) as port:
        ended, lines = check(f"http://127.0.0.1:{port}/sms/callback/paasoo/{TOKEN}")

    assert ended.code == 1
    assert lines[:3] == REACHED
    assert part in ended.stdout.splitlines()[-1]


def test_a_report_that_stays_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_command, "REMOVED_WITHIN_S", 1)
    monkeypatch.setenv("DLR_CHECK_KEY", READ_KEY)
    with answering(OK, bytes_answered(b'{"deliveries": [{}]}')) as port:
        code = check_command.check(f"http://127.0.0.1:{port}/callback/paasoo/{TOKEN}")

    assert code == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("error    removal")


def test_an_answer_that_never_comes_is_told() -> None:
    with answering(b"") as port:
        ended, lines = check(f"http://127.0.0.1:{port}/callback/paasoo/{TOKEN}")

    assert (ended.code, lines) == (1, [*REACHED, "error answer"])


def test_a_port_that_refuses_is_told() -> None:
    ended, lines = check(f"http://127.0.0.1:{free_port()}/callback/paasoo/{TOKEN}")

    assert (ended.code, lines) == (1, ["warning name", "error connection"])
    assert "refused" in ended.stdout


def test_a_name_without_an_address_is_told() -> None:
    ended, lines = check(f"https://no-such-host.invalid/callback/paasoo/{TOKEN}")

    assert (ended.code, lines) == (1, ["error name"])


def made_certificate(folder: Path, days: int) -> str:
    """A certificate for 127.0.0.1, with its key, that ends in so many days."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate, both = (str(folder / name) for name in ("key", "certificate", "both.pem"))
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ("-subj", "/CN=a-test", "-addext", "subjectAltName=IP:127.0.0.1")
    out = ("-keyout", key, "-out", certificate)
    subprocess.run([openssl, *new, *names, *out], check=True, capture_output=True)
    again = ("x509", "-in", certificate, "-signkey", key, "-days", str(days), "-out", both)
    subprocess.run([openssl, *again], check=True, capture_output=True)
    with Path(both).open("a") as opened:
        opened.write(Path(key).read_text())
    return both


@pytest.mark.parametrize(
    ("days", "level", "part"),
    [(-1, "error", "has expired"), (3, "warning", "2 more days"), (90, "ok", "89 more days")],
)
def test_a_certificate_near_its_end_is_told(
    tmp_path: Path, days: int, level: str, part: str
) -> None:
    certificate = made_certificate(tmp_path, days)
    with answering(b"", tls=certificate) as port:
        address = f"https://127.0.0.1:{port}/callback/paasoo/{TOKEN}"
        ended, lines = check(address, SSL_CERT_FILE=certificate)

    assert ended.code == 1  # it answers nothing
    assert lines[2] == f"{level} tls"
    assert part in ended.stdout.splitlines()[2]


@pytest.mark.parametrize(
    ("host", "trusted", "part"),
    [("localhost", True, "another name"), ("127.0.0.1", False, "signed by itself")],
)
def test_a_certificate_that_is_not_valid_here_is_told(host: str, trusted: bool, part: str) -> None:
    with answering(b"", tls=str(CERTIFICATE)) as port:
        address = f"https://{host}:{port}/callback/paasoo/{TOKEN}"
        given = {"SSL_CERT_FILE": str(CERTIFICATE)} if trusted else {}
        ended, lines = check(address, **given)

    assert (ended.code, lines[-1]) == (1, "error tls")
    assert part in ended.stdout


def test_a_port_without_tls_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=answer_plainly, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        ended, lines = check(f"https://127.0.0.1:{port}/callback/paasoo/{TOKEN}")
        thread.join()

    assert (ended.code, lines[-1]) == (1, "error tls")


def answer_plainly(listener: socket.socket) -> None:
    for _ in range(2):  # the connection alone, and TLS
        connection, _ = listener.accept()
        with connection:
            if connection.recv(65536):
                connection.sendall(b"HTTP/1.1 400 X\r\n\r\n")


@pytest.mark.parametrize(
    "address",
    [
        "sms.example.com/callback/paasoo/a-token",
        "ftp://sms.example.com/callback/paasoo/a-token",
        "https://sms.example.com/",
        "https://sms.example.com/callback/paasoo/a-token?type=dlr",
        "https://user@sms.example.com/callback/paasoo/a-token",
        "https://sms.example.com:port/callback/paasoo/a-token",
    ],
)
def test_what_is_no_callback_address_is_one_line(address: str) -> None:
    ended = run("check", address)

    assert ended.code == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("paasoo-dlr: URL: must be ")
    assert "a-token" not in line
