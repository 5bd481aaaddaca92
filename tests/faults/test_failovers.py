"""The short form of the failovers; `make faults` runs the long one."""

from tests.faults.failovers import fail_over_often


def test_a_failover_to_a_synchronous_standby_loses_nothing_and_is_followed_soon(seed: int) -> None:
    """The primary freezes, which takes longer to notice than if it ends."""
    print(fail_over_often(seed, times=1, is_synchronous=True, a_second=500))
