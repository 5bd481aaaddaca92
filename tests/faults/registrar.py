"""Registers the messages of a simulator with the service, as the system that sent them would."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx2

from simulator.traffic import Message
from tests.process import NO_TLS
from tests.service import SEND_KEY

AT_ONCE = 8
AUTHORIZED = {"Authorization": f"Bearer {SEND_KEY}"}
# Before the ledger is read again, or a replica that was killed is asked again.
PAUSE_S = 0.02


class Registrar(threading.Thread):
    """Registers each message as soon as it is in the simulator's ledger, through every fault."""

    def __init__(self, port: int, ledger: Path, messages: Iterable[Message]) -> None:
        super().__init__(name="registrar", daemon=True)
        self.begun_at: dict[str, float] = {}  # the time of the first attempt
        self.refusals: list[str] = []
        self._url = f"http://127.0.0.1:{port}/v1/messages/"
        self._ledger = ledger
        self._recipients = {
            message.message_id: [delivery.recipient for delivery in message.deliveries]
            for message in messages
        }

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        free = asyncio.Semaphore(AT_ONCE)
        async with (
            httpx2.AsyncClient(verify=NO_TLS, trust_env=False, headers=AUTHORIZED) as http,
            asyncio.TaskGroup() as registering,
        ):
            async for message_id in self._sent():
                await free.acquire()
                task = registering.create_task(self._register(http, message_id))
                task.add_done_callback(lambda _: free.release())

    async def _sent(self) -> AsyncIterator[str]:
        """The messages in the order of the ledger, which grows, until all have come."""
        to_come = {it: set(recipients) for it, recipients in self._recipients.items()}
        line = b""
        with self._ledger.open("rb") as file:
            while to_come:
                line += file.readline()
                if not line.endswith(b"\n"):
                    await asyncio.sleep(PAUSE_S)
                    continue
                event, line = json.loads(line), b""
                recipients = to_come.get(event.get("messageid"))
                if event["event"] == "sent" and recipients:
                    recipients.discard(event["to"])
                    if not recipients:
                        del to_come[event["messageid"]]
                        yield event["messageid"]

    async def _register(self, http: httpx2.AsyncClient, message_id: str) -> None:
        self.begun_at[message_id] = time.time()
        body = {"to": self._recipients[message_id]}
        while True:
            try:
                answer = await http.put(self._url + message_id, json=body)
            except httpx2.TransportError:
                await asyncio.sleep(PAUSE_S)
                continue
            if answer.status_code == 200:
                return
            if answer.status_code != 503:
                self.refusals.append(f"{answer.status_code} {answer.text}")
                return
            await asyncio.sleep(PAUSE_S)
