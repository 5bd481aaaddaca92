"""`paasoo-dlr export`: all deliveries, as CSV or as JSON lines."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Final, Literal, NamedTuple, TextIO, cast

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from app.api.times import TimeInput
from app.commands import progress
from app.commands.database import database_to_read, say_which
from app.query.schemas import Delivery, delivery_of
from app.query.spreadsheet import csv_writer
from app.reports import State
from app.settings import SettingsError, load_settings
from app.store import export as store

PROGRESS_EVERY: Final = 1000


def parse_time(text: str) -> int:
    """Microseconds since 1970, from RFC 3339. Raises `typer.BadParameter`."""
    try:
        return TypeAdapter(TimeInput).validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


class Target(NamedTuple):
    """The destination of an export, and its form."""

    output: Path | None
    force: bool  # overwrite
    spreadsheet_safe: bool


def export(
    form: str, target: Target, state: State | None, since: int | None, until: int | None
) -> None:
    if target.spreadsheet_safe and form != "csv":
        raise typer.BadParameter("is for CSV alone", param_hint="--spreadsheet-safe")
    settings = load_settings()
    exported = 0
    say_which(settings)
    with database_to_read(settings) as database, opened(target) as file:
        rows = store.stream(database, state, since, until)
        write = WRITERS[form](file, target.spreadsheet_safe)
        with progress.shown("exporting", None) as advance:
            for exported, row in enumerate(rows, start=1):
                write(delivery_of(row))
                if exported % PROGRESS_EVERY == 0:
                    advance(PROGRESS_EVERY)
            advance(exported % PROGRESS_EVERY)
    typer.echo(f"exported: {exported} deliveries", err=True)


@contextmanager
def opened(target: Target) -> Iterator[TextIO]:
    output = target.output
    name = "standard output" if output is None else f"--output: {output}"
    try:
        if output is None or _is_standard_output(output):
            # In every locale: a state's text may be in any language.
            cast(TextIOWrapper, sys.stdout).reconfigure(encoding="utf-8")
            yield sys.stdout
            sys.stdout.flush()
            return
        is_device = output.exists() and not output.is_file()
        if target.force and output.is_file():
            output.chmod(0o600)  # it may be open to all
        mode: Literal["w", "x"] = "w" if target.force or is_device else "x"
        with output.open(mode, encoding="utf-8", newline="") as file:
            yield file
    except FileExistsError:
        raise SettingsError(f"{name} is there already; --force overwrites it") from None
    except BrokenPipeError:
        raise  # the reader, such as `head`, has enough: no fault of the output
    except OSError as error:
        raise SettingsError(f"{name} can't be written: {error.strerror}") from None


def _is_standard_output(output: Path) -> bool:
    """True for `/dev/stdout`, whatever it is redirected to."""
    return output.exists() and os.path.samestat(output.stat(), os.fstat(sys.stdout.fileno()))


def jsonl_writer(file: TextIO, _safe: bool) -> Callable[[Delivery], object]:
    return lambda delivery: file.write(to_json(delivery).decode() + "\n")


WRITERS: Final[dict[str, Callable[[TextIO, bool], Callable[[Delivery], object]]]] = {
    "csv": csv_writer,
    "jsonl": jsonl_writer,
}
