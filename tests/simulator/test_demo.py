"""`make demo`: everything together, as a newcomer sees it first."""

import re

import pytest

from tests.process import Ended, run_module, run_python


@pytest.fixture(scope="module")
def demonstration() -> Ended:
    return run_python("-m", "simulator.demo", "--seconds", "5")


def figures(pattern: str, text: str) -> list[int]:
    found = re.search(pattern.replace("#", r"([\d,]+)"), text, re.MULTILINE)
    assert found, text
    return [int(figure.replace(",", "")) for figure in found.groups()]


def test_the_demonstration_ends_with_an_agreement_and_the_figures(demonstration: Ended) -> None:
    assert demonstration.code == 0, demonstration
    assert ": all agree\n" in demonstration.stdout
    assert figures("^# of the messages went through POST", demonstration.stdout) > [0]
    assert "refused" not in demonstration.stdout
    for heading in ("By state and reason", "By network"):
        assert heading in demonstration.stdout
    assert re.search(r"delivered .* [1-9]\d* ", demonstration.stdout)


def test_its_deliveries_add_up(demonstration: Ended) -> None:
    sent, unknown = figures("^Deliveries: # by the .*, less # that", demonstration.stdout)
    (shown,) = figures(r"^\(made up, .*\): # in the tables\.", demonstration.stdout)

    assert sent - unknown == shown
    assert figures("^# deliveries: .* called back", demonstration.stdout) == [sent]
    assert figures("deliveries: .* # not known to the service", demonstration.stdout) == [unknown]
    assert figures("messages, # deliveries, .*: all agree", demonstration.stdout) == [sent]
    assert figures("^│ all +│ +# │", demonstration.stdout) == [shown]


def test_it_tells_reports_called_back_from_those_asked_for(demonstration: Ended) -> None:
    called_back, asked = figures("^Reports: # came by callback, # only", demonstration.stdout)

    assert figures("reports answered: # x 200", demonstration.stdout) == [called_back]
    # Chance may have it that each one of so few is called back.
    assert f" {asked:,} told only when asked" in demonstration.stdout or asked == 0
    assert figures("^questions answered: # x ", demonstration.stdout) > [0]


def test_a_wrong_time_is_refused() -> None:
    ended = run_module("simulator.demo", "--seconds", "0")

    assert ended.code == 2
    assert "--seconds" in ended.stderr
