"""`paasoo-dlr export`: all deliveries, as CSV or as JSON lines."""

import csv
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from app.api.times import TimeInput
from app.commands import progress
from app.commands.database import database_to_read, say_which
from app.query.schemas import Delivery, delivery_of
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


def export(
    form: str, output: Path | None, state: State | None, since: int | None, until: int | None
) -> None:
    settings = load_settings()
    say_which(settings)
    with database_to_read(settings) as database, opened(output) as file:
        rows = store.stream(database, state, since, until)
        write = WRITERS[form](file)
        with progress.shown("exporting", None) as advance:
            for number, row in enumerate(rows, start=1):
                write(delivery_of(row))
                if number % PROGRESS_EVERY == 0:
                    advance(PROGRESS_EVERY)


@contextmanager
def opened(output: Path | None) -> Iterator[TextIO]:
    name = "standard output" if output is None else f"--output: {output}"
    try:
        if output is None:
            yield sys.stdout
            sys.stdout.flush()
            return
        os.umask(0o077)  # the file holds phone numbers
        with output.open("w", encoding="utf-8", newline="") as file:
            yield file
    except BrokenPipeError:
        raise  # the reader, such as `head`, has enough: no fault of the output
    except OSError as error:
        raise SettingsError(f"{name} can't be written: {error.strerror}") from None


def csv_writer(file: TextIO) -> Callable[[Delivery], object]:
    """CSV as in RFC 4180. Null is an empty field; booleans are `true` and `false`, as in JSON."""
    writer = csv.writer(file)
    writer.writerow(Delivery.__annotations__)

    def write(delivery: Delivery) -> None:
        writer.writerow(as_text(value) for value in delivery.values())

    return write


def as_text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def jsonl_writer(file: TextIO) -> Callable[[Delivery], object]:
    return lambda delivery: file.write(to_json(delivery).decode() + "\n")


WRITERS: Final[dict[str, Callable[[TextIO], Callable[[Delivery], object]]]] = {
    "csv": csv_writer,
    "jsonl": jsonl_writer,
}
