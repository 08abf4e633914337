"""What is asked for in the long run: how often each shape came, and which of them are commonest.

A count for each shape, all halved once there are many, is all that is learnt. So a request counts
half as much some ten thousand requests later, while a few hundred are as good as exact counts.
The choice of the commonest is renewed only when as many again have come: those at its end are
about as common as those left out, and what is kept about them need not be worked out again for
each that overtakes another.
"""

from __future__ import annotations

from heapq import nsmallest

import numpy as np
from numpy.typing import NDArray

from schedulerglobal.core.view import Shape

Shares = tuple[tuple[Shape, int], ...]
"""How often each shape came, the commonest first: a plain value, to keep and to go on from."""

ENOUGH = 100
"""Arrivals from which on something is expected."""
COMMONEST = 12
"""Shapes of a level that are expected."""
LONG_RUN = 1 << 14
"""Arrivals at which all counts are halved."""
_MOST_LEVELS = 8
"""The commonest levels, of which shapes are expected."""
_MOST_KEPT = 1_024
"""The commonest shapes, which are told when asked for what was learnt."""

_Key = tuple[int, int, int, int]


class Arrivals:
    """Counts what arrives. The same arrivals in the same order make the same choices."""

    def __init__(self, shares: Shares = ()) -> None:
        self._shapes: dict[_Key, Shape] = {}
        self._counts: dict[_Key, int] = {}
        self.total = 0
        """Arrivals counted, after halving."""
        self.expected: tuple[Shape, ...] = ()
        """The commonest, level by level; none before there were enough to tell."""
        self.counts: NDArray[np.float64] = np.empty(0)
        """How often each of those came."""
        self.choices = 0
        """How many times those were chosen."""
        self._places: dict[_Key, int] = {}
        self._choose_at = ENOUGH
        self.learn(shares)

    def learn(self, shares: Shares) -> None:
        """Count what was learnt before."""
        for shape, count in shares:
            key = _key(shape)
            self._shapes[key] = shape
            self._counts[key] = self._counts.get(key, 0) + count
            self.total += count
        while self.total > LONG_RUN:
            self._halve()
        if self.total >= ENOUGH:
            self._choose()

    def begin_anew(self, shares: Shares) -> None:
        """Count nothing but what was learnt before, by whomever."""
        self._shapes.clear()
        self._counts.clear()
        self.total = 0
        self._choose()
        self.learn(shares)

    def count(self, shape: Shape) -> None:
        """A VM of *shape* was asked for, whatever became of it."""
        key = _key(shape)
        known = self._counts.get(key, 0)
        if not known:
            self._shapes[key] = shape
        self._counts[key] = known + 1
        self.total += 1
        place = self._places.get(key)
        if place is not None:
            self.counts[place] += 1
        if self.total > LONG_RUN:
            self._halve()
            self._choose()
        elif self.total >= self._choose_at:
            self._choose()

    def of(self, shape: Shape) -> int:
        """How often *shape* came."""
        return self._counts.get(_key(shape), 0)

    @property
    def shares(self) -> Shares:
        """What was learnt."""
        kept = nsmallest(_MOST_KEPT, self._counts, key=self._rank)
        return tuple((self._shapes[key], self._counts[key]) for key in kept)

    def _rank(self, key: _Key) -> tuple[int, _Key]:
        return -self._counts[key], key

    def _halve(self) -> None:
        self._counts = {key: count // 2 for key, count in self._counts.items() if count > 1}
        self._shapes = {key: self._shapes[key] for key in self._counts}
        self.total = sum(self._counts.values())

    def _choose(self) -> None:
        levels: dict[tuple[int, int], list[_Key]] = {}
        for key in self._counts:
            levels.setdefault(key[2:], []).append(key)
        chosen: list[_Key] = []
        if self.total >= ENOUGH:
            commonest = nsmallest(_MOST_LEVELS, levels.items(), key=self._rank_of_level)
            for _, keys in commonest:
                chosen += nsmallest(COMMONEST, keys, key=self._rank)
        self.expected = tuple(self._shapes[key] for key in chosen)
        self.counts = np.array([self._counts[key] for key in chosen], dtype=np.float64)
        self._places = {key: place for place, key in enumerate(chosen)}
        self._choose_at = max(2 * self.total, ENOUGH)
        self.choices += 1

    def _rank_of_level(
        self, level: tuple[tuple[int, int], list[_Key]]
    ) -> tuple[int, tuple[int, int]]:
        return -sum(self._counts[key] for key in level[1]), level[0]


def _key(shape: Shape) -> _Key:
    level = shape.level
    return shape.vcpus, shape.memory_mib, level.numerator, level.denominator
