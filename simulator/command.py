"""`paasoo-dlr simulate`: the options. What takes long to import is imported when it is run."""

import asyncio
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperCommand

from simulator.ledger import LedgerError, new_ledger
from simulator.options import (
    Account,
    Check,
    OptionError,
    Run,
    SendApi,
    ledger_path,
    open_listener,
    parse_shares,
    parse_url,
)
from simulator.traffic import Delays

if TYPE_CHECKING:
    from simulator.check import Verdict
    from simulator.reporter import Tally

MAX_WAIT_S: Final = 86400
DEFAULT_ACCOUNT: Final = "simulator"  # key and secret alike: it guards nothing


program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class OneLineErrors(TyperCommand):
    """A command whose wrong options are one line on stderr, without the usage around it."""

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
    callback: Annotated[
        str | None,
        typer.Option(
            envvar="DLR_SIMULATOR_CALLBACK",
            show_envvar=True,
            help="Callback address that reports are sent to, with its token.",
        ),
    ] = None,
    messages: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Messages to invent. Without it: none with --listen, else one after the other.",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=MAX_WAIT_S * 365,
            help="Invent and take messages for so long; what is due then is still reported.",
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.001, max=100_000, help="Reports a second, at most.")
    ] = 100,
    seed: Annotated[
        int | None,
        typer.Option(help="The same seed gives the same messages. Without it: another each time."),
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WEIGHT",
            help="How often a behaviour is met, as a weight among all; repeatable. The name `all`"
            " stands for every one.",
        ),
    ] = None,
    delay_s: Annotated[
        float, typer.Option(min=0, max=MAX_WAIT_S, help="How long a report takes at most.")
    ] = 1,
    late_s: Annotated[
        float, typer.Option(min=0, max=MAX_WAIT_S, help="And one of the behaviour `late`.")
    ] = 10,
    connections: Annotated[
        int, typer.Option(min=1, max=10_000, help="Connections to the callback address.")
    ] = 16,
    timeout_s: Annotated[
        float,
        typer.Option(min=0.001, max=MAX_WAIT_S, help="How long to wait for a report's answer."),
    ] = 10,
    retries: Annotated[
        int,
        typer.Option(
            min=0, max=1000, help="How often a report is repeated after 503 or no answer."
        ),
    ] = 0,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve the send API there: GET /json."),
    ] = None,
    account_key: Annotated[
        str,
        typer.Option(
            envvar="DLR_SIMULATOR_ACCOUNT_KEY", show_envvar=True, help="The send API's `key`."
        ),
    ] = DEFAULT_ACCOUNT,
    account_secret: Annotated[
        str,
        typer.Option(
            envvar="DLR_SIMULATOR_ACCOUNT_SECRET",
            show_envvar=True,
            help="The send API's `secret`.",
        ),
    ] = DEFAULT_ACCOUNT,
    balance: Annotated[
        int | None,
        typer.Option(
            min=0, help="Recipients that can be sent to before 403. Without it: any number."
        ),
    ] = None,
    lose_answers: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of sends that are accepted, but whose answer gets lost."
        ),
    ] = 0,
    answer_delay_s: Annotated[
        float,
        typer.Option(min=0, max=MAX_WAIT_S, help="How long the answer to an accepted send takes."),
    ] = 0,
    ledger: Annotated[
        Path | None,
        typer.Option(help="File to write down what was sent and how it was answered."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the ledger.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="At the end, compare the ledger with the API; exit code 1 if they differ. With"
            " neither --callback nor --listen: compare a ledger that is there.",
        ),
    ] = False,
    api: Annotated[
        str | None, typer.Option(help="Address of the API, as http://127.0.0.1:8000.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="DLR_SIMULATOR_KEY",
            show_envvar=True,
            help="A key of the API; an admin's, to look into the quarantine too.",
        ),
    ] = None,
    settle_s: Annotated[
        float,
        typer.Option(
            min=0,
            max=MAX_WAIT_S,
            help="How long differences may take to go away, while a spool is drained say.",
        ),
    ] = 0,
) -> None:
    """Be PaaSoo: report on messages at a callback address, and take them through a send API."""
    try:
        asked = _check(check, api, key, settle_s)
        if asked and ledger and callback is None and listen is None:
            _judge(asked, ledger)
            return
        shares = parse_shares(share or [])
        callback = parse_url("--callback", callback)
        if messages is None and listen is not None:
            messages = 0
        with _writable(ledger, overwrite=force) as path:
            run = Run(
                callback=callback,
                messages=messages,
                seconds=seconds,
                rate=rate,
                seed=secrets.randbelow(10**6) if seed is None else seed,
                shares=shares,
                delays=Delays(delay_s, late_s),
                connections=connections,
                timeout_s=timeout_s,
                retries=retries,
                send_api=None
                if listen is None
                else SendApi(
                    listener=open_listener(listen),
                    account=Account(account_key, account_secret, balance),
                    lost_answers=lose_answers,
                    answer_delay_s=answer_delay_s,
                ),
            )
            _simulate(run, path)
            if asked:
                _judge(asked, path)
    except OptionError as error:
        stop(str(error))
    except LedgerError as error:
        stop(f"--ledger: {ledger or 'a temporary file'} {error}")


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
    """The ledger's file; without one, a file for the time of the run."""
    if ledger is not None:
        yield ledger_path(ledger, overwrite=overwrite)
        return
    with tempfile.TemporaryDirectory(prefix="paasoo-dlr-") as folder:
        yield Path(folder, "ledger.jsonl")


def _simulate(run: Run, path: Path) -> None:
    from simulator.simulation import simulate as simulate_run

    if run.send_api is not None:
        host, port = run.send_api.listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"send API: http://{shown}:{port}/json", err=True)
    with new_ledger(path) as ledger:
        tally = asyncio.run(simulate_run(run, ledger))
    typer.echo(_summary(tally, run.seed))


def _summary(tally: "Tally", seed: int) -> str:
    from simulator.progress import answers

    sent = f"sent {tally.messages:,} messages to {tally.deliveries:,} recipients (seed {seed})"
    lines = [f"{sent}; reports answered: {answers(tally)}"]
    if tally.refused_sends:
        lines.append(f"{tally.refused_sends:,} sends were refused")
    if tally.given_up:
        lines.append(f"stopped before {tally.given_up:,} reports were due")
    return "\n".join(lines)


def _judge(asked: Check, path: Path) -> None:
    """Say how the ledger compares with the API. Ends the program with 1 if they differ."""
    from simulator.check import MAX_SHOWN, check

    verdict = check(asked, path)
    for difference in verdict.differences[:MAX_SHOWN]:
        typer.echo(difference)
    if not verdict.quarantine_was_compared:
        typer.echo("the quarantine was not compared: the key is no admin's")
    typer.echo(_conclusion(verdict))
    if verdict.differences:
        raise typer.Exit(1)


def _conclusion(verdict: "Verdict") -> str:
    sent, count = verdict.sent, len(verdict.differences)
    unclear = f" ({sent.unclear:,} perhaps not stored)" if sent.unclear else ""
    compared = (
        f"{len(sent.messages):,} messages, {sent.deliveries:,} deliveries,"
        f" {sent.reports:,} reports{unclear}"
    )
    if count:
        return f"{compared}: {count:,} {'difference' if count == 1 else 'differences'}"
    return f"{compared}: all agree"
