"""Batches over the connection of the event loop's, without a service."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from app.reports import DeliveryReport
from app.store import write
from app.store.direct import Direct
from app.store.engine import Database


async def take(direct: Direct, batch: Sequence[DeliveryReport]) -> bool:
    """Commit a batch over it. False if it doesn't take such a batch."""
    committed = asyncio.get_running_loop().create_future()

    def failed(fault: Exception | None) -> None:
        committed.set_exception(fault or AssertionError("the thread's turn"))

    if not direct.take(batch, lambda: committed.set_result(True), failed):
        return False
    return bool(await committed)


@contextmanager
def committing_directly(
    database: Database,
) -> Iterator[Callable[[Database, Sequence[DeliveryReport]], None]]:
    """Yields a function that commits a batch as the service does: by the thread what else is."""
    direct = Direct(database)
    assert direct.open()
    with asyncio.Runner() as runner:

        def commit(database: Database, batch: Sequence[DeliveryReport]) -> None:
            if not runner.run(take(direct, batch)):
                write.commit(database, batch)

        try:
            yield commit
        finally:
            direct.close()
