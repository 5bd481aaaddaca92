"""The commands and their options. Each command imports its code only when it runs.

So `--version`, `--help` and a wrong option are answered without loading the service.
"""

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import typer

from app.reports import State

MAX_PORT: Final = 65535
MAX_DAYS: Final = 100_000

program = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="Keys of the status API.", no_args_is_help=True)
tokens = typer.Typer(help="Secret tokens of the callback address.", no_args_is_help=True)
refused = typer.Typer(help="Callbacks that were refused.", no_args_is_help=True)
program.add_typer(keys, name="key")
program.add_typer(tokens, name="token")
program.add_typer(refused, name="quarantine")
spools = typer.Typer(
    help="Callbacks on local disk, taken while the database was away.", no_args_is_help=True
)
program.add_typer(spools, name="spool")


def main() -> None:
    """Run a command. A wrong setting is one line on stderr, and exit code 2."""
    os.umask(0o077)  # every file that a command makes may hold phone numbers or secrets
    try:
        program()
    except Exception as error:
        from app.settings import SettingsError

        if not isinstance(error, SettingsError):
            raise
        stop(str(error))


def stop(message: str) -> NoReturn:
    typer.echo(f"paasoo-dlr: {message}", err=True)
    sys.exit(2)


@program.callback()
def options(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Receive PaaSoo's SMS delivery reports, and answer with the status of each message."""
    if show_version:
        from importlib.metadata import version

        typer.echo(version("paasoo-dlr"))
        raise typer.Exit


# An empty value is no value, as with a variable: a script may pass one on.


def parse_port(text: str) -> int | None:
    return _whole_number(text, MAX_PORT)


def parse_days(text: str) -> int | None:
    return _whole_number(text, MAX_DAYS)


def _whole_number(text: str, most: int) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isdecimal() or not 1 <= int(text) <= most:
        raise typer.BadParameter(f"must be a whole number from 1 to {most}")
    return int(text)


def parse_state(text: str) -> State | None:
    if not text.strip():
        return None
    try:
        return State(text)
    except ValueError:
        raise typer.BadParameter(f"must be one of {', '.join(State)}") from None


def parse_path(text: str) -> Path | None:
    return Path(text) if text.strip() else None


@program.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [DLR_HOST].")] = None,
    port: Annotated[
        int | None,
        typer.Option(parser=parse_port, metavar="PORT", help="Port to listen on [DLR_PORT]."),
    ] = None,
) -> None:
    """Take callbacks and answer lookups until SIGTERM."""
    # As SIGTERM does: Python's own exception is lost where it meets a destructor.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Off until `serve` has started: what start-up makes stays, and each collection scans it again.
    gc.disable()

    from app.commands import serve

    serve.serve(host, port)


@program.command()
def migrate() -> None:
    """Bring the database's schema up to date. Several at once take turns."""
    from app.commands import migrate

    migrate.migrate()


@program.command()
def doctor() -> None:
    """Look at the database, the disk, the settings and the account. Changes nothing.

    One line for each finding, with `ok`, `warning` or `error`. Exit code 1 if there is an error.
    """
    from app.commands import doctor

    raise typer.Exit(doctor.doctor())


@program.command()
def check(
    address: Annotated[
        str, typer.Argument(metavar="URL", help="The callback address, as PaaSoo has it.")
    ],
) -> None:
    """Call back as PaaSoo would, and look the report up with the key of DLR_CHECK_KEY.

    Tells name, TLS, proxy, token, allowed networks and storage apart. The service removes the test
    report again. Exit code 1 if something is wrong.
    """
    from app.commands import check

    raise typer.Exit(check.check(address))


@program.command()
def purge(
    days: Annotated[
        int | None,
        typer.Option(parser=parse_days, metavar="DAYS", help="Days to keep [DLR_RETENTION_DAYS]."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only count what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Purge final messages whose last report is older, their history, and old refusals.

    Counts them and asks first. Open messages are never purged. `serve` does the same every hour.
    """
    from app.commands import purge

    purge.purge(days, dry_run=dry_run, yes=yes)


@program.command()
def rebuild(
    dry_run: Annotated[bool, typer.Option(help="Only show what would change.")] = False,
) -> None:
    """Recompute every status from the history of its reports, under today's rules.

    Normally nothing changes. On PostgreSQL replicas may go on writing meanwhile.
    """
    from app.commands import rebuild

    rebuild.rebuild(dry_run=dry_run)


def parse_time(text: str) -> int | None:
    if not text.strip():
        return None
    from app.commands import export

    return export.parse_time(text)


def _time(explanation: str) -> Any:
    """An option that takes a time."""
    return typer.Option(parser=parse_time, metavar="TIME", help=explanation)


@program.command()
def export(  # noqa: PLR0913, PLR0917 - one for each option
    form: Annotated[
        Literal["csv", "jsonl"], typer.Option("--format", help="CSV with a header, or JSON lines.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, metavar="FILE", help="File to write; default: standard output."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    spreadsheet_safe: Annotated[
        bool,
        typer.Option(
            "--spreadsheet-safe",
            help="Put a quote before what a spreadsheet takes for a formula: = + - @ tab.",
        ),
    ] = False,
    state: Annotated[
        State | None,
        typer.Option(parser=parse_state, metavar="STATE", help="Only those in this state."),
    ] = None,
    since: Annotated[int | None, _time("Last report at this time or later, RFC 3339.")] = None,
    until: Annotated[int | None, _time("Last report before this time, RFC 3339.")] = None,
) -> None:
    """Write all deliveries, with the fields of the API, oldest report first.

    The export is a snapshot of one moment. It may run beside `serve`, on either database.
    """
    from app.commands import export

    export.export(form, export.Target(output, force, spreadsheet_safe), state, since, until)


@refused.command("list")
def list_refused(
    limit: Annotated[int, typer.Option(min=0, help="Rows at most; 0 shows all.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show refused callbacks, latest first: id, last time, times, code, detail, raw query."""
    from app.commands import quarantine

    quarantine.show(limit, as_json=as_json)


@refused.command("replay")
def replay_refused(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Ids to replay; default: all.")
    ] = None,
) -> None:
    """Parse refused callbacks again under today's rules, and store those that are valid now.

    They are stored with their original times, and leave the quarantine. While `serve` runs on
    SQLite, use POST /v1/quarantine/replay.
    """
    from app.commands import quarantine

    quarantine.replay_refused(ids)


@refused.command("delete")
def delete_refused(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids to delete.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Delete refused callbacks for good.

    While `serve` runs on SQLite, use DELETE /v1/quarantine/ID.
    """
    from app.commands import quarantine

    quarantine.delete(ids, yes=yes)


@spools.command("recover")
def recover(
    file: Annotated[Path, typer.Argument(help="The damaged spool, as /readyz names it.")],
) -> None:
    """Get out of a damaged spool what can be read, into a new one, which `serve` drains.

    The damaged file is kept beside it, as FILE.damaged.
    """
    from app.commands import spool

    spool.recover(file)


@keys.command("new")
def make_key(
    name: Annotated[str, typer.Argument(help="Name of its user; shown in the log.")],
    role: Annotated[
        Literal["read", "send", "admin"],
        typer.Option(help="Its rights; each role contains the ones before."),
    ],
) -> None:
    """Make an API key: print the key, for its user, and the item for DLR_API_KEYS."""
    from app.commands import credentials

    credentials.make_key(name, role)


@tokens.command("new")
def make_token() -> None:
    """Make a secret token for DLR_CALLBACK_TOKENS."""
    from app.commands import credentials

    credentials.make_token()


# The simulator parses its own options, `--help` included, because its code imports nothing of ours.
@program.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def simulate(context: typer.Context) -> None:
    """Be PaaSoo: report on messages at a callback address, and take them through a send API."""
    from simulator.command import program as simulator

    simulator(context.args, prog_name=context.command_path)
