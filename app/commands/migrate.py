"""`paasoo-dlr migrate`: bring the schema up to date."""

from functools import partial
from typing import Final

import typer

from app.commands.database import opened_database, say_which, the_only_process_on
from app.settings import load_settings
from app.store import schema

WAIT_FOR_ANOTHER_S: Final = 5


def migrate() -> None:
    settings = load_settings()
    say_which(settings)
    with (
        the_only_process_on(settings, patience_s=WAIT_FOR_ANOTHER_S),
        opened_database(settings) as database,
    ):
        before, after = schema.upgrade(database.write, partial(typer.echo, err=True))
    typer.echo(f"schema: {before or 'none'} -> {after}" if before != after else f"schema: {after}")
