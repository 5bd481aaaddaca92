"""Draw messages, and the reports about them, from a seed and the shares of the behaviours.

The same seed gives the same messages, whatever else happens: each message has a random generator
of its own, seeded with the seed and the message's number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final
from urllib.parse import quote, quote_plus, urlencode

from simulator.behaviours import BEHAVIOURS, MALFORMED, Behaviour, Template, Timing

MAX_RECIPIENTS: Final = 50  # the guide's

# Country code, and the operators that its reports name. `network` is text: reports with a name
# instead of a number exist, and the guide's sample names an operator of another country.
COUNTRIES: Final = (
    ("65", ("52501", "52503", "52505", "52099")),
    ("66", ("52001", "52003", "52099")),
    ("62", ("51001", "51010", "ID-UNKNOWN")),
    ("60", ("50212", "50216")),
    ("84", ("45201", "45204", "")),
    ("86", ("46000", "46001")),
)

# Recipients of a message: from, to, share.
SIZES: Final = ((1, 1, 90), (2, 5, 8), (6, 49, 1.5), (50, 50, 0.5))

# A receiver must not rely on the guide's spelling of a label, so labels come in several.
SPELLINGS: Final[tuple[Callable[[str], str], ...]] = (
    str,
    str,
    str.upper,
    lambda label: label.lower().replace(" ", "_"),
    lambda label: f" {label.replace(' ', '-')} ",
)


@dataclass(frozen=True, slots=True)
class Delays:
    """The longest delay of a report, in seconds: of a usual one, and of a late one."""

    usual_s: float
    late_s: float


@dataclass(frozen=True, slots=True)
class Mix:
    """The rules that messages are drawn by: the same mix gives the same messages."""

    seed: int
    shares: Mapping[str, float]  # the weight of each behaviour
    delays: Delays

    def generator(self, kind: str, number: int) -> Random:
        return Random(f"{self.seed}:{kind}:{number}")  # noqa: S311 - must repeat, guards nothing


@dataclass(frozen=True, slots=True)
class PlannedReport:
    """One report: the raw query that calls it back, and its delay after the report before."""

    query: str
    after_s: float
    meant: str  # the query as it would be if nothing of it were malformed
    malformed: str | None = None  # the code of the refusal that it must get


@dataclass(frozen=True, slots=True)
class Delivery:
    """One recipient of a message, and the reports to come, in order."""

    recipient: str
    behaviour: str
    reports: tuple[PlannedReport, ...]

    @property
    def calls(self) -> tuple[PlannedReport, ...]:
        """The reports that are called back."""
        return self.reports if BEHAVIOURS[self.behaviour].is_called_back else ()

    @property
    def is_early(self) -> bool:
        return BEHAVIOURS[self.behaviour].timing is Timing.EARLY

    @property
    def is_at_once(self) -> bool:
        return BEHAVIOURS[self.behaviour].at_once


@dataclass(frozen=True, slots=True)
class Message:
    """One send, to one recipient or several."""

    message_id: str
    deliveries: tuple[Delivery, ...]


def invent(mix: Mix, number: int) -> Message:
    """Make a message up, recipients included."""
    random = mix.generator("invented", number)
    (fewest, most, _) = random.choices(SIZES, [share for _, _, share in SIZES])[0]
    recipients: dict[str, None] = {}
    count = random.randint(fewest, most)
    while len(recipients) < count:
        country_code, _ = random.choice(COUNTRIES)
        recipients[f"{country_code}8{random.randrange(10**7):07}"] = None
    return _planned(random, list(recipients), mix)


def accept(mix: Mix, number: int, recipients: Sequence[str]) -> Message:
    """The message of one call of the send API."""
    return _planned(mix.generator("sent", number), recipients, mix)


def happens(mix: Mix, kind: str, number: int, share: float) -> bool:
    """True if this kind of fault befalls a send. The message is the same either way."""
    return mix.generator(kind, number).random() < share


def _planned(random: Random, recipients: Sequence[str], mix: Mix) -> Message:
    message_id = _message_id(random)
    names = random.choices(list(mix.shares), list(mix.shares.values()), k=len(recipients))
    return Message(
        message_id,
        tuple(
            Delivery(recipient, name, _reports(random, message_id, recipient, name, mix.delays))
            for recipient, name in zip(recipients, names, strict=True)
        ),
    )


def _message_id(random: Random) -> str:
    """An id in the guide's form, `052804b7368321`, or the older guide's, `015bd4-d6dfa7-58w`."""
    digits = f"{random.randrange(16**14):014x}"
    if random.random() < 0.7:
        return digits
    ending = f"{random.randrange(100):02}{random.choice('abcdefghijklmnopqrstuvwxyz')}"
    return f"{digits[:6]}-{digits[6:12]}-{ending}"


def _reports(
    random: Random, message_id: str, recipient: str, name: str, delays: Delays
) -> tuple[PlannedReport, ...]:
    behaviour = BEHAVIOURS[name]
    if behaviour.like:
        behaviour = BEHAVIOURS[random.choice(behaviour.like)]
    known = {"type": "dlr", "messageid": message_id, "to": recipient}
    network = random.choice(_networks(recipient))
    planned: list[PlannedReport] = []
    for template in behaviour.reports:
        parameters = {**known, **_worded(random, template), "network": network}
        query, meant, malformed = _query(random, parameters, behaviour)
        times = random.randint(2, 5) if behaviour.repeated else 1
        for _ in range(times):
            delay_s = _delay_s(random, behaviour if not planned else None, delays)
            if planned and behaviour.at_once:
                delay_s = planned[0].after_s
            planned.append(PlannedReport(query, delay_s, meant, malformed))
    return tuple(planned)


def _networks(recipient: str) -> Sequence[str]:
    for country_code, networks in COUNTRIES:
        if recipient.startswith(country_code):
            return networks
    return ("52099",)


def _worded(random: Random, template: Template) -> dict[str, str]:
    """Put the template's label, in one of its spellings, into `statuscode` or `errcode`."""
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
) -> tuple[str, str, str | None]:
    """The raw query, its meaning, and the code of its refusal if it is malformed."""
    # The guide doesn't say if a space comes as `+` or as `%20`.
    quoted = random.choice((quote, quote_plus))
    if behaviour.malformed:
        way = random.choice(MALFORMED)
        changed = {**parameters, **way.changes}
        kept = {name: value for name, value in changed.items() if value is not None}
        query = urlencode(kept, quote_via=quoted) + way.ending
        return query, urlencode(parameters), way.code
    prefix = random.choice(behaviour.prefixes)
    query = urlencode(parameters, quote_via=quoted) + random.choice(behaviour.endings)
    query = query.replace("&to=", f"&to={prefix}", 1)
    return query, query, None


def _delay_s(random: Random, first: Behaviour | None, delays: Delays) -> float:
    """Draw a delay. `first` is the behaviour for its first report: only that may come late."""
    drawn = random.random()
    if first is not None and first.timing is Timing.EARLY:
        return 0
    if first is not None and first.timing is Timing.LATE:
        return delays.usual_s + drawn * max(0, delays.late_s - delays.usual_s)
    return drawn * delays.usual_s
