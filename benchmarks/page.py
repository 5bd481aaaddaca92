"""Tables, for the terminal and for `docs/performance.md`."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table as TerminalTable

from benchmarks.stage import ROOT

PAGE: Final = ROOT / "docs" / "performance.md"


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of text; the first `names` columns are words, the others figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1

    def markdown(self) -> str:
        rule = ["---" if place < self.names else "---:" for place in range(len(self.columns))]
        lines = [f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines])

    def show(self) -> None:
        table = TerminalTable(title=escape(self.title))
        for place, column in enumerate(self.columns):
            table.add_column(escape(column), justify="left" if place < self.names else "right")
        for row in self.rows:
            table.add_row(*(escape(cell.replace("**", "")) for cell in row))
        Console(width=160).print(table)  # a narrow terminal breaks lines instead of cutting words


@dataclass(frozen=True, slots=True)
class Target:
    """A target, the measured figure, and the verdict."""

    wanted: str
    measured: str
    is_reached: bool

    @classmethod
    def at_least(cls, wanted: str, limit: float, measured: float, unit: str = "×") -> "Target":
        return cls(f"{wanted} ≥ {limit:g} {unit}", f"{measured:.2f} {unit}", measured >= limit)

    @classmethod
    def at_most(cls, wanted: str, limit: float, measured: float, unit: str = "×") -> "Target":
        return cls(f"{wanted} ≤ {limit:.3g} {unit}", f"{measured:.3g} {unit}", measured <= limit)


def targets_table(targets: Sequence[Target]) -> Table:
    rows = [
        (target.wanted, target.measured, "yes" if target.is_reached else "**no**")
        for target in targets
    ]
    return Table("Targets", ("target", "measured", "reached"), rows)


def publish(
    options: argparse.Namespace,
    section: str,
    facts: Sequence[str],
    tables: Sequence[Table],
    notes: str = "",
) -> None:
    """Print the tables, and write them between the section's marks in the page."""
    print()
    for fact in facts:
        print(fact)
    for table in tables:
        table.show()
    if notes:
        print(notes)
    if options.no_write:
        return
    parts = ["\n".join(f"- {fact}" for fact in facts), *(table.markdown() for table in tables)]
    _replace_section(section, "\n\n".join([*parts, notes] if notes else parts))


def _replace_section(section: str, body: str) -> None:
    start, end = f"<!-- {section} -->", f"<!-- /{section} -->"
    text = PAGE.read_text()
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    assert pattern.search(text), f"{PAGE.name} has no section between {start} and {end}"
    PAGE.write_text(pattern.sub(lambda _: f"{start}\n{body}\n{end}", text))
