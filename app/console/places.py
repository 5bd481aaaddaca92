"""Countries and networks: how much of what was sent there arrives, and if that got worse."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.console.messages import country_of_network
from app.reports import FINAL_STATES, State

# Of fewer final messages, a rate says little about a change.
ENOUGH_FINAL: Final = 20
# In points: a smaller fall may be chance.
WORSE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Place:
    """A network, or a country, with its deliveries."""

    name: str | None
    country: str | None  # of a network
    total: int
    has_enough: bool  # final messages, for its rate to say much
    rate: float | None
    before: float | None  # the rate of the span before; None if it had few final messages
    failure: str | None  # the commonest reason
    failures: int

    @property
    def is_worse(self) -> bool:
        return None not in {self.rate, self.before} and self.change <= -WORSE

    @property
    def change(self) -> float:
        return (self.rate or 0.0) - (self.before or 0.0)


ByName = Mapping[str | None, Counter[str]]
# From a network, empty if it is not known, to the name that it is counted under.
NameOf = Callable[[str], str | None]


def networks(counts: Sequence[Any], before: Sequence[Any]) -> list[Place]:
    """Networks from counts by network, reason and state, and those by network and state before."""
    return _places(counts, before, lambda network: network or None, country_of_network)


def countries(counts: Sequence[Any], before: Sequence[Any]) -> list[Place]:
    return _places(counts, before, country_of_network, lambda _: None)


def rate_of(states: Mapping[str, int]) -> float | None:
    """Delivered over final; None if nothing is final."""
    final = _final(states)
    return states.get(State.DELIVERED, 0) / final if final else None


def _final(states: Mapping[str, int]) -> int:
    return sum(states.get(state, 0) for state in FINAL_STATES)


def _places(
    counts: Sequence[Any], before: Sequence[Any], name_of: NameOf, country: NameOf
) -> list[Place]:
    """Add the counts up by name: what got worse, then the worst rates, then those of few messages.

    What is not known is last.
    """
    states = _by_name((name_of(row[0]), row.of_state, row.deliveries) for row in counts)
    earlier = _by_name((name_of(row[0]), row.of_state, row.deliveries) for row in before)
    reasons = _by_name(
        (name_of(row[0]), row.reason, row.deliveries)
        for row in counts
        if row.reason and row.of_state in FINAL_STATES
    )
    found = [
        _place(name, country(name or ""), of_name, earlier[name], reasons[name])
        for name, of_name in states.items()
    ]
    return sorted(found, key=_urgency)


def _urgency(it: Place) -> tuple[Any, ...]:
    rate = 1.0 if it.rate is None else it.rate
    return (it.name is None, not it.is_worse, not it.has_enough, rate, -it.total, it.name)


def _by_name(rows: Iterable[tuple[str | None, str, int]]) -> ByName:
    found: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
    for name, key, number in rows:
        found[name][key] += number
    return found


def _place(
    name: str | None,
    country: str | None,
    states: Counter[str],
    earlier: Counter[str],
    reasons: Counter[str],
) -> Place:
    failure, failures = reasons.most_common(1)[0] if reasons else (None, 0)
    has_enough, had_enough = (_final(of) >= ENOUGH_FINAL for of in (states, earlier))
    return Place(
        name,
        country,
        states.total(),
        has_enough,
        rate_of(states),
        rate_of(earlier) if had_enough and has_enough else None,
        failure,
        failures,
    )
