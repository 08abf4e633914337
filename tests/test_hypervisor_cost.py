"""What reading the usage of 300 VMs costs, held loosely: others may be busy, and branches counted.

The figure that is promised is ``python -m benchmarks stats``'s.
"""

from __future__ import annotations

from benchmarks import stats

TIMES = 4


def test_the_usage_of_300_vms_is_read_in_a_moment() -> None:
    whole, told = stats.run(lambda _: None)
    assert "300" in whole.name
    assert 0 < told.measured < whole.measured < TIMES * stats.BOUND_MS
