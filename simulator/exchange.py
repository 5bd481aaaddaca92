"""Takes messages, invented ones and those of the send API, and tells what becomes of them."""

import asyncio
from enum import StrEnum

from simulator import traffic
from simulator.accounts import Order
from simulator.inquiries import Answer, Kind, Memory, parts_invented, parts_of
from simulator.ledger import Ledger
from simulator.options import Run, SendApi
from simulator.reporter import Reporter, Tally
from simulator.traffic import Delivery, Message, Mix


class Fate(StrEnum):
    """The answer to a send that was taken, as the ledger has it."""

    GIVEN = "given"
    LOST = "lost"
    SYSTEM_ERROR = "system error"  # it says nothing of the message, which was sent


class Exchange:
    """The way of every message of a run: into the ledger first, then to the reporter.

    It remembers messages too, if it may be asked about them.
    """

    def __init__(
        self, run: Run, ledger: Ledger, tally: Tally, reporter: Reporter, tasks: asyncio.TaskGroup
    ) -> None:
        self._run = run
        self._ledger = ledger
        self._tally = tally
        self._reporter = reporter
        self._tasks = tasks
        self._memory = Memory() if run.send_api is not None else None
        self._sends = 0
        self._questions = 0

    @property
    def mix(self) -> Mix:
        return self._run.mix

    def invent(self, number: int) -> Message:
        """Take a made-up message, and start all its reports."""
        message = traffic.invent(self._run.mix, number)
        self._write_down(message, parts_invented(self.mix.generator("parts", number)), "invented")
        for delivery in message.deliveries:
            self._start(message, delivery)
        return message

    def accept(self, order: Order, send_api: SendApi) -> tuple[Message, Fate]:
        """Take a send without reporting yet: its message, and how it is to be answered."""
        self._sends += 1
        message = traffic.accept(self.mix, self._sends, order.recipients)
        fate = Fate.GIVEN
        if traffic.happens(self.mix, "answer", self._sends, send_api.lost_answers):
            fate = Fate.LOST
        elif traffic.happens(self.mix, "system error", self._sends, send_api.system_errors):
            fate = Fate.SYSTEM_ERROR
        sender = {} if order.sender is None else {"from": order.sender}
        fields = {"text": order.text, "answer": fate, **sender}
        self._write_down(message, parts_of(order.text), "api", **fields)
        return message, fate

    def refuse(self, status: int, why: str) -> None:
        self._tally.refused_sends += 1
        self._ledger.write("refused", status=status, why=why)

    def answer(self, message_id: str, odd_share: float) -> Answer:
        """Answer a question about a message; a share of the answers is odd."""
        assert self._memory
        self._questions += 1
        random = self.mix.generator("question", self._questions)
        answer = self._memory.answer(message_id, random, odd_share)
        self._write_question(message_id, answer)
        return answer

    def refuse_question(self, why: str) -> None:
        self._write_question(None, Answer(Kind.REFUSED), why=why)

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

    def _write_question(self, message_id: str | None, answer: Answer, **fields: str) -> None:
        self._tally.questions[answer.kind] += 1
        self._ledger.write(
            "asked",
            messageid=message_id,
            answer=answer.kind,
            odd=answer.is_odd,
            told=answer.told,
            **fields,
        )

    def _write_down(self, message: Message, parts: int, via: str, **fields: str) -> None:
        if self._memory is not None:
            self._memory.remember(message, parts)
        self._tally.messages += 1
        for delivery in message.deliveries:
            self._tally.deliveries += 1
            self._ledger.write(
                "sent",
                messageid=message.message_id,
                to=delivery.recipient,
                behaviour=delivery.behaviour,
                via=via,
                **fields,
            )
