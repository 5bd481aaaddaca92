"""The commands."""

import gc
import logging
import os
import socket
import sys
from contextlib import ExitStack
from enum import StrEnum
from hashlib import sha256
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app import first_run
from app.callback.door import PATH as CALLBACK_PATH
from app.commands import quarantine
from app.commands.database import opened_database, short, the_only_process_on
from app.commands.export import export
from app.commands.purge import purge
from app.commands.rebuild import rebuild
from app.main import create_app
from app.server import DrainingServer, allow_many_connections
from app.settings import (
    Settings,
    SettingsError,
    load_settings,
    parse_api_key,
    unknown_variables,
)
from app.store import schema
from app.telemetry import set_up_logging
from simulator.command import OneLineErrors, simulate

log = logging.getLogger(__name__)

# Connections that may wait to be accepted: a burst of callbacks is not to find the port closed.
BACKLOG = 2048
# What the kernel keeps for a client that doesn't read: by itself, it would be megabytes for each.
UNREAD_BYTES = 128 * 1024

program = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="Keys of the status API.", no_args_is_help=True)
tokens = typer.Typer(help="Secret tokens of the callback address.", no_args_is_help=True)
program.add_typer(keys, name="key")
program.add_typer(tokens, name="token")
program.add_typer(quarantine.commands, name="quarantine")
program.command(cls=OneLineErrors)(simulate)


def main() -> None:
    """Run a command. A wrong setting is one line on stderr, and exit code 2."""
    try:
        program()
    except SettingsError as error:
        stop(str(error))


def stop(message: str) -> NoReturn:
    typer.echo(f"paasoo-dlr: {message}", err=True)
    sys.exit(2)


@program.callback()
def options(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Receives PaaSoo's SMS delivery reports, and answers what became of each message."""
    if show_version:
        typer.echo(version("paasoo-dlr"))
        raise typer.Exit


@program.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [DLR_HOST].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [DLR_PORT].")] = None,
) -> None:
    """Take callbacks and answer lookups until SIGTERM."""
    settings = load_settings(host=host, port=port)
    os.umask(0o077)  # what it writes holds phone numbers
    set_up_logging(settings.log_level)
    for name in unknown_variables():
        log.warning("there is no such setting", extra={"variable": name})
    if not settings.is_embedded:
        settings = first_run.with_secrets(settings).settings
    allow_many_connections()
    with the_only_process_on(settings), ExitStack() as opened:
        prepare_schema(settings)
        if settings.is_embedded and any(settings.data_dir.glob("spool-*.db")):
            log.warning("a server database's spool is not drained into the embedded database")
        sockets = [opened.enter_context(listener) for listener in listen(settings)]
        # Only now, when nothing is left to fail: they are shown but once.
        first = first_run.with_secrets(settings)
        if first.new_token or first.new_key:
            typer.echo(welcome(first))
        if not first.settings.callback_tokens:
            log.warning(
                "the callback's path has no token: only DLR_CALLBACK_ALLOWED_NETWORKS guard it",
                extra={"path": CALLBACK_PATH},
            )
        app = build_app(first.settings)
        log.info(
            "serving",
            extra={
                "version": version("paasoo-dlr"),
                "address": f"{settings.host}:{settings.port}",
                "database": settings.database.render_as_string(),
                "data_dir": str(settings.data_dir),
            },
        )
        # All that was made by now stays: without this, the collector looks through it again and
        # again, and each time some answer comes 50 ms late.
        gc.collect()
        gc.freeze()
        DrainingServer(app, first.settings).run(sockets)


def build_app(settings: Settings) -> FastAPI:
    try:
        return create_app(settings)
    except (OSError, SQLAlchemyError) as error:
        # All that it opens is the spool.
        raise SettingsError(f"DLR_DATA_DIR: the spool can't be opened: {error}") from None


def listen(settings: Settings) -> list[socket.socket]:
    """Sockets for every address that the host's name stands for."""
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        addresses = {(family, address) for family, _, _, _, address in found}
        listeners = [
            socket.create_server(address, family=family, backlog=BACKLOG)
            for family, address in sorted(addresses)
        ]
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"DLR_HOST, DLR_PORT: can't listen on {settings.host} port {settings.port}: {why}"
        ) from None
    for listener in listeners:
        # Each connection inherits it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
    return listeners


def prepare_schema(settings: Settings) -> None:
    """Bring the embedded database up to date; a server database must have been migrated.

    A server database that is away is checked when it's back.
    """
    with opened_database(settings, hurried=not settings.is_embedded) as database:
        if settings.is_embedded:
            before, after = schema.upgrade(database.write)
            if before and before != after:
                log.info("schema brought up to date", extra={"before": before, "after": after})
            return
        try:
            with database.read.connect() as connection:
                current = schema.is_current(connection)
        except OperationalError as error:
            if is_refusal(error):
                raise
            log.warning("starting without the database", extra={"error": short(error)})
            return
    if not current:
        raise SettingsError(
            "DLR_DATABASE_URL: its schema is not the one of this version; run `paasoo-dlr migrate`"
        )


def is_refusal(error: OperationalError) -> bool:
    """Whether a server is there and says that it won't have us: a wrong name, a wrong password."""
    passing = ("starting up", "shutting down", "recovery", "too many", "remaining connection")
    said = str(error.orig)
    return "FATAL:" in said and not any(word in said for word in passing)


def welcome(first: first_run.FirstRun) -> str:
    """What a newcomer copies, shown once."""
    settings = first.settings
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    base = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    lines = [""]
    if first.new_token:
        lines += [
            "Callback address, to give to PaaSoo (with a host that it can reach):",
            f"{base}{CALLBACK_PATH}/{first.new_token}",
        ]
    if first.new_key:
        lines += [
            "Look a message up:",
            f"curl -H 'Authorization: Bearer {first.new_key}' {base}/v1/messages/052804b7368321",
        ]
    lines += [f"Shown this once, and kept in {settings.data_dir}/.", ""]
    return "\n".join(lines)


@program.command()
def migrate() -> None:
    """Bring the database's schema up to date. Several at once take turns."""
    settings = load_settings()
    with (
        the_only_process_on(settings, patience_s=5),
        opened_database(settings) as database,
    ):
        before, after = schema.upgrade(database.write)
    typer.echo(f"schema: {before or 'none'} -> {after}" if before != after else f"schema: {after}")


for command in (purge, rebuild, export):
    program.command()(command)


class RoleName(StrEnum):
    """What an API key may do; each contains the ones before."""

    READ = "read"
    SEND = "send"
    ADMIN = "admin"


@keys.command("new")
def make_key(
    name: Annotated[str, typer.Argument(help="Who will use it; shown in the log.")],
    role: Annotated[RoleName, typer.Option(help="What it may do.")],
) -> None:
    """Make an API key: the key for its user, and its line for DLR_API_KEYS."""
    if not name or any(character in ":, \t\n" for character in name):
        raise typer.BadParameter("a name has no space, comma or colon", param_hint="NAME")
    key = first_run.new_secret()
    line = f"{name}:{role}:sha256={sha256(key.encode()).hexdigest()}"
    assert parse_api_key(line).name == name
    typer.echo(f"key, for its user, shown once: {key}")
    typer.echo(f"item for DLR_API_KEYS:          {line}")


@tokens.command("new")
def make_token() -> None:
    """Make a secret token for DLR_CALLBACK_TOKENS."""
    typer.echo(first_run.new_secret())
