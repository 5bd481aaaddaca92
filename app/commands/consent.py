"""Ask before anything is destroyed."""

import sys

import typer

from app.settings import SettingsError


def consent(question: str, *, yes: bool) -> None:
    """Return if the answer is yes, as it is with `--yes`. Exits with 1 on any other."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise SettingsError("--yes: is needed where nobody can be asked")
    typer.confirm(question, abort=True)
