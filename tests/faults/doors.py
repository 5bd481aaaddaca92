"""An address that stays while those behind it come and go, and that can be closed itself."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.process import free_port

CHUNK = 65536

# A port of this machine, or the path of a socket.
Target = int | Path


class Door:
    """Hands connections on, in turn, to those of its targets that somebody listens on."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.port = free_port()
        self._targets = list(targets)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def lead_to(self, *targets: Target) -> None:
        """Hand new connections on to these. Those that are open stay where they are."""
        self._targets = list(targets)

    def open(self) -> None:
        self._do(self._listen())

    def close(self) -> None:
        """Refuse connections, and drop those that are open."""
        self._do(self._leave())

    def end(self) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port, backlog=512)

    async def _leave(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._hand_on(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._targets.append(self._targets.pop(0))
            for target in list(self._targets):
                with suppress(OSError):
                    theirs = await _connect(target)
                    break
            else:
                return
            await _join(reader, writer, *theirs)
        finally:
            writer.transport.abort()


async def _connect(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(target, Path):
        return await asyncio.open_unix_connection(target)
    return await asyncio.open_connection("127.0.0.1", target)


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    their_reader: asyncio.StreamReader,
    their_writer: asyncio.StreamWriter,
) -> None:
    """Copy both ways until one side has ended."""
    copies = [
        asyncio.create_task(_copy(reader, their_writer)),
        asyncio.create_task(_copy(their_reader, writer)),
    ]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in copies:
            copy.cancel()
        their_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()


@contextmanager
def opened(targets: Sequence[Target]) -> Iterator[Door]:
    """A door that is open at first."""
    door = Door(targets)
    try:
        door.open()
        yield door
    finally:
        door.end()
