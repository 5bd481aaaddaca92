"""The bars and the day of readers in any zone, also where the clock is put on or back."""

from zoneinfo import ZoneInfo

import pytest

from app.console.country_names import NAMES
from app.console.hours import SPANS, bars_of, days_counted, first_hour, today_of
from app.query.countries import country_of

AN_HOUR = 440_000  # since 1970
HOURS_A_YEAR = 366 * 24


@pytest.mark.parametrize("zone", ["UTC", "Asia/Singapore", "Asia/Kolkata", "Europe/Berlin"])
def test_each_hour_is_in_one_bar(zone: str) -> None:
    reader = ZoneInfo(zone)
    for now_hour in range(AN_HOUR, AN_HOUR + HOURS_A_YEAR, 37):
        for chosen in SPANS.values():
            since = now_hour + 1 - days_counted(chosen) * 24
            by_hour = {hour: {"delivered": 1} for hour in range(since, now_hour + 1)}
            bars = bars_of(by_hour, chosen, now_hour, reader)

            first = first_hour(chosen, now_hour, reader)
            assert sum(bar.total for bar in bars) == now_hour + 1 - first
            assert len({bar.name for bar in bars}) >= len(bars) - 1  # one hour may come twice
            assert max(bar.total for bar in bars) <= chosen.hours_a_bar + 1
            if chosen.hours_a_bar == 24:
                assert len(bars) == chosen.days


def test_today_begins_at_the_readers_midnight() -> None:
    now_hour = AN_HOUR - AN_HOUR % 24 + 2  # 02:00 UTC
    by_hour = {hour: {"delivered": 1} for hour in range(now_hour - 240, now_hour + 1)}

    totals = {
        zone: today_of(by_hour, now_hour, ZoneInfo(zone))
        for zone in ("UTC", "Asia/Singapore", "Asia/Kolkata", "America/New_York")
    }

    assert [it.total for it in totals.values()] == [2, 10, 7, 22]
    assert totals["Asia/Singapore"].until == "10:00 UTC+8"
    assert totals["Asia/Kolkata"].until == "07:30 UTC+5:30"
    assert [it.change for it in totals["UTC"].others] == [0.0, 0.0]


def test_every_country_has_a_name() -> None:
    codes = {country_of(f"{mcc:03}") for mcc in range(1000)} - {None}

    assert codes == NAMES.keys()
