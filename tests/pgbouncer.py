"""A PgBouncer with its defaults in front of a PostgreSQL server."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import URL

from tests.process import free_port, is_listening, until
from tests.replication import Node

# All else is PgBouncer's default. `any` takes every client for the user of the first section.
CONFIGURATION: Final = """
[databases]
* = host={server} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
"""
PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")


@contextmanager
def pooled(node: Node, database: str, mode: str) -> Iterator[URL]:
    """The URL of a database through a PgBouncer in `session` or `transaction` mode."""
    assert PROGRAM, "PgBouncer is not installed: apt-get install pgbouncer"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="dlr-bouncer-") as folder:
        Path(folder).chmod(0o755)
        configuration = Path(folder, "pgbouncer.ini")
        text = CONFIGURATION.format(server=node.folder, port=port, mode=mode)
        configuration.write_text(text)
        # It refuses to run as root.
        user = ("-u", node.tools.system_user) if node.tools.system_user else ()
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen([PROGRAM, *user, str(configuration)], stdout=log, stderr=log)
        try:
            until(lambda: is_listening(port) or process.poll() is not None)
            yield URL.create("postgresql+psycopg", "any", None, "127.0.0.1", port, database)
        finally:
            process.kill()
            process.wait()
