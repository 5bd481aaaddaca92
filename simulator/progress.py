"""The live line: for a run that sends, messages, answers so far, and reports to come."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from simulator.reporter import Tally

PLAIN_LINE_EVERY_S: Final = 5.0


def line_of(tally: Tally) -> str:
    parts = [f"{tally.messages:,} messages to {tally.deliveries:,} recipients"]
    if tally.refused_sends:
        parts.append(f"{tally.refused_sends:,} sends refused")
    if tally.questions:
        parts.append(f"{tally.questions.total():,} questions")
    parts += [
        f"{tally.answers.total():,} reports ({answers(tally)})",
        f"{tally.rate():,.0f}/s",
        f"{tally.outstanding:,} outstanding",
    ]
    return " | ".join(parts)


def answers(tally: Tally) -> str:
    """The answers to the reports, counted: `1,200 x 200, 31 x 400`."""
    return counted(tally.answers) or "none yet"


def counted(answers: Counter[str]) -> str:
    return ", ".join(f"{count:,} x {answer}" for answer, count in sorted(answers.items()))


@asynccontextmanager
async def shown(line: Callable[[], str]) -> AsyncIterator[None]:
    """Update the line on a terminal; elsewhere print one every few seconds. Both on stderr."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Live(
            get_renderable=lambda: Text(line()),
            console=console,
            transient=True,
        ):
            yield
        return
    printing = asyncio.create_task(_print_lines(line))
    try:
        yield
    finally:
        printing.cancel()


async def _print_lines(line: Callable[[], str]) -> None:
    while True:
        await asyncio.sleep(PLAIN_LINE_EVERY_S)
        print(line(), file=sys.stderr, flush=True)  # noqa: T201 - this is the output
