"""Proxies in front of the service that keep their connections to it, as those in production do."""

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.process import ROOT, free_port, is_listening, until

CADDYFILE: Final = ROOT / "deploy" / "Caddyfile"
NGINX_CONF: Final = ROOT / "deploy" / "nginx.conf"

# As its documentation has it for WebSockets, with connections that are kept.
NGINX_IN_A_FOLDER: Final = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
"""
NGINX: Final = (
    NGINX_IN_A_FOLDER
    + """
    upstream service {{ server 127.0.0.1:{upstream}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{port};
        location {location} {{
            proxy_pass http://service{replaced_by};
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
        }}
    }}
}}
"""
)


@contextmanager
def our_own(upstream: int) -> Iterator[int]:
    """Hands requests on to the letter, one after the other, on one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = threading.Thread(target=_hand_on, args=(listener, upstream))
        served.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            served.join()


def _hand_on(listener: socket.socket, upstream: int) -> None:
    kept = None
    while True:
        try:
            client, _ = listener.accept()
        except OSError:  # the test is over
            break
        with client:
            kept = kept or socket.create_connection(("127.0.0.1", upstream), timeout=10)
            kept.sendall(_message(client))
            answer = _message(kept)
            client.sendall(answer)
        if not answer or b"\r\nconnection: close\r\n" in answer:
            kept.close()
            kept = None
    if kept:
        kept.close()


def _message(connection: socket.socket) -> bytes:
    """A head, and the body that its `Content-Length` announces."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += (received := connection.recv(65536))
        if not received:
            return data
    head, _, _ = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = len(head) + 4 + (int(lengths[0].split(b":")[1]) if lengths else 0)
    while len(data) < length:
        data += (received := connection.recv(65536))
        if not received:
            return data
    return data


@contextmanager
def caddy(upstream: int, folder: Path, domain: str = "http://") -> Iterator[int]:
    """Caddy with the project's own Caddyfile, without TLS unless the domain has it."""
    program = _installed("caddy")
    port = free_port()
    environment = {
        "HOME": str(folder),
        "DOMAIN": f"{domain}:{port}",
        "UPSTREAM": f"127.0.0.1:{upstream}",
    }
    command = [program, "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"]
    with _running(command, port, environment):
        yield port


@contextmanager
def nginx(
    upstream: int, folder: Path, *, location: str = "/", replaced_by: str = ""
) -> Iterator[int]:
    """nginx with the usual lines for WebSockets."""
    program = _installed("nginx", "/usr/sbin/nginx")
    port = free_port()
    names = {"folder": folder, "upstream": upstream, "port": port}
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(**names, location=location, replaced_by=replaced_by))
    with _running([program, "-e", f"{folder}/error.log", "-c", str(configuration)], port, {}):
        yield port


@contextmanager
def nginx_as_deployed(replicas: tuple[int, int], folder: Path) -> Iterator[int]:
    """nginx with the project's own file, but without TLS and with these ports."""
    program = _installed("nginx", "/usr/sbin/nginx")
    port = free_port()
    deployed = re.sub(r"(?m)^ +(listen|ssl_certificate)\b.*\n", "", NGINX_CONF.read_text())
    changes = {
        ":8001": f":{replicas[0]}",
        ":8002": f":{replicas[1]}",
        "/var/log/nginx/": f"{folder}/",
        "server_name": f"listen 127.0.0.1:{port}; server_name",
    }
    for part, change in changes.items():
        assert part in deployed
        deployed = deployed.replace(part, change)
    configuration = folder / "nginx.conf"
    configuration.write_text(f"{NGINX_IN_A_FOLDER.format(folder=folder)}{deployed}}}\n")
    with _running([program, "-e", f"{folder}/error.log", "-c", str(configuration)], port, {}):
        yield port


def _installed(name: str, path: str | None = None) -> str:
    found = shutil.which(name) or (path and shutil.which(path))
    if not found:
        pytest.skip(f"{name} is not installed (CI has it)")
    return found


@contextmanager
def _running(command: list[str], port: int, environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: is_listening(port))
        yield
    finally:
        process.terminate()
        process.wait(10)


PROXIES: Final[dict[str, Callable[[int, Path], AbstractContextManager[int]]]] = {
    "our own": lambda upstream, _folder: our_own(upstream),
    "caddy": caddy,
    "nginx": nginx,
}
