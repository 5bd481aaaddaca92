"""`paasoo-dlr serve`: check everything that can fail, then serve until SIGTERM."""

import gc
import logging
from contextlib import ExitStack
from importlib.metadata import version

import typer
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from app.api.service import Service
from app.callback.door import PATH as CALLBACK_PATH
from app.commands import first_run
from app.commands.database import opened_database, remedy_of, the_only_process_on
from app.commands.listening import given_by_systemd, listen
from app.http.descriptors import allow_many_connections
from app.http.server import DrainingServer
from app.main import create_app
from app.settings import (
    ENV_FILE,
    MIN_SECRET_LENGTH,
    Settings,
    SettingsError,
    has_unreadable_env_file,
    load_settings,
    unknown_variables,
)
from app.store import changes, faults, schema
from app.telemetry import set_up_logging
from app.variables import of_kubernetes

log = logging.getLogger(__name__)


def serve(host: str | None, port: int | None) -> None:
    """Serve until SIGTERM. Raises `SettingsError` before the first request is taken."""
    settings = load_settings(host=host, port=port)
    set_up_logging(settings.log_level)
    warn_of_variables()
    if not settings.is_embedded:
        settings = first_run.with_secrets(settings).settings
    allow_many_connections()
    with the_only_process_on(settings), ExitStack() as opened:
        prepare_schema(settings)
        warn_of_a_foreign_spool(settings)
        given = given_by_systemd()
        sockets = [opened.enter_context(it) for it in given or listen(settings)]
        if given:
            host, port = given[0].getsockname()[:2]
            settings = settings.model_copy(update={"host": host, "port": port})
        # New secrets are shown once, so make them only when nothing else can fail.
        first = first_run.with_secrets(settings)
        if first.new_token or first.new_key:
            typer.echo(welcome(first))
        app = build_app(first.settings)
        log_start(first.settings, len(given))
        keep_what_start_made()
        DrainingServer(app, first.settings).run(sockets)


def warn_of_variables() -> None:
    for name, nearest in unknown_variables().items():
        log.warning("no setting has this name", extra={"variable": name, "nearest": nearest})
    if has_unreadable_env_file():
        log.warning("ignored: this user can't read it", extra={"file": str(ENV_FILE.absolute())})
    if "DLR_PORT" in of_kubernetes():
        log.warning(
            "ignored: Kubernetes sets this for a service of that name",
            extra={"variable": "DLR_PORT"},
        )


def warn_of_short_secrets(settings: Settings) -> None:
    message = f"shorter than {MIN_SECRET_LENGTH} characters, so that it may be guessed"
    for position, token in enumerate(settings.callback_tokens, start=1):
        if len(token) < MIN_SECRET_LENGTH:
            extra = {"variable": "DLR_CALLBACK_TOKENS", "position": position}
            log.warning(message, extra=extra)
    for position, key in enumerate(settings.api_keys, start=1):
        if key.is_short:
            extra = {"variable": "DLR_API_KEYS", "position": position, "key": key.name}
            log.warning(message, extra=extra)


def warn_of_an_account_in_the_clear(settings: Settings) -> None:
    if in_the_clear := settings.addresses_in_the_clear:
        log.warning(
            "plain http sends the account's key and secret over the network in the clear",
            extra={"variable": ", ".join(in_the_clear)},
        )


def warn_of_a_foreign_spool(settings: Settings) -> None:
    spools = sorted(map(str, settings.data_dir.glob("spool-*.db")))
    if settings.is_embedded and spools:
        log.warning(
            "a server database's spool is not drained into the embedded database;"
            " `paasoo-dlr doctor` tells what waits in it",
            extra={"files": spools},
        )


def log_start(settings: Settings, sockets_of_systemd: int) -> None:
    if not settings.callback_tokens:
        log.warning(
            "the callback's path has no token: only DLR_CALLBACK_ALLOWED_NETWORKS guards it",
            extra={"path": CALLBACK_PATH},
        )
    warn_of_short_secrets(settings)
    warn_of_an_account_in_the_clear(settings)
    log.info(
        "serving",
        extra={
            "version": version("paasoo-dlr"),
            "address": f"{settings.host}:{settings.port}",
            "sockets_of_systemd": sockets_of_systemd,
            "database": settings.database_shown,
            "data_dir": str(settings.data_dir),
        },
    )


def keep_what_start_made() -> None:
    """Take all objects out of garbage collection: scanning them delays some answers by 50 ms.

    `app.cli` turned the collector off before it loaded this module.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def build_app(settings: Settings) -> Service:
    try:
        return create_app(settings)
    except (OSError, SQLAlchemyError) as error:
        # `create_app` opens nothing but the spool.
        raise SettingsError(f"DLR_DATA_DIR: the spool can't be opened: {error}") from None


def prepare_schema(settings: Settings) -> None:
    """Migrate the embedded database; refuse a server database that isn't migrated.

    If the server database is away, the service starts without it and checks its schema later.
    """
    with opened_database(settings, hurried=not settings.is_embedded) as database:
        if settings.is_embedded:
            before, after = schema.upgrade(database.write, log.info)
            if before and before != after:
                log.info("schema brought up to date", extra={"before": before, "after": after})
            with database.transaction() as connection:  # a restored file may be somebody else's
                changes.begin_change(connection)
        try:
            with database.read.connect() as connection:
                wrong = schema.mismatch(connection)
        except DBAPIError as error:
            # Nothing tells a wrong password from a server that is full: only the text does, in the
            # server's language. A server that answered may be mended; a wrong option may not.
            if not (isinstance(error, OperationalError) or faults.sqlstate(error)):
                raise
            log.warning(
                "starting without the database",
                extra={"error": faults.words(error), "remedy": remedy_of(error)},
            )
            return
    if wrong is not None:
        raise SettingsError(f"{settings.database_setting}: {wrong}")


def welcome(first: first_run.FirstRun) -> str:
    """The callback address and a sample lookup, for a newcomer to copy."""
    settings = first.settings
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    base = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    lines = [""]
    if first.new_token:
        lines += [
            "Callback address for PaaSoo (with a host that PaaSoo can reach):",
            f"{base}{CALLBACK_PATH}/{first.new_token}",
        ]
    if first.new_key:
        lines += [
            "Look a message up:",
            f"curl -H 'Authorization: Bearer {first.new_key}' {base}/v1/messages/052804b7368321",
        ]
        if settings.console:
            lines += [f"Or open {base}/ and sign in with this key:"]
            lines += [first.new_key]
    lines += [f"Shown only once, and kept in {settings.data_dir}/.", ""]
    return "\n".join(lines)
