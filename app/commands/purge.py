"""`paasoo-dlr purge`: delete final messages and refused callbacks older than the retention."""

from typing import Final

import typer

from app.commands import progress
from app.commands.consent import consent
from app.commands.database import database_to_read, database_to_write, say_which
from app.ops.upkeep import days_ago
from app.settings import SettingsError, load_settings
from app.store import retention
from app.store.retention import Purged

BY_ITSELF: Final = "with DLR_RETENTION_DAYS set, it purges every hour"


def purge(days: int | None, *, dry_run: bool, yes: bool) -> None:
    settings = load_settings()
    kept = settings.retention_days or None if days is None else days
    if kept is None:
        raise SettingsError("DLR_RETENTION_DAYS: keeps all; set it, or give --days")
    say_which(settings)
    before = days_ago(kept)
    if dry_run:
        with database_to_read(settings) as database, database.read.connect() as connection:
            report("would be purged", retention.due(connection, before))
            say_if_unusual(retention.objection(connection, before))
        return
    with database_to_write(settings, instead=BY_ITSELF) as database:
        with database.read.connect() as connection:
            due = retention.due(connection, before)
            objection = retention.objection(connection, before)
        report("would be purged", due, err=True)
        say_if_unusual(objection)
        if any(due):
            consent("Purge them?", yes=yes)
        purged = Purged()
        with progress.shown("purging", due.deliveries + due.refused) as advance:
            for batch in retention.purge(database, before):
                purged = purged.and_also(batch)
                advance(batch.deliveries + batch.refused)
    report("purged", purged)


def say_if_unusual(objection: str | None) -> None:
    if objection is not None:
        typer.echo(f"paasoo-dlr: unusual: {objection}; is the clock right?", err=True)


def report(what: str, purged: Purged, *, err: bool = False) -> None:
    typer.echo(
        f"{what}: {purged.deliveries} deliveries, {purged.reports} reports of theirs,"
        f" {purged.refused} refused callbacks",
        err=err,
    )
