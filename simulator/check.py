"""Compares the ledger with the service's API: the reports of a delivery must explain its status."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from simulator import oracle
from simulator.api import Api, ApiUnavailableError, opened
from simulator.ledger import LedgerError, events
from simulator.options import Check, OptionError
from simulator.oracle import Claim, claim_of, claim_of_answer

ASK_AGAIN_AFTER_S: Final = 0.25

# A report with one of these answers, or with none, may be stored or not: the answer may be a
# proxy's, and the service's lost.
UNCLEAR_ANSWERS: Final = frozenset({None, 502, 503, 504})

MAX_SHOWN: Final = 20

# The price and the parts of a delivery that was never asked about.
NOT_TOLD: Final = (None, None)


@dataclass(slots=True)
class Delivery:
    """One recipient of a message, as the ledger has it."""

    behaviour: str
    via: str
    reports: list[dict[str, Any]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)  # the answers about it
    perhaps_told: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_called_back(self) -> bool:
        """True if one of its good reports was certainly stored."""
        return any(not it["malformed"] and it["answer"] == 200 for it in self.reports)


@dataclass(slots=True)
class Sent:
    """The content of a ledger: the deliveries of each message, and counts of the reports."""

    messages: dict[str, dict[str, Delivery]] = field(default_factory=dict)
    reports: int = 0
    stored: int = 0
    unclear: int = 0
    questions: int = 0

    @property
    def deliveries(self) -> int:
        return sum(map(len, self.messages.values()))


class Source(StrEnum):
    """The way by which the service came to its status of a delivery."""

    CALLED_BACK = "called back"
    ASKED = "told only when asked"
    PENDING = "pending"  # it was sent, or registered
    UNKNOWN = "not known to the service"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check. It agrees if there is no difference."""

    sent: Sent
    differences: list[str]
    known: Counter[Source]  # every delivery
    quarantine_was_compared: bool


def check(asked: Check, path: Path) -> Verdict:
    """Compare, again and again, until there is no difference or `settle_s` is over.

    Raises `LedgerError`, and `OptionError` if the API can't be asked.
    """
    sent = read_sent(path)
    deadline = time.monotonic() + asked.settle_s
    with opened(asked) as api:
        while True:
            try:
                verdict = compare(api, sent)
                if not verdict.differences or time.monotonic() >= deadline:
                    return verdict
            except ApiUnavailableError as error:
                if time.monotonic() >= deadline:
                    raise OptionError(f"--api: {error}") from None
            time.sleep(ASK_AGAIN_AFTER_S)


def read_sent(path: Path) -> Sent:
    """Read a ledger. Raises `LedgerError`."""
    sent = Sent()
    try:
        for event in events(path):
            if event["event"] == "sent":
                delivery = Delivery(event["behaviour"], event["via"])
                sent.messages.setdefault(event["messageid"], {})[event["to"]] = delivery
            elif event["event"] == "report":
                sent.messages[event["messageid"]][event["to"]].reports.append(event)
                sent.reports += 1
                sent.stored += event["answer"] == 200
                sent.unclear += event["answer"] in UNCLEAR_ANSWERS
            elif event["event"] == "asked":
                sent.questions += 1
                _add_told(sent, event)
    except KeyError as missing:
        raise LedgerError(f"lacks {missing}, so it can't be compared") from None
    return sent


def _add_told(sent: Sent, event: dict[str, Any]) -> None:
    """Note what an answer tells. An odd one may not have been understood, or not been awaited."""
    for told in event["told"]:
        delivery = sent.messages[event["messageid"]][told["to"]]
        (delivery.perhaps_told if event["odd"] else delivery.told).append(told)


def compare(api: Api, sent: Sent) -> Verdict:
    """Compare every delivery of the ledger with the API as it is now."""
    differences = list(_wrong_answers(sent))
    known: Counter[Source] = Counter()
    found = api.messages(list(sent.messages))
    for message_id, deliveries in sent.messages.items():
        shown = found.get(message_id)
        rows = {} if shown is None else {row["to"]: row for row in shown["deliveries"]}
        known.update(_source(delivery, rows.get(to)) for to, delivery in deliveries.items())
        differences += [
            f"{message_id} {difference}" for difference in _differences(deliveries, shown, rows)
        ]
    refused = api.quarantine() if any(_refused(sent)) else {}
    if refused is not None:
        differences += _missing_in_quarantine(sent, refused)
    return Verdict(sent, differences, known, quarantine_was_compared=refused is not None)


def _source(delivery: Delivery, shown: Any) -> Source:
    if shown is None:
        return Source.UNKNOWN
    if shown["state"] == oracle.PENDING["state"]:
        return Source.PENDING
    is_told = delivery.told or delivery.perhaps_told
    return Source.ASKED if is_told and not delivery.is_called_back else Source.CALLED_BACK


def _wrong_answers(sent: Sent) -> Iterator[str]:
    answered = False
    for message_id, to, report in _reports(sent):
        answer, malformed = report["answer"], report["malformed"]
        answered = answered or answer not in UNCLEAR_ANSWERS
        if answer in UNCLEAR_ANSWERS:
            continue
        where = f"{message_id} to {masked(to)}:"
        if answer != (400 if malformed else 200):
            kind = f"a malformed report ({malformed})" if malformed else "a good report"
            yield f"{where} {kind} was answered {answer}"
        elif malformed and _code(report["body"]) != malformed:
            yield f"{where} the refusal's code is {_code(report['body'])}, must be {malformed}"
    if sent.reports and not answered:
        yield "no report was answered at all, so there is nothing to compare"


def _reports(sent: Sent) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for message_id, deliveries in sent.messages.items():
        for to, delivery in deliveries.items():
            for report in delivery.reports:
                yield message_id, to, report


def _code(body: str) -> object:
    try:
        problem = json.loads(body)
    except ValueError:
        return None
    return problem.get("code") if isinstance(problem, dict) else None


def _differences(
    deliveries: dict[str, Delivery], shown: Any, rows: dict[str, Any]
) -> Iterator[str]:
    """The differences of one message. `shown` is None if the API doesn't know it."""
    for to, delivery in deliveries.items():
        difference = _difference(delivery, rows.get(to)) or _cost(delivery, rows.get(to))
        if difference:
            yield f"to {masked(to)} ({delivery.behaviour}): {difference}"
    for to in rows.keys() - deliveries.keys():
        yield f"to {masked(to)}: is shown, and was never sent"
    if shown is not None:
        states = {row["state"] for row in rows.values()}
        state = states.pop() if len(states) == 1 else "mixed"
        final = all(row["final"] for row in rows.values())
        if (shown["state"], shown["final"]) != (state, final):
            yield f"is {shown['state']}, final {shown['final']}, unlike its deliveries"


def _difference(delivery: Delivery, shown: Any) -> str | None:
    acceptable = oracle.acceptable_statuses(*_claims(delivery))
    if None in acceptable:
        # The service knows a delivery without a report if it sent it, or if it was registered.
        acceptable.append(oracle.PENDING)
    compared = None if shown is None else {name: shown.get(name) for name in oracle.PENDING}
    if compared in acceptable:
        return None
    expected = acceptable[0]
    if compared is None or expected is None:
        return f"is {_state(compared)}, must be {_state(expected)}"
    return "; ".join(
        f"{name} is {compared[name]!r}, must be {expected[name]!r}"
        for name in expected
        if compared[name] != expected[name]
    )


def _claims(delivery: Delivery) -> tuple[list[Claim], list[Claim]]:
    """The claims of the reports that the service has stored, and of those that it perhaps has."""
    good = [report for report in delivery.reports if not report["malformed"]]
    stored = [claim_of(report["query"]) for report in good if report["answer"] == 200]
    perhaps = [claim_of(report["query"]) for report in good if report["answer"] != 200]
    stored += map(claim_of_answer, delivery.told)
    perhaps += map(claim_of_answer, delivery.perhaps_told)
    return stored, perhaps


def _cost(delivery: Delivery, shown: Any) -> str | None:
    """The difference in price and parts: only an answer tells them."""
    if shown is None or "price" not in shown:  # a version that shows none
        return None
    certain, perhaps = map(_costs, (delivery.told, delivery.perhaps_told))
    costs = (shown["price"], shown["parts"])
    acceptable = certain or [NOT_TOLD, *perhaps]
    return None if costs in acceptable else f"price, parts are {costs}, must be {acceptable[0]}"


def _costs(told: list[dict[str, Any]]) -> list[tuple[str | None, int | None]]:
    return [(json.dumps(one["price"]), one["counts"]) for one in told]


def _state(status: dict[str, Any] | None) -> str:
    return "not known" if status is None else str(status["state"])


def _refused(sent: Sent) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for message_id, to, report in _reports(sent):
        if report["malformed"] and report["answer"] == 400:
            yield message_id, to, report


def _missing_in_quarantine(sent: Sent, refused: dict[str, str]) -> Iterator[str]:
    for message_id, to, report in _refused(sent):
        code = refused.get(report["query"])
        if code != report["malformed"]:
            what = "is not there" if code is None else f"is there as {code}"
            must = f"must be as {report['malformed']}"
            yield f"{message_id} to {masked(to)}: in the quarantine its report {what}, {must}"


def masked(number: str) -> str:
    """A phone number without its middle: `6588****88`."""
    return f"{number[:4]}****{number[-2:]}" if len(number) > 6 else "****"
