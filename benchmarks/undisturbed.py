"""Which rounds of a measurement nobody disturbed.

Where a core's other half, or the machine, is shared with others, the same work takes up to twice
the CPU time, for milliseconds or for minutes, and nothing here shows it as load. So work that is
always the same is timed right before and right after each round, and a round counts as undisturbed
if that took about as long as it ever does. What the round itself took has no part in it.

That work is whole numbers added up: it tells of a core that is shared or taken away, little of
caches that are. Somebody who is there from beginning to end is not noticed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

LEAST = 20
"""Undisturbed rounds a figure should rest on."""

_ENOUGH = 5
_WARM_UP = 200
_LOOPS = 2_500  # some 0.1 ms
_FASTEST_PART = 0.02
_AS_FAST = 1.2


class Probe:
    """Work that is always the same. It speaks for one CPU: what is measured is to stay on that.

    What all rounds are held to is known once all are done.
    """

    def __init__(self) -> None:
        self.spent_ns: list[int] = []
        """Each time it was done, in order; there is always a last one."""
        for _ in range(_WARM_UP):
            self.work()

    def work(self) -> int:
        """Nanoseconds of CPU it took."""
        begun_ns, total = time.thread_time_ns(), 0
        for number in range(_LOOPS):
            total += number * number
        self.spent_ns.append(time.thread_time_ns() - begun_ns)
        return self.spent_ns[-1]

    def most_ns(self) -> float:
        """What it takes at most where nobody is in the way, as far as was seen by now."""
        fastest = sorted(self.spent_ns)[int(len(self.spent_ns) * _FASTEST_PART)]
        return fastest * _AS_FAST


@dataclass(frozen=True, slots=True)
class Round:
    """What was measured, and what the probe took beside it."""

    measured: float
    beside_ns: tuple[int, int]
    """Before and after."""


class Rounds:
    """Of one measurement, beside *probe*."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._rounds: list[Round] = []

    def __len__(self) -> int:
        return len(self._rounds)

    def extend(self, rounds: Sequence[Round]) -> None:
        self._rounds.extend(rounds)

    @property
    def undisturbed(self) -> list[float]:
        most_ns = self._probe.most_ns()
        return [each.measured for each in self._rounds if max(each.beside_ns) <= most_ns]

    def median(self) -> float:
        """Of the undisturbed ones; of all where next to none are."""
        undisturbed = self.undisturbed
        return median(undisturbed) if len(undisturbed) >= _ENOUGH else self.median_of_all()

    def median_of_all(self) -> float:
        return median([each.measured for each in self._rounds])
