"""Which rounds of a measurement nobody disturbed.

Where cores and caches are shared with others, the same work takes up to twice the CPU time, for
milliseconds or for minutes, and nothing here shows it as load. So work that is always the same is
timed beside each round, and a round counts as undisturbed if all of that took about as long as it
ever did. What the round itself took has no part in it.

Somebody who is there from beginning to end is not noticed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

ENOUGH, LEAST = 20, 5
"""Undisturbed rounds a figure should rest on, and must."""

_WARM_UP = 200
_LOOPS = 2_500  # some 0.1 ms
_FASTEST_PART = 0.02
_AS_FAST = 1.2

ADDING = "adding"

Mark = tuple[str, float]
"""Which work, and how long it took."""


class Probe:
    """Work that is always the same, of some kinds. It speaks for one CPU: what is measured is to
    stay on that.

    What rounds are held to is known once all are done.
    """

    def __init__(self) -> None:
        self._took: dict[str, list[float]] = {}
        self.last: Mark = ADDING, 0.0
        """The last time that :meth:`work` was done."""
        for _ in range(_WARM_UP):
            self.work()

    def work(self) -> Mark:
        """Add up whole numbers; nanoseconds of CPU. It tells of a core that is shared or slowed
        down, little of caches that are."""
        begun_ns, total = time.thread_time_ns(), 0
        for number in range(_LOOPS):
            total += number * number
        self.last = self.note(ADDING, time.thread_time_ns() - begun_ns)
        return self.last

    def note(self, kind: str, took: float) -> Mark:
        """Other work that is always the same was done."""
        self._took.setdefault(kind, []).append(took)
        return kind, took

    def limits(self) -> dict[str, float]:
        """What each kind takes at most where nobody is in the way, as far as was seen by now."""
        limits = {}
        for kind, took in self._took.items():
            limits[kind] = sorted(took)[int(len(took) * _FASTEST_PART)] * _AS_FAST
        return limits


@dataclass(frozen=True, slots=True)
class Round:
    """What was measured, and the work beside it."""

    measured: float
    beside: tuple[Mark, ...]


class Rounds:
    """Of one measurement, beside *probe*."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._rounds: list[Round] = []

    def __len__(self) -> int:
        return len(self._rounds)

    def append(self, one: Round, *beside: Mark) -> None:
        self._rounds.append(Round(one.measured, (*one.beside, *beside)))

    @property
    def undisturbed(self) -> list[float]:
        limits = self._probe.limits()
        return [
            each.measured
            for each in self._rounds
            if all(took <= limits[kind] for kind, took in each.beside)
        ]

    def median(self) -> float:
        """Of the undisturbed ones."""
        return median(self.undisturbed)

    def median_of_all(self) -> float:
        return median([each.measured for each in self._rounds])
