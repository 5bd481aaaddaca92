"""A clock that is set back: the report that came later still wins."""

import time
from types import SimpleNamespace

import pytest

from app.callback import door
from tests.service import Service, a_report

SECOND = 1_000_000_000
DAY = 86_400 * SECOND


def test_a_report_that_comes_later_wins_though_the_clock_is_set_back(
    own_service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.time_ns()
    steps = {"1": 0, "2": -10 * SECOND, "3": 30 * DAY, "4": SECOND, "5": 2 * SECOND}
    shown = []
    for errcode, step in steps.items():
        clock = SimpleNamespace(time_ns=lambda at=now + step: at, perf_counter=time.perf_counter)
        monkeypatch.setattr(door, "time", clock)
        own_service.call_back(a_report(errcode=errcode))
        shown.append(own_service.delivery()["errcode"])

    received_at = {it["errcode"]: it["received_at"] for it in own_service.reports()}
    assert received_at["1"] < received_at["2"] < received_at["4"] < received_at["5"]
    assert received_at["5"] < received_at["3"]  # a wrong clock's, which no later one has
    assert (shown[0], shown[1], shown[3:]) == ("1", "2", ["4", "5"])
    assert caplog.messages.count("the clock was set back") == 1
