"""`paasoo-dlr rebuild`: recompute every status from its history. Normally nothing changes."""

from typing import Final

import typer

from app.callback.paasoo_codes import meaning_of
from app.callback.parse import understand
from app.commands import progress
from app.commands.database import database_to_write, say_which
from app.settings import load_settings
from app.store import rebuild as store
from app.store.rebuild import Correction, Rules
from app.telemetry import masked

MAX_EXAMPLES: Final = 20
RULES: Final = Rules(meaning_of, understand)
STOP_IT: Final = "stop it, rebuild, and start it again"


def rebuild(*, dry_run: bool) -> None:
    settings = load_settings()
    say_which(settings)
    deliveries = reports = changed = 0
    examples: list[Correction] = []
    with database_to_write(settings, instead=STOP_IT) as database:
        with database.read.connect() as connection:
            total = store.count(connection)
        with progress.shown("rebuilding", total) as advance:
            for batch in store.rebuild(database, RULES, dry_run=dry_run):
                deliveries += batch.deliveries
                reports += batch.reports
                changed += len(batch.corrections)
                examples += batch.corrections[: MAX_EXAMPLES - len(examples)]
                advance(batch.deliveries)
    for example in examples:
        typer.echo(line(example))
    if changed > len(examples):
        typer.echo(f"and {changed - len(examples)} more")
    would_be = "would be changed" if dry_run else "changed"
    typer.echo(f"deliveries: {deliveries}, {would_be}: {changed}; reports read anew: {reports}")


def line(correction: Correction) -> str:
    was, becomes = correction.was or "nothing", correction.status.state
    what = f"{was} -> {becomes}" if was != becomes else f"{was}, in its details"
    return f"{correction.message_id} {masked(correction.recipient)}: {what}"
