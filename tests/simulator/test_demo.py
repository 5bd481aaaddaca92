"""`make demo`: everything together, as a newcomer sees it first."""

import re

from tests.process import run_module, run_python


def test_the_demonstration_ends_with_an_agreement_and_the_figures() -> None:
    ended = run_python("-m", "simulator.demo", "--seconds", "3")

    assert ended.code == 0, ended
    assert ": all agree\n" in ended.stdout
    assert re.search(r"^[1-9]\d* of the messages went through POST", ended.stdout, re.MULTILINE)
    assert "refused" not in ended.stdout
    for heading in ("By state and reason", "By network"):
        assert heading in ended.stdout
    assert re.search(r"delivered .* [1-9]\d* ", ended.stdout)


def test_a_wrong_time_is_refused() -> None:
    ended = run_module("simulator.demo", "--seconds", "0")

    assert ended.code == 2
    assert "--seconds" in ended.stderr
