"""From a seed and the shares to messages and what will be reported about them.

The same seed gives the same messages, whatever else happens: each is drawn from a generator of
its own, named by the seed and its number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final
from urllib.parse import quote, quote_plus, urlencode

from simulator.behaviours import BEHAVIOURS, MALFORMED, Behaviour, Template, Timing

MAX_RECIPIENTS: Final = 50  # the guide's

# Country code, and the operators that reports from there name. `network` is text: a name instead
# of a number has been seen, and the guide's sample names an operator of another country.
COUNTRIES: Final = (
    ("65", ("52501", "52503", "52505", "52099")),
    ("66", ("52001", "52003", "52099")),
    ("62", ("51001", "51010", "ID-UNKNOWN")),
    ("60", ("50212", "50216")),
    ("84", ("45201", "45204", "")),
    ("86", ("46000", "46001")),
)

# How many recipients a message has: from, to, share.
SIZES: Final = ((1, 1, 90), (2, 5, 8), (6, 49, 1.5), (50, 50, 0.5))

# The provider's spelling isn't ours to rely on: a label comes as the guide has it, or otherwise.
SPELLINGS: Final[tuple[Callable[[str], str], ...]] = (
    str,
    str,
    str.upper,
    lambda label: label.lower().replace(" ", "_"),
    lambda label: f" {label.replace(' ', '-')} ",
)


@dataclass(frozen=True, slots=True)
class Delays:
    """How long a report takes at most, in seconds: a usual one, and one that is late."""

    usual_s: float
    late_s: float


@dataclass(frozen=True, slots=True)
class PlannedReport:
    """One call to the callback address: its raw query, and how long after what came before."""

    query: str
    after_s: float
    malformed: str | None = None  # the code that its refusal must have


@dataclass(frozen=True, slots=True)
class Delivery:
    """One recipient of a message, and the reports that there will be, in order."""

    recipient: str
    behaviour: str
    reports: tuple[PlannedReport, ...]

    @property
    def is_early(self) -> bool:
        return BEHAVIOURS[self.behaviour].timing is Timing.EARLY

    @property
    def is_at_once(self) -> bool:
        return BEHAVIOURS[self.behaviour].at_once


@dataclass(frozen=True, slots=True)
class Message:
    """What one send call sends."""

    message_id: str
    deliveries: tuple[Delivery, ...]


def invent(seed: int, number: int, shares: Mapping[str, float], delays: Delays) -> Message:
    """A message as if somebody had sent it."""
    random = _generator(seed, "invented", number)
    (fewest, most, _) = random.choices(SIZES, [share for _, _, share in SIZES])[0]
    recipients: dict[str, None] = {}
    count = random.randint(fewest, most)
    while len(recipients) < count:
        country_code, _ = random.choice(COUNTRIES)
        recipients[f"{country_code}8{random.randrange(10**7):07}"] = None
    return _planned(random, list(recipients), shares, delays)


def accept(
    seed: int, number: int, recipients: Sequence[str], shares: Mapping[str, float], delays: Delays
) -> Message:
    """A message that was sent through the send API."""
    return _planned(_generator(seed, "sent", number), recipients, shares, delays)


def is_answer_lost(seed: int, number: int, share: float) -> bool:
    """Whether the answer to a send gets lost; apart from the message, which it doesn't change."""
    return _generator(seed, "answer", number).random() < share


def _generator(seed: int, kind: str, number: int) -> Random:
    return Random(f"{seed}:{kind}:{number}")  # noqa: S311 - to be repeated, not to be secret


def _planned(
    random: Random, recipients: Sequence[str], shares: Mapping[str, float], delays: Delays
) -> Message:
    message_id = _message_id(random)
    names = random.choices(list(shares), list(shares.values()), k=len(recipients))
    return Message(
        message_id,
        tuple(
            Delivery(recipient, name, _reports(random, message_id, recipient, name, delays))
            for recipient, name in zip(recipients, names, strict=True)
        ),
    )


def _message_id(random: Random) -> str:
    """As in the guide, `052804b7368321`, or as in the older one, `015bd4-d6dfa7-58w`."""
    digits = f"{random.randrange(16**14):014x}"
    if random.random() < 0.7:
        return digits
    ending = f"{random.randrange(100):02}{random.choice('abcdefghijklmnopqrstuvwxyz')}"
    return f"{digits[:6]}-{digits[6:12]}-{ending}"


def _reports(
    random: Random, message_id: str, recipient: str, name: str, delays: Delays
) -> tuple[PlannedReport, ...]:
    behaviour = BEHAVIOURS[name]
    known = {"type": "dlr", "messageid": message_id, "to": recipient}
    network = random.choice(_networks(recipient))
    planned: list[PlannedReport] = []
    for template in behaviour.reports:
        parameters = {**known, **_worded(random, template), "network": network}
        query, malformed = _query(random, parameters, behaviour)
        times = random.randint(2, 5) if behaviour.repeated else 1
        for _ in range(times):
            delay_s = _delay_s(random, behaviour if not planned else None, delays)
            if planned and behaviour.at_once:
                delay_s = planned[0].after_s
            planned.append(PlannedReport(query, delay_s, malformed))
    return tuple(planned)


def _networks(recipient: str) -> Sequence[str]:
    for country_code, networks in COUNTRIES:
        if recipient.startswith(country_code):
            return networks
    return ("52099",)


def _worded(random: Random, template: Template) -> dict[str, str]:
    """The template with its label where reports have it, spelt as they may spell it."""
    parameters = dict(template)
    label = parameters.pop("label", None)
    if label is None:
        return parameters
    spelt = random.choice(SPELLINGS)(label)
    if random.random() < 0.6:
        return {**parameters, "statuscode": spelt}
    return {**parameters, "statuscode": "failed", "errcode": spelt}


def _query(
    random: Random, parameters: dict[str, str], behaviour: Behaviour
) -> tuple[str, str | None]:
    """The raw query, and the code of its refusal where it is to be refused."""
    # Nobody says whether a space comes as `+` or as `%20`.
    quoted = random.choice((quote, quote_plus))
    if behaviour.malformed:
        way = random.choice(MALFORMED)
        changed = {**parameters, **way.changes}
        kept = {name: value for name, value in changed.items() if value is not None}
        return urlencode(kept, quote_via=quoted) + way.ending, way.code
    prefix = random.choice(behaviour.prefixes)
    query = urlencode(parameters, quote_via=quoted) + behaviour.extra
    return query.replace("&to=", f"&to={prefix}", 1), None


def _delay_s(random: Random, first: Behaviour | None, delays: Delays) -> float:
    """`first` is the behaviour, for its first report; those after it aren't late."""
    drawn = random.random()
    if first is not None and first.timing is Timing.EARLY:
        return 0
    if first is not None and first.timing is Timing.LATE:
        return delays.usual_s + drawn * max(0, delays.late_s - delays.usual_s)
    return drawn * delays.usual_s
