"""A receiver of pushes that costs little: counts the items, and how late the newest of each is."""

import asyncio
import json
import re
import signal
import sys
import time
from datetime import datetime
from typing import Final

TAKEN: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
LENGTH: Final = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
RECEIVED: Final = b'"last_received_at":"'

pushes: list[tuple[int, float]] = []  # the items of each, and the age of the newest in seconds


class Taker(asyncio.Protocol):
    """Takes one push after the other, on a connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = bytearray()

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        found = LENGTH.search(self.received, 0, end) if end >= 0 else None
        if found is None or len(self.received) < end + 4 + int(found[1]):
            return
        at = self.received.rfind(RECEIVED) + len(RECEIVED)
        newest = datetime.fromisoformat(self.received[at : at + 27].decode())
        pushes.append((self.received.count(b'"messageid":'), time.time() - newest.timestamp()))
        self.received.clear()
        self.transport.write(TAKEN)


async def main(port: int) -> None:
    """Serve until SIGTERM, then print the pushes as JSON."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    async with await loop.create_server(Taker, "127.0.0.1", port):
        await ended.wait()
    json.dump(pushes, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
