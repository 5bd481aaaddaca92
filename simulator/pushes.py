"""The pushes so far: the last state of each delivery, and what must not happen.

It is a fold over the ledger's events, so it can be made again from an old ledger.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from simulator import oracle
from simulator.check import masked
from simulator.ledger import LedgerError, events
from simulator.options import Pushed
from simulator.oracle import RANK_OF
from simulator.reporter import NO_ANSWER

CHANGED: Final = "deliveries.changed"

# The fields whose change is a change in the feed. Others, such as `last_received_at` and `price`,
# may have changed when the same item comes again.
COMPARED: Final = (*oracle.PENDING, "submitted_at", "reference")

# So long two replicas may push to one address: then one has taken over from the other.
LEASE_S: Final = 6.0

# A delivery: message id and recipient.
Key = tuple[str, str]
_STATE: Final = COMPARED.index("state")


class Form(NamedTuple):
    """A delivery as it was pushed, or as the API shows it."""

    compared: tuple[Any, ...]
    last_received_at: str  # empty without a report

    @property
    def state(self) -> str:
        return str(self.compared[_STATE])

    def is_older_than(self, other: "Form") -> bool:
        """Neither the rank of a delivery's state nor the time of its last report ever goes back."""
        mine, its = RANK_OF[self.state], RANK_OF[other.state]
        return mine < its or self.last_received_at < other.last_received_at


def form_of(item: Mapping[str, Any]) -> Form:
    """Raises `KeyError` if a field is missing."""
    return Form(tuple(item[name] for name in COMPARED), item["last_received_at"] or "")


def key_of(item: Mapping[str, Any]) -> Key:
    return item["messageid"], item["to"]


class MalformedPushError(Exception):
    """A body that no push may have."""


def content_of(body: bytes) -> tuple[str, list[dict[str, Any]]]:
    """The type and the items of a push. Raises `MalformedPushError`."""
    try:
        push = json.loads(body)
        if push["type"] != CHANGED:
            return push["type"], []
        items = push["data"]["items"]
        states = {form_of(item).state for item in items}
        recipients = {key_of(item) for item in items}
    except KeyError as missing:
        raise MalformedPushError(f"lacks {missing}") from None
    except (ValueError, TypeError):
        raise MalformedPushError("is no JSON of the right form") from None
    if states - RANK_OF.keys():
        raise MalformedPushError("has a state that no document names")
    if len(recipients) < len(items):
        raise MalformedPushError("has a delivery twice")
    return CHANGED, items


@dataclass(slots=True)
class First:
    """The first push with some webhook-id."""

    items: frozenset[tuple[Key, tuple[Any, ...]]]
    is_taken: bool = False


@dataclass(slots=True)
class Address:
    """What was pushed to one address: a path, and the secret that its pushes are signed with."""

    path: str
    last: dict[Key, Form] = field(default_factory=dict)  # as of the pushes answered 2xx
    by_id: dict[str, First] = field(default_factory=dict)


@dataclass(slots=True)
class Pushes:
    """All pushes of a run."""

    expected: Pushed = Pushed.ALL
    seed: int | None = None
    cursor: str | None = None  # the end of the feed when the run began, if the API was asked
    answers: Counter[str] = field(default_factory=Counter)
    items: int = 0
    others: int = 0  # pushes of another type, such as tests
    pushes_again: int = 0
    pushes_again_though_taken: int = 0
    items_again: int = 0  # taken in the form in which they were taken before
    beside: int = 0  # pushes under way beside another to the same address
    longest_beside_s: float = 0.0
    differences: list[str] = field(default_factory=list)
    addresses: dict[tuple[str, int], Address] = field(default_factory=dict)
    _items: dict[tuple[Key, Form], tuple[Key, Form]] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> None:
        """Add an event of the ledger. Raises `KeyError` if a field is missing."""
        if event["event"] == "receiving":
            self.expected = Pushed(event["pushed"])
            self.seed, self.cursor = event["seed"], event["cursor"]
        elif event["event"] == "followed":
            self.differences.append("a redirect was followed")
        elif event["event"] == "pushed":
            self.answers[str(event["answer"] or NO_ANSWER)] += 1
            if event["wrong"]:
                self.differences.append(f"{event['path']}: a push {event['wrong']}")
            elif event["type"] == CHANGED:
                self._add_changes(event)
            else:
                self.others += 1

    @property
    def deliveries(self) -> set[Key]:
        """Those of which a push was taken."""
        return {key for address in self.addresses.values() for key in address.last}

    def _add_changes(self, event: Mapping[str, Any]) -> None:
        path = event["path"]
        address = self.addresses.setdefault((path, event["secret"]), Address(path))
        found = [(key_of(item), form_of(item)) for item in event["items"]]
        # Several addresses are pushed the same: keep it once.
        forms = [self._items.setdefault(item, item) for item in found]
        self.items += len(forms)
        self._compare_with_the_first(address, event, forms)
        if event["beside_s"]:
            self.beside += 1
            self.longest_beside_s = max(self.longest_beside_s, event["beside_s"])
        if event["beside_s"] > LEASE_S:
            overlap = f"for {event['beside_s']:.1f} s"
            self.differences.append(f"{path}: two pushes were under way at once {overlap}")
        if is_taken(event["answer"]):
            for key, form in forms:
                self._take(address, key, form)

    def _compare_with_the_first(
        self, address: Address, event: Mapping[str, Any], forms: Iterable[tuple[Key, Form]]
    ) -> None:
        """A receiver may skip an id that it has taken, so a retry must not have anything new."""
        push_id = event["id"]
        items = frozenset((key, form.compared) for key, form in forms)
        first = address.by_id.get(push_id)
        if first is None:
            first = address.by_id[push_id] = First(items)
        else:
            self.pushes_again += 1
            self.pushes_again_though_taken += first.is_taken
            if new := len(items - first.items):
                what = f"{new:,} {'item' if new == 1 else 'items'} that its first push had not"
                self.differences.append(f"{address.path}: {push_id} came again with {what}")
        first.is_taken |= is_taken(event["answer"])

    def _take(self, address: Address, key: Key, form: Form) -> None:
        last = address.last.get(key)
        if last == form:
            self.items_again += 1
        elif last is not None and form.is_older_than(last):
            difference = f"was pushed as {form.state} after a newer {last.state}"
            self.differences.append(f"{named(address, key)}: {difference}")
        if self.expected is Pushed.FINAL and form.state not in oracle.FINAL:
            difference = f"was pushed as {form.state}, which is not final"
            self.differences.append(f"{named(address, key)}: {difference}")
        address.last[key] = form


def is_taken(answer: int | None) -> bool:
    return answer is not None and 200 <= answer < 300


def named(address: Address, key: Key) -> str:
    message_id, recipient = key
    return f"{address.path}: {message_id} to {masked(recipient)}"


def read_pushes(path: Path) -> Pushes | None:
    """Read a ledger of pushes. None if it is one of reports. Raises `LedgerError`."""
    pushes = Pushes()
    try:
        for number, event in enumerate(events(path)):
            if number == 0 and event["event"] != "receiving":
                return None
            pushes.add(event)
    except KeyError as missing:
        raise LedgerError(f"lacks {missing}, so it can't be compared") from None
    return pushes


def differences(pushes: Pushes, changed: set[Key], shown: Mapping[Key, Form]) -> Iterator[str]:
    """Compare the last pushed state of each delivery with the API's.

    `changed` has the deliveries of the feed since the run began: every address must know them.
    """
    if changed and not pushes.addresses:
        yield f"{len(changed):,} deliveries changed, and nothing was pushed"
    for address in pushes.addresses.values():
        for key in sorted(address.last.keys() | changed):
            difference = _difference(pushes.expected, address.last.get(key), shown.get(key))
            if difference:
                yield f"{named(address, key)}: {difference}"


def _difference(expected: Pushed, pushed: Form | None, shown: Form | None) -> str | None:
    if shown is None:
        return None if pushed is None else f"was pushed as {pushed.state}, and is not known"
    if pushed is None:
        is_missed = expected is Pushed.ALL or shown.state in oracle.FINAL
        return f"is {shown.state}, and was not pushed" if is_missed else None
    return "; ".join(
        f"{name} is {its!r}, was pushed as {mine!r}"
        for name, mine, its in zip(COMPARED, pushed.compared, shown.compared, strict=True)
        if mine != its
    )
