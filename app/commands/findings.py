"""What `doctor` and `check` find: a line each, as it is found."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

import typer
from sqlalchemy.exc import SQLAlchemyError

from app.store import faults


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


COLOUR: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}


class Finding(NamedTuple):
    """One fact. The words of a warning or an error also say what to do."""

    level: Level
    what: str
    words: str


def ok(what: str, words: str) -> Finding:
    return Finding(Level.OK, what, words)


def warning(what: str, words: str) -> Finding:
    return Finding(Level.WARNING, what, words)


def error(what: str, words: str) -> Finding:
    return Finding(Level.ERROR, what, words)


def show(findings: Iterable[Finding], width: int) -> int:
    """Print the findings, what they are about `width` wide. Returns the exit code."""
    has_errors = False
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for level, what, words in findings:
        has_errors |= level is Level.ERROR
        word = f"{level:<7}"
        shown = typer.style(word, fg=COLOUR[level]) if is_coloured else word
        typer.echo(f"{shown}  {what:<{width}}  {one_line(words)}".rstrip())
        sys.stdout.flush()
    return int(has_errors)


def one_line(words: str) -> str:
    """The words on one line, and without what a terminal would obey: servers chose some of them."""
    return "".join(it if it.isprintable() else "?" for it in " ".join(words.split()))


def counted(number: int, thing: str) -> str:
    """`1 callback`, `2,000 callbacks`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def standing_alone(what: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of one check. One that can't be made says so, and the others go on."""
    try:
        yield from look()
    except SQLAlchemyError as failure:
        yield warning(what, f"could not be looked at: {faults.words(failure)}")
    except PermissionError as failure:
        words = f"{failure.filename} is closed to user {os.geteuid()}"
        yield error(what, f"{words}: give it to the user of `serve`, or run this as that user")
    except Exception as failure:  # noqa: BLE001 - see above
        yield warning(what, f"could not be looked at: {type(failure).__name__}: {failure}")
