"""Takes messages, invented ones and those of the send API, and starts their reports."""

import asyncio

from simulator import traffic
from simulator.ledger import Ledger
from simulator.options import Run
from simulator.reporter import Reporter, Tally
from simulator.traffic import Delivery, Message


class Exchange:
    """The way of every message of a run: into the ledger first, then to the reporter."""

    def __init__(
        self, run: Run, ledger: Ledger, tally: Tally, reporter: Reporter, tasks: asyncio.TaskGroup
    ) -> None:
        self._run = run
        self._ledger = ledger
        self._tally = tally
        self._reporter = reporter
        self._tasks = tasks
        self._sends = 0

    def invent(self, number: int) -> Message:
        """Take a made-up message, and start all its reports."""
        message = traffic.invent(self._run.mix, number)
        self._write_down(message, via="invented")
        for delivery in message.deliveries:
            self._start(message, delivery)
        return message

    def accept(self, recipients: list[str], text: str, lost_answers: float) -> tuple[Message, bool]:
        """Take a send without reporting yet: its message, and True if its answer gets lost."""
        self._sends += 1
        message = traffic.accept(self._run.mix, self._sends, recipients)
        is_lost = traffic.is_answer_lost(self._run.mix, self._sends, lost_answers)
        self._write_down(message, via="api", text=text, answer="lost" if is_lost else "given")
        return message, is_lost

    def refuse(self, status: int, why: str) -> None:
        self._tally.refused_sends += 1
        self._ledger.write("refused", status=status, why=why)

    async def report_before_the_answer(self, message: Message) -> None:
        """Send the early reports, and wait until they are answered."""
        async with asyncio.TaskGroup() as early:
            for delivery in message.deliveries:
                if delivery.is_early:
                    early.create_task(self._reporter.report(message.message_id, delivery))

    async def report_after_the_answer(self, message: Message) -> None:
        """Start all other reports."""
        for delivery in message.deliveries:
            if not delivery.is_early:
                self._start(message, delivery)

    def _start(self, message: Message, delivery: Delivery) -> None:
        self._tasks.create_task(self._reporter.report(message.message_id, delivery))

    def _write_down(self, message: Message, **fields: str) -> None:
        self._tally.messages += 1
        for delivery in message.deliveries:
            self._tally.deliveries += 1
            self._ledger.write(
                "sent",
                messageid=message.message_id,
                to=delivery.recipient,
                behaviour=delivery.behaviour,
                **fields,
            )
