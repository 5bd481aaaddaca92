"""`paasoo-dlr simulate`: from the options to a run, its check and its exit code."""

import asyncio
import math
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer
from typer.core import TyperCommand

from simulator import arguments
from simulator.ledger import LedgerError, new_ledger
from simulator.options import (
    CALLBACK_EXAMPLE,
    Account,
    Calls,
    Check,
    Kind,
    OptionError,
    Pushed,
    Receiver,
    Run,
    SendApi,
    address_of,
    ledger_path,
    open_listener,
    parse_away,
    parse_faults,
    parse_network,
    parse_secrets,
    parse_shares,
    parse_url,
)
from simulator.traffic import Delays, Mix

if TYPE_CHECKING:
    from simulator.check import Verdict
    from simulator.pushes import Pushes
    from simulator.reporter import Tally

DEFAULT_ACCOUNT: Final = "simulator"  # key and secret alike: it guards nothing

program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class OneLineErrors(TyperCommand):
    """A command that answers a wrong option with one line on stderr, without its usage."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().make_context(*arguments, **options)
        except typer.TyperException as error:
            stop(error.format_message())


def stop(message: str) -> NoReturn:
    typer.echo(f"paasoo-dlr: {' '.join(message.split())}", err=True)
    raise typer.Exit(2)


@program.command(cls=OneLineErrors)
def simulate(  # noqa: PLR0913, PLR0917 - one for each option
    callback: arguments.Callback = None,
    messages: arguments.Messages = None,
    seconds: arguments.Seconds = None,
    rate: arguments.Rate = 100,
    seed: arguments.Seed = None,
    share: arguments.Shares = None,
    delay_s: arguments.Delay = 1,
    late_s: arguments.Late = 10,
    connections: arguments.Connections = 16,
    timeout_s: arguments.Timeout = 10,
    retries: arguments.Retries = 0,
    listen: arguments.Listen = None,
    account_key: arguments.AccountKey = DEFAULT_ACCOUNT,
    account_secret: arguments.AccountSecret = DEFAULT_ACCOUNT,
    account_kind: arguments.AccountKind = Kind.GUIDE,
    balance: arguments.Balance = None,
    send_rate: arguments.SendRate = None,
    allowed_network: arguments.AllowedNetwork = None,
    lose_answers: arguments.LoseAnswers = 0,
    system_errors: arguments.SystemErrors = 0,
    odd_answers: arguments.OddAnswers = 0,
    odd_pulls: arguments.OddPulls = 0,
    answer_delay_s: arguments.AnswerDelay = 0,
    receive: arguments.Receive = None,
    receive_secret: arguments.ReceiveSecrets = None,
    receive_share: arguments.ReceiveShares = None,
    receive_away: arguments.ReceiveAway = None,
    receive_events: arguments.ReceiveEvents = Pushed.ALL,
    ledger: arguments.LedgerFile = None,
    force: arguments.Force = False,
    check: arguments.Compare = False,
    api: arguments.Api = None,
    key: arguments.ApiKey = None,
    settle_s: arguments.Settle = 0,
) -> None:
    """Be PaaSoo: report on messages at a callback address, and take them through a send API.

    Or be a system that changes are pushed to.
    """
    with _one_line_errors(ledger):
        asked = _check(check, api, key, settle_s)
        if receive is not None:
            _refuse_to_send(callback, listen)
            keys, faults = parse_secrets(receive_secret or []), parse_faults(receive_share or [])
            rest = (keys, receive_events, _seed(seed), faults, parse_away(receive_away), seconds)
            with _writable(ledger, overwrite=force) as path:
                _receive(Receiver(open_listener("--receive", receive), *rest), asked, path)
            return
        if asked and ledger and callback is None and listen is None:
            _judge_again(asked, ledger)
            return
        mix = Mix(_seed(seed), parse_shares(share or []), Delays(delay_s, late_s))
        address = parse_url("--callback", callback, CALLBACK_EXAMPLE)
        calls = Calls(address, rate, connections, timeout_s, retries)
        rate_allowed = _allowed_rate(account_kind, send_rate, system_errors)
        allowed = parse_network(allowed_network)
        account = Account(account_kind, account_key, account_secret, balance, rate_allowed, allowed)
        with _writable(ledger, overwrite=force) as path:
            odd = (lose_answers, system_errors, odd_answers, odd_pulls, answer_delay_s)
            listener = None if listen is None else open_listener("--listen", listen)
            send_api = None if listener is None else SendApi(listener, account, *odd)
            _simulate(Run(mix, calls, send_api, messages, seconds), path)
            if asked:
                _judge(asked, path)


@contextmanager
def _one_line_errors(ledger: Path | None) -> Iterator[None]:
    try:
        yield
    except OptionError as error:
        stop(str(error))
    except LedgerError as error:
        stop(f"--ledger: {ledger or 'a temporary file'} {error}")


def _refuse_to_send(callback: str | None, listen: str | None) -> None:
    for name, given in (("--callback", callback), ("--listen", listen)):
        if given is not None:
            raise OptionError(
                f"{name}: has no place beside --receive, which only receives; run another simulator"
                " to send (unset DLR_SIMULATOR_CALLBACK)"
            )


def _seed(given: int | None) -> int:
    return secrets.randbelow(10**6) if given is None else given


def _allowed_rate(kind: Kind, send_rate: float | None, system_errors: float) -> float:
    """The sends a second that the account may make. A guide's account has no word for too many."""
    if kind is not Kind.PUBLIC and (send_rate is not None or system_errors):
        name = "--system-errors" if send_rate is None else "--send-rate"
        raise OptionError(f"{name}: needs --account-kind public")
    return math.inf if send_rate is None else send_rate


def _check(wanted: bool, api: str | None, key: str | None, settle_s: float) -> Check | None:
    if not wanted:
        return None
    address = parse_url("--api", api)
    if not key:
        raise OptionError("--key: is missing; --check needs a key of the API")
    if not key.isascii() or not key.isprintable():
        raise OptionError("--key: is no key of the API")
    return Check(address, key, settle_s)


@contextmanager
def _writable(ledger: Path | None, *, overwrite: bool) -> Iterator[Path]:
    """The ledger's file; without one, a temporary file."""
    if ledger is not None:
        yield ledger_path(ledger, overwrite=overwrite)
        return
    with tempfile.TemporaryDirectory(prefix="paasoo-dlr-") as folder:
        yield Path(folder, "ledger.jsonl")


def _simulate(run: Run, path: Path) -> None:
    from simulator.simulation import simulate as simulate_run

    if run.send_api is not None:
        typer.echo(f"send API: http://{address_of(run.send_api.listener)}/json", err=True)
    with new_ledger(path) as ledger:
        tally = asyncio.run(simulate_run(run, ledger))
    typer.echo(_summary(tally, run.mix.seed))


def _receive(receiver: Receiver, asked: Check | None, path: Path) -> None:
    from simulator.receiving import receive

    typer.echo(f"receiver: http://{address_of(receiver.listener)}/", err=True)
    with new_ledger(path) as ledger:
        pushes, differences = asyncio.run(receive(receiver, asked, ledger))
    _conclude(pushes, differences)


def _summary(tally: "Tally", seed: int) -> str:
    from simulator.progress import answers, counted

    sent = f"sent {tally.messages:,} messages to {tally.deliveries:,} recipients (seed {seed})"
    lines = [f"{sent}; reports answered: {answers(tally)}"]
    if set(tally.answers) == {"404"}:
        lines.append("--callback: nothing is there; does it end with the service's token?")
    if tally.questions:
        lines.append(f"questions answered: {counted(tally.questions)}")
    if tally.refused_sends:
        lines.append(f"{tally.refused_sends:,} sends were refused")
    if tally.given_up:
        lines.append(f"stopped before {tally.given_up:,} reports were due")
    return "\n".join(lines)


def _conclude(pushes: "Pushes", compared: list[str] | None) -> None:
    """Print the figures of a run that received, and what is wrong. Exit with 1 if anything is."""
    from simulator.receiving import conclusion, summary

    differences = [*pushes.differences, *(compared or [])]
    typer.echo(summary(pushes))
    _show(differences)
    typer.echo(conclusion(pushes, len(differences), was_compared=compared is not None))
    if differences:
        raise typer.Exit(1)


def _show(differences: list[str]) -> None:
    from simulator.check import MAX_SHOWN

    for difference in differences[:MAX_SHOWN]:
        typer.echo(difference)


def _judge(asked: Check, path: Path) -> None:
    """Print how the ledger compares with the API. Exit with 1 if they differ."""
    from simulator.check import check

    verdict = check(asked, path)
    typer.echo(f"{verdict.sent.deliveries:,} deliveries: {_sources(verdict)}")
    _show(verdict.differences)
    if not verdict.quarantine_was_compared:
        typer.echo("the quarantine was not compared: the key is no admin's")
    typer.echo(_conclusion(verdict))
    if verdict.differences:
        raise typer.Exit(1)


def _judge_again(asked: Check, path: Path) -> None:
    """Do the same with an earlier ledger, of either kind."""
    from simulator.pushes import read_pushes
    from simulator.receiving import compare

    pushes = read_pushes(path)
    if pushes is None:
        _judge(asked, path)
    else:
        _conclude(pushes, asyncio.run(compare(asked, pushes)))


def _sources(verdict: "Verdict") -> str:
    """Counts that add up to the deliveries sent."""
    from simulator.check import Source

    return ", ".join(f"{verdict.known[it]:,} {it}" for it in Source if verdict.known[it])


def _conclusion(verdict: "Verdict") -> str:
    sent, count = verdict.sent, len(verdict.differences)
    unclear = f" ({sent.unclear:,} perhaps not stored)" if sent.unclear else ""
    compared = (
        f"{len(sent.messages):,} messages, {sent.deliveries:,} deliveries,"
        f" {sent.reports:,} reports{unclear}"
    )
    if sent.questions:
        compared += f", {sent.questions:,} questions"
    if count:
        return f"{compared}: {count:,} {'difference' if count == 1 else 'differences'}"
    return f"{compared}: all agree"
