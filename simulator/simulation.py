"""A run: messages are invented or taken, reported on, and written down, until the end."""

import asyncio
import itertools
import signal

from simulator import progress
from simulator.exchange import Exchange
from simulator.ledger import Ledger, LedgerError
from simulator.options import Run
from simulator.reporter import Pace, Reporter, Stopping, Tally
from simulator.send_api import server_for


async def simulate(run: Run, ledger: Ledger) -> Tally:
    """Until what was asked for is reported on, or SIGINT or SIGTERM. Raises `LedgerError`."""
    tally, stopping = Tally(), Stopping()
    stop_on_signals(stopping)
    reporter = Reporter(
        callback=run.callback,
        rate=run.rate,
        connections=run.connections,
        timeout_s=run.timeout_s,
        retries=run.retries,
        ledger=ledger,
        tally=tally,
        stopping=stopping,
    )
    ledger.write("run", seed=run.seed, shares=run.shares)
    try:
        async with progress.shown(tally), asyncio.TaskGroup() as tasks:
            # The group ends when the last report is answered.
            exchange = Exchange(run, ledger, tally, reporter, tasks)
            await _take_messages(run, exchange, tally, stopping)
    except* LedgerError as failed:
        raise first_of(failed) from None
    finally:
        await reporter.close()
    return tally


def stop_on_signals(stopping: Stopping) -> None:
    """The first SIGINT or SIGTERM lets what is under way finish; the second ends the process."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        stopping.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, stop)


async def _take_messages(run: Run, exchange: Exchange, tally: Tally, stopping: Stopping) -> None:
    """Invent messages and take sends, for as long as the run is to last."""
    async with asyncio.TaskGroup() as taking:
        server = None
        if run.send_api is not None:
            server = server_for(run.send_api, exchange, stopping)
            taking.create_task(server.serve([run.send_api.listener]))
        try:
            async with asyncio.timeout(run.seconds):
                await _invent(run, exchange, tally, stopping)
                if server is not None:
                    await stopping.sleep(None)
        except TimeoutError:
            pass
        if server is not None:
            server.should_exit = True


async def _invent(run: Run, exchange: Exchange, tally: Tally, stopping: Stopping) -> None:
    """Messages as fast as their reports may go, and no faster than they do."""
    pace = Pace(run.rate, stopping)
    for number in itertools.count(1):
        if stopping or (run.messages is not None and number > run.messages):
            return
        while tally.waiting > run.connections and not stopping:
            await stopping.sleep(0.01)
        message = exchange.invent(number)
        reports = sum(len(delivery.reports) for delivery in message.deliveries)
        await pace.turn(max(1, reports))


def first_of(failed: BaseExceptionGroup[LedgerError]) -> LedgerError:
    """The error itself, out of the groups around it; where there are several they say the same."""
    first = failed.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first
