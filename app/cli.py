"""The commands."""

import asyncio
import fcntl
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app import first_run
from app.callback.door import PATH as CALLBACK_PATH
from app.main import create_app
from app.settings import Settings, SettingsError, load_settings, parse_api_key
from app.store import schema
from app.store.engine import Database, open_database
from app.telemetry import set_up_logging

log = logging.getLogger(__name__)

# What was admitted is answered within a commit or two; what is left after this is hung up on.
GRACEFUL_SHUTDOWN_S = 8
# Longer than the idle time-outs of the usual proxies, so that they hang up first, not we.
KEEP_ALIVE_S = 75

program = typer.Typer(
    help="Receives PaaSoo's SMS delivery reports, and answers what became of each message.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="Keys of the status API.", no_args_is_help=True)
tokens = typer.Typer(help="Secret tokens of the callback address.", no_args_is_help=True)
program.add_typer(keys, name="key")
program.add_typer(tokens, name="token")


def main() -> None:
    """Run a command. A wrong setting is one line on stderr, and exit code 2."""
    try:
        program()
    except SettingsError as error:
        stop(str(error))


def stop(message: str) -> NoReturn:
    typer.echo(f"paasoo-dlr: {message}", err=True)
    sys.exit(2)


@program.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [DLR_HOST].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [DLR_PORT].")] = None,
) -> None:
    """Take callbacks and answer lookups until SIGTERM."""
    settings, created_secrets = first_run.with_secrets(load_settings(host=host, port=port))
    set_up_logging(settings.log_level)
    with the_only_process_on(settings):
        refuse_old_schema(settings)
        if created_secrets:
            typer.echo(welcome(settings))
        app = create_app(settings)
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http="httptools",
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,  # it prints whole queries, token and phone number included
            proxy_headers=False,  # who called is decided in `guards`
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
        )
        DrainingServer(config, app, settings.drain_seconds).run()


class DrainingServer(uvicorn.Server):
    """On SIGTERM `/readyz` fails first, and the port closes a little later.

    A load balancer needs that moment to send new reports elsewhere: PaaSoo may never repeat one
    that found the port closed.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._draining = app.state.draining
        self._drain_seconds = drain_seconds

    async def serve(self, *args: object, **kwargs: object) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(*args, **kwargs)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = sig == signal.SIGINT
        elif sig == signal.SIGTERM and not self._draining.is_set():
            self._draining.set()
            log.info("SIGTERM: draining")
            self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_seconds, self.close)
        else:
            self._draining.set()
            self.close()

    def close(self) -> None:
        self.should_exit = True


@contextmanager
def the_only_process_on(settings: Settings) -> Iterator[None]:
    """SQLite is for one process: a second `serve` on the same file is refused."""
    if not settings.is_embedded:
        yield
        return
    file = Path(f"{settings.database.database}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("w")
    except OSError as error:
        raise SettingsError(f"DLR_DATABASE_URL: can't write there: {error}") from None
    with opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"DLR_DATABASE_URL: {settings.database.database} is served by another process; "
                "SQLite is for one, PostgreSQL for many"
            ) from None
        yield


def refuse_old_schema(settings: Settings) -> None:
    """A server database must have been migrated. One that is away is checked when it's back."""
    if settings.is_embedded:
        return
    database = open_database(settings.database)
    try:
        with database.read.connect() as connection:
            current = schema.is_current(connection)
    except OperationalError:
        log.warning("the database can't be reached; starting without it")
        return
    except SQLAlchemyError as error:
        raise SettingsError(f"DLR_DATABASE_URL: {short(error)}") from None
    finally:
        database.close()
    if not current:
        raise SettingsError(
            "DLR_DATABASE_URL: its schema is not the one of this version; run `paasoo-dlr migrate`"
        )


def welcome(settings: Settings) -> str:
    """What a newcomer copies, shown once."""
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    base = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    lines = [""]
    if settings.callback_tokens:
        address = f"{base}{CALLBACK_PATH}/{settings.callback_tokens[0]}"
        lines += ["Callback address, to give to PaaSoo (with the host that it can reach):", address]
    key_file = settings.data_dir / first_run.ADMIN_KEY_FILE
    if key_file.exists():
        key = key_file.read_text().strip()
        lines += [
            "Look a message up:",
            f"curl -H 'Authorization: Bearer {key}' {base}/v1/messages/052804b7368321",
        ]
    return "\n".join(
        [*lines, f"This is shown once; both secrets are kept in {settings.data_dir}/.", ""]
    )


@program.command()
def migrate() -> None:
    """Bring the database's schema up to date. Several at once take turns."""
    settings = load_settings()
    with opened_database(settings) as database:
        before, after = schema.upgrade(database.write)
    typer.echo(f"schema: {before or 'none'} -> {after}" if before != after else f"schema: {after}")


@contextmanager
def opened_database(settings: Settings) -> Iterator[Database]:
    """The database for a command: one that fails ends it with one line."""
    try:
        database = open_database(settings.database)
    except OSError as error:
        raise SettingsError(f"DLR_DATABASE_URL: can't be opened: {error}") from None
    try:
        yield database
    except SQLAlchemyError as error:
        raise SettingsError(f"DLR_DATABASE_URL: {short(error)}") from None
    finally:
        database.close()


def short(error: SQLAlchemyError) -> str:
    """The driver's own words, on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


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
