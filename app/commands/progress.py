"""A progress bar, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def shown(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar, and yield a function that advances it. Without a `total` it only counts."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)

        def advance(done: int) -> None:
            progress.advance(task, done)

        yield advance
        done = total if total is not None else progress.tasks[task].completed
        progress.update(task, total=done, completed=done)
