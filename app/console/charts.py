"""A stacked bar chart as SVG: shapes and positions only, the style sheet gives the colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.console import words
from app.reports import State

WIDTH: Final = 960
HEIGHT: Final = 220
LEFT: Final = 56  # for the numbers of the scale
BOTTOM: Final = 24  # for the times
TOP: Final = 12
GAP: Final = 0.18  # of a bar's width
GRID_LINES: Final = 4

# From the bottom up.
STACK: Final = (
    State.DELIVERED,
    State.ACCEPTED,
    State.PENDING,
    State.UNKNOWN,
    State.EXPIRED,
    State.UNDELIVERED,
    State.REJECTED,
)


@dataclass(frozen=True, slots=True)
class Bar:
    """The counts of one span of time, with its name."""

    label: str  # short, below the bar; empty for none
    name: str  # whole, for the table and on hover
    by_state: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_state.values())

    @property
    def told(self) -> str:
        """All values, as shown on hover."""
        parts = [
            f"{words.of_state(state)}: {self.by_state[state]:,}"
            for state in STACK
            if self.by_state.get(state)
        ]
        return "\n".join([f"{self.name}: {self.total:,}", *parts])


@dataclass(frozen=True, slots=True)
class Rectangle:
    state: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """A bar as drawn. Its whole slot shows the values on hover, the empty part too."""

    bar: Bar
    x: float
    width: float
    slot_x: float
    slot_width: float
    parts: Sequence[Rectangle]


@dataclass(frozen=True, slots=True)
class Line:
    y: float
    value: int


@dataclass(frozen=True, slots=True)
class Chart:
    columns: Sequence[Column]
    lines: Sequence[Line]
    states: Sequence[str]  # those that occur, for the legend


def stacked(bars: Sequence[Bar]) -> Chart:
    """Lay the bars out, latest at the right."""
    top = _round_up(max((bar.total for bar in bars), default=0))
    slot = (WIDTH - LEFT) / max(len(bars), 1)
    columns = [
        Column(
            bar,
            round(LEFT + slot * (position + GAP / 2), 2),
            round(slot * (1 - GAP), 2),
            round(LEFT + slot * position, 2),
            round(slot, 2),
            _parts(bar, top),
        )
        for position, bar in enumerate(bars)
    ]
    lines = [
        Line(round(_y(top * step / GRID_LINES, top), 2), top * step // GRID_LINES)
        for step in range(GRID_LINES + 1)
    ]
    states = [state for state in STACK if any(bar.by_state.get(state) for bar in bars)]
    return Chart(columns, lines, states)


def _parts(bar: Bar, top: int) -> list[Rectangle]:
    parts, below = [], 0
    for state in STACK:
        number = bar.by_state.get(state, 0)
        if number > 0:
            y = _y(below + number, top)
            parts.append(Rectangle(state, round(y, 2), round(_y(below, top) - y, 2)))
            below += number
    return parts


def _y(value: float, top: int) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top)


def _round_up(value: int) -> int:
    """The top of the scale: a round number that four lines divide."""
    if value <= GRID_LINES:
        return GRID_LINES
    power = 10 ** (len(str(value)) - 1)
    steps = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10, 12)
    return next(
        int(step * power)
        for step in steps
        if step * power >= value and (step * power) % GRID_LINES == 0
    )
