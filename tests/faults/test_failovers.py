"""The short form of the failovers; `make faults` runs the long one."""

from tests.faults.failovers import fail_over_often


def test_failovers_to_a_synchronous_standby_lose_nothing_and_are_followed_soon(seed: int) -> None:
    """One primary is killed, the next one freezes."""
    print(fail_over_often(seed, times=2, is_synchronous=True))
