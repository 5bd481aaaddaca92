"""`paasoo-dlr quarantine`: list, replay and delete refused callbacks, as the API does."""

from typing import Final

import typer

from app.commands import progress
from app.commands.consent import consent
from app.commands.database import database_to_read, database_to_write
from app.quarantine.endpoint import RefusedCallback
from app.quarantine.replay import replay
from app.settings import load_settings
from app.store import quarantine

PAGE: Final = 1000
REPLAY_BY_API: Final = "replay with POST /v1/quarantine/replay, or stop it first"
DELETE_BY_API: Final = "delete with DELETE /v1/quarantine/ID, or stop it first"


def show(limit: int, *, as_json: bool) -> None:
    with database_to_read(load_settings()) as database, database.read.connect() as connection:
        after, left = None, limit or None
        while left is None or left > 0:
            wanted = PAGE if left is None else min(PAGE, left)
            rows = quarantine.page(connection, wanted, after)
            for row in rows:
                refused = RefusedCallback.of(row)
                typer.echo(refused.model_dump_json() if as_json else line(refused))
            if len(rows) < wanted:
                return
            left = left and left - len(rows)
            after = (rows[-1].received_at, rows[-1].id)
        if quarantine.page(connection, 1, after):
            typer.echo(f"the latest {limit}; --limit 0 shows all", err=True)


def line(refused: RefusedCallback) -> str:
    shown = refused.model_dump(mode="json")
    names = ("id", "last_received_at", "times_received", "code", "detail", "query")
    return "  ".join(str(shown[name]) for name in names)


def replay_refused(ids: list[str] | None) -> None:
    replayed = still_rejected = 0
    with database_to_write(load_settings(), instead=REPLAY_BY_API) as database:
        with database.read.connect() as connection:
            total = len(ids) if ids else quarantine.count(connection)
        with progress.shown("replaying", total) as advance:
            for batch in replay(database, ids or None):
                replayed += batch.replayed
                still_rejected += batch.still_rejected
                advance(sum(batch))
    typer.echo(f"replayed: {replayed}, still rejected: {still_rejected}")


def delete(ids: list[str], *, yes: bool) -> None:
    with database_to_write(load_settings(), instead=DELETE_BY_API) as database:
        with database.read.connect() as connection:
            known = quarantine.count(connection, ids)
        if known:
            typer.echo(f"would be deleted: {known} refused callbacks", err=True)
            consent("Delete them for good?", yes=yes)
        with database.statement() as connection:
            removed = quarantine.remove(connection, ids)
    typer.echo(f"deleted: {len(removed)}")
    unknown = [row_id for row_id in ids if row_id not in removed]
    if unknown:
        typer.echo(f"paasoo-dlr: not in the quarantine: {', '.join(unknown)}", err=True)
        raise typer.Exit(1)
