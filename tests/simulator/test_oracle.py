"""The simulator's expectations of a service, checked with the cases that the service must pass."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from simulator.behaviours import BEHAVIOURS
from simulator.command import simulate
from simulator.oracle import Claim, acceptable_statuses, claim_of
from simulator.traffic import Delays, Mix, invent

CASES = [
    case
    for case in map(
        json.loads,
        (Path(__file__).parents[1] / "cases" / "callbacks.jsonl").read_text().split("\n")[:-1],
    )
    if case["http"] == 200
]

PAGE = Path(__file__).parents[2] / "docs" / "simulator.md"

DELIVERED = claim_of("status=0&statuscode=delivered&network=52099")
ACCEPTED = claim_of("status=0&statuscode=accepted")
ABSENT = claim_of("status=404&statuscode=Absent+Subscriber+Temporary")
REJECTED = claim_of("status=401")


def states(stored: list[Claim], perhaps: list[Claim]) -> list[Any]:
    """The acceptable states, and whether each is conflicting."""
    found = acceptable_statuses(stored, perhaps)
    return sorted(
        ("", False) if one is None else (one["state"], one["conflicting"]) for one in found
    )


@pytest.mark.parametrize("case", CASES, ids=[case["label"] for case in CASES])
def test_a_case_means_the_same_to_the_simulator(case: dict[str, Any]) -> None:
    (status,) = acceptable_statuses([claim_of(case["query"])], [])

    assert status is not None
    names = status.keys() & case.keys() - {"status"}
    assert {name: status[name] for name in names} == {name: case[name] for name in names}


@pytest.mark.parametrize(
    ("stored", "perhaps", "expected"),
    [
        ([], [], [("", False)]),
        ([DELIVERED], [], [("delivered", False)]),
        ([DELIVERED, ACCEPTED], [], [("delivered", False)]),
        ([ABSENT, DELIVERED], [], [("delivered", True)]),
        ([], [DELIVERED], [("", False), ("delivered", False)]),
        ([ABSENT], [DELIVERED], [("delivered", True), ("undelivered", False)]),
        ([DELIVERED], [DELIVERED], [("delivered", False)]),
        # Equal ranks that differ: only the service knows which report it received last.
        ([ABSENT, REJECTED], [], [("rejected", True), ("undelivered", True)]),
    ],
)
def test_a_status_is_a_fold_of_what_was_stored(
    stored: list[Claim], perhaps: list[Claim], expected: list[Any]
) -> None:
    assert states(stored, perhaps) == expected


def test_no_behaviour_leaves_open_which_report_decides() -> None:
    mix = Mix(1, dict.fromkeys(BEHAVIOURS, 1.0), Delays(0, 0))
    messages = [invent(mix, number) for number in range(500)]
    deliveries = [delivery for message in messages for delivery in message.deliveries]
    stored = [
        [claim_of(report.query) for report in delivery.reports if not report.malformed]
        for delivery in deliveries
    ]

    assert {delivery.behaviour for delivery in deliveries} == BEHAVIOURS.keys()
    assert all(len(acceptable_statuses(claims, [])) == 1 for claims in stored)


def test_the_page_names_every_behaviour_and_its_share() -> None:
    page = PAGE.read_text()

    rows = [f"| `{name}` | {behaviour.weight} |" for name, behaviour in BEHAVIOURS.items()]

    assert [row for row in rows if row not in page] == []


def test_the_page_names_every_option() -> None:
    options = inspect.signature(simulate).parameters

    missing = [name for name in options if f"--{name.replace('_', '-')}" not in PAGE.read_text()]

    assert missing == []
