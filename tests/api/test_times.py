"""Times as the API shows them, and takes them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.times import EPOCH, rfc3339
from tests.service import Service

ANY_TIME = st.datetimes(timezones=st.just(UTC))


@given(ANY_TIME)
def test_a_time_is_shown_to_the_microsecond_whatever_its_year(time: datetime) -> None:
    microseconds = (time - EPOCH) // timedelta(microseconds=1)

    assert rfc3339(microseconds) == time.isoformat(timespec="microseconds")[:-6] + "Z"


@pytest.mark.parametrize(
    ("taken", "shown"),
    [
        ("2000-01-31T08:00:00Z", "2000-01-31T08:00:00.000000Z"),
        ("2000-01-31t08:00:00.5z", "2000-01-31T08:00:00.500000Z"),
        ("2000-01-31T08:00:00.123456+07:00", "2000-01-31T01:00:00.123456Z"),
        ("2000-01-31T08:00:00.123456789Z", "2000-01-31T08:00:00.123456Z"),
        (f"2000-01-31T08:00:00.{'9' * 300}-00:30", "2000-01-31T08:30:00.999999Z"),
    ],
)
def test_a_time_that_comes_in_may_have_any_number_of_decimals(
    service: Service, taken: str, shown: str
) -> None:
    answer = service.register("m", to=["6588888888"], submitted_at=taken)

    assert answer.status_code == 200
    assert answer.json()["deliveries"][0]["submitted_at"] == shown


@pytest.mark.parametrize("taken", ["2000-01-31T08:00:00.Z", "2000-01-31T08:00:00.1٣Z"])
def test_decimals_are_digits(service: Service, taken: str) -> None:
    answer = service.register("m", to=["6588888888"], submitted_at=taken)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
