"""A run that receives pushes, from the first one to the comparison with the service."""

import asyncio
import time
from functools import partial

from simulator.api import Api, ApiUnavailableError, opened
from simulator.check import ASK_AGAIN_AFTER_S
from simulator.ledger import Ledger
from simulator.options import Check, OptionError, Receiver
from simulator.progress import counted, shown
from simulator.pushes import Form, Key, Pushes, differences, form_of, key_of
from simulator.receiver import serve, write_down
from simulator.reporter import Stopping
from simulator.simulation import stop_on_signals


async def receive(
    settings: Receiver, asked: Check | None, ledger: Ledger
) -> tuple[Pushes, list[str] | None]:
    """Receive until the time is over, or SIGINT or SIGTERM comes; then compare, if asked to.

    Returns the pushes, and how the API differs from them. Raises `OptionError` if the API can't be
    asked, and `LedgerError`.
    """
    stopping, closing, pushes = Stopping(), Stopping(), Pushes()
    stop_on_signals(stopping)
    write_down(
        ledger,
        pushes,
        "receiving",
        seed=settings.seed,
        shares=settings.faults,
        pushed=settings.expected,
        cursor=await asyncio.to_thread(_end_of_feed, asked) if asked else None,
    )
    async with shown(partial(line_of, pushes)):
        serving = asyncio.create_task(serve(settings, ledger, pushes, closing))
        serving.add_done_callback(lambda _: stopping.set())
        try:
            await stopping.sleep(settings.seconds)
            # Go on receiving meanwhile: the last changes may still be on their way.
            found = await compare(asked, pushes) if asked else None
        finally:
            closing.set()
            await serving
    return pushes, found


async def compare(asked: Check, pushes: Pushes) -> list[str]:
    """Compare, again and again, until there is no difference or `settle_s` is over.

    Raises `OptionError` if the API can't be asked.
    """
    deadline = time.monotonic() + asked.settle_s
    with opened(asked) as api:
        while True:
            try:
                known, changed = await asyncio.to_thread(
                    _known, api, pushes.cursor, pushes.deliveries
                )
                found = list(differences(pushes, changed, known))
                if not found or time.monotonic() >= deadline:
                    return found
            except ApiUnavailableError as error:
                if time.monotonic() >= deadline:
                    raise OptionError(f"--api: {error}") from None
            await asyncio.sleep(ASK_AGAIN_AFTER_S)


def _end_of_feed(asked: Check) -> str:
    with opened(asked) as api:
        try:
            _, cursor = api.changes("now")
        except ApiUnavailableError as error:
            raise OptionError(f"--api: {error}") from None
        return cursor


def _known(api: Api, cursor: str | None, pushed: set[Key]) -> tuple[dict[Key, Form], set[Key]]:
    """The deliveries that the service knows, and those that changed after the cursor."""
    changed = set() if cursor is None else _changed_after(api, cursor)
    found = api.messages(sorted({message_id for message_id, _ in pushed | changed}))
    deliveries = [delivery for message in found.values() for delivery in message["deliveries"]]
    return {key_of(delivery): form_of(delivery) for delivery in deliveries}, changed


def _changed_after(api: Api, cursor: str) -> set[Key]:
    changed: set[Key] = set()
    while True:
        items, cursor = api.changes(cursor)
        if not items:
            return changed
        changed.update(map(key_of, items))


def line_of(pushes: Pushes) -> str:
    answers = counted(pushes.answers) or "none yet"
    return f"{pushes.answers.total():,} pushes ({answers}) | {pushes.items:,} items"


def summary(pushes: Pushes) -> str:
    count = f"{pushes.answers.total():,} pushes of {pushes.items:,} items"
    answered = f"answered: {counted(pushes.answers) or 'none'}"
    again = f"{pushes.pushes_again:,} pushes ({pushes.pushes_again_though_taken:,} already taken)"
    lines = [
        f"received {count} (seed {pushes.seed}); {answered}",
        f"came again: {again}, {pushes.items_again:,} items in the same form",
    ]
    if pushes.others:
        lines.append(f"{pushes.others:,} pushes were of another type")
    if pushes.beside:
        lines.append(
            f"{pushes.beside:,} pushes were under way beside another to their address,"
            f" for {pushes.longest_beside_s:.3f} s at most"
        )
    return "\n".join(lines)


def conclusion(pushes: Pushes, count: int, *, was_compared: bool) -> str:
    addresses = f"{len(pushes.addresses):,} address{'es' * (len(pushes.addresses) != 1)}"
    compared = f"{addresses}, {len(pushes.deliveries):,} deliveries"
    if not was_compared:
        compared += ", not compared with the API"
    if count:
        return f"{compared}: {count:,} {'difference' if count == 1 else 'differences'}"
    return f"{compared}: {'all agree' if was_compared else 'no differences'}"
