"""Times as the API shows them."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.api.times import EPOCH, rfc3339

ANY_TIME = st.datetimes(timezones=st.just(UTC))


@given(ANY_TIME)
def test_a_time_is_shown_to_the_microsecond_whatever_its_year(time: datetime) -> None:
    microseconds = (time - EPOCH) // timedelta(microseconds=1)

    assert rfc3339(microseconds) == time.isoformat(timespec="microseconds")[:-6] + "Z"
