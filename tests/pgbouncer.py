"""A PgBouncer in front of a PostgreSQL server, as `deploy/pgbouncer.ini` sets it up."""

import configparser
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import URL

from tests.process import ROOT, free_port, is_listening, until
from tests.replication import Node

CONFIGURATION: Final = ROOT / "deploy" / "pgbouncer.ini"
# Addresses, paths, and the way to sign in. All else is left out to try PgBouncer's defaults.
NEEDED: Final = ("listen_addr", "listen_port", "unix_socket_dir", "auth_type", "auth_file")
PASSWORD: Final = "a-password"
PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")


@contextmanager
def pooled(node: Node, database: str, mode: str, *, with_defaults: bool = False) -> Iterator[URL]:
    """The URL of a database through a PgBouncer in `session` or `transaction` mode."""
    assert PROGRAM, "PgBouncer is not installed: apt-get install pgbouncer"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="dlr-bouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        users = folder / "userlist.txt"
        users.write_text(f'"postgres" "{PASSWORD}"\n')
        configuration = _configuration(with_defaults)
        configuration["databases"] = {"*": f"host={node.folder}"}
        replaced = {
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_file": str(users),
            "pool_mode": mode,
        }
        configuration["pgbouncer"].update(replaced)
        with (folder / "pgbouncer.ini").open("w") as file:
            configuration.write(file)
        # It refuses to run as root.
        user = ("-u", node.tools.system_user) if node.tools.system_user else ()
        with (folder / "log").open("wb") as log:
            command = [PROGRAM, *user, file.name]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(lambda: is_listening(port) or process.poll() is not None)
            yield URL.create(
                "postgresql+psycopg", "postgres", PASSWORD, "127.0.0.1", port, database
            )
        finally:
            process.kill()
            process.wait()


def _configuration(with_defaults: bool) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters="=", interpolation=None)
    assert parser.read(CONFIGURATION)
    for name in list(parser["pgbouncer"]) if with_defaults else []:
        if name not in NEEDED:
            del parser["pgbouncer"][name]
    return parser
