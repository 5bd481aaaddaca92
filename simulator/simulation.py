"""A run from the first message to the last report."""

import asyncio
import itertools
import signal
from functools import partial

from simulator import progress
from simulator.exchange import Exchange
from simulator.ledger import Ledger, LedgerError
from simulator.options import Run
from simulator.reporter import Pace, Reporter, Stopping, Tally
from simulator.send_api import server_for


async def simulate(run: Run, ledger: Ledger) -> Tally:
    """Run until all is reported on, or until SIGINT or SIGTERM. Raises `LedgerError`."""
    tally, stopping = Tally(), Stopping()
    stop_on_signals(stopping)
    reporter = Reporter(run.calls, ledger, tally, stopping)
    ledger.write("run", seed=run.mix.seed, shares=run.mix.shares)
    try:
        async with progress.shown(partial(progress.line_of, tally)), asyncio.TaskGroup() as tasks:
            # The group ends with the last answer.
            exchange = Exchange(run, ledger, tally, reporter, tasks)
            await _take_messages(run, exchange, tally, stopping)
    except* LedgerError as failed:
        raise first_of(failed) from None
    finally:
        await reporter.close()
    return tally


def stop_on_signals(stopping: Stopping) -> None:
    """Let the first SIGINT or SIGTERM stop the run, and the second end the process at once."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        stopping.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, stop)


async def _take_messages(run: Run, exchange: Exchange, tally: Tally, stopping: Stopping) -> None:
    """Invent messages and take sends until the run's time is up."""
    async with asyncio.TaskGroup() as taking:
        server = None
        closing = Stopping()  # what is answered late is answered now
        if run.send_api is not None:
            server = server_for(run.send_api, exchange, closing)
            taking.create_task(server.serve([run.send_api.listener]))
        try:
            async with asyncio.timeout(run.seconds):
                await _invent(run, exchange, tally, stopping)
                if server is not None:
                    await stopping.sleep(None)
        except TimeoutError:
            pass
        closing.set()
        if server is not None:
            server.should_exit = True


async def _invent(run: Run, exchange: Exchange, tally: Tally, stopping: Stopping) -> None:
    """Invent messages at the rate of their reports, and wait if reports fall behind."""
    pace = Pace(run.calls.rate, stopping)
    for number in itertools.count(1):
        if stopping or number > run.messages_to_invent:
            return
        while tally.waiting > run.calls.connections and not stopping:
            await stopping.sleep(0.01)
        message = exchange.invent(number)
        reports = sum(len(delivery.calls) for delivery in message.deliveries)
        await pace.turn(max(1, reports))


def first_of(failed: BaseExceptionGroup[LedgerError]) -> LedgerError:
    """The first error, taken out of the groups around it: several would say the same."""
    first = failed.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first
