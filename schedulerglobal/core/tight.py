"""Scarcity-priced expected fit: a VM goes where the shapes to come lose least room for it.

Shapes *k* are those that arrivals have shown to be common, with their share *p* of all. With *n*
the copies of one that still fit on a host (:func:`schedulerglobal.core.capacity.fits`), a host is
worth ``g = n(1 + 0.08 n)`` to it: several copies on one host are worth more than as many spread
out, for they are room for something larger, too. With ``N = Σ g`` over the hosts, a shape that
takes the share x of a host's CPUs (at its level) and y of its memory has the price ::

    π = p · size^0.3 / (N + 1)^1.8        size = (x + y)/2 + max(x, y)/2

so that what hardly fits anywhere any more is dear. The VM goes to the host with room that loses
least, ``Σ π (g before - g after)``; of those within 1e-9 of the largest loss, to the first. Where
hosts differ, x and y are shares of their mean.

What every host would lose is kept as whole numbers and follows the hosts that changed, so that a
decision is one product of a matrix and the prices, the same whatever was kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schedulerglobal.core.arrivals import Arrivals
from schedulerglobal.core.scores import NO_ROOM, Scores
from schedulerglobal.core.view import BLOCK, At, ClusterView, Shape, gained_cpus
from schedulerglobal.core.worth import SCALE, Expected, Floats, Rooms

_SIZE_EXPONENT = 0.3
_SCARCITY_EXPONENT = 1.8
_TIE = 1e-9

_NEVER = -1
_AT_ONCE = BLOCK  # rows whose intermediate results stay in a core's cache
_MANY_ROWS = 0.5  # of all: then all are worked out again
_KEPT_BYTES = 1 << 29  # some 180 shapes of three levels at 10 000 hosts
_OF_HOST = 3


class _Kept:
    """What every host would lose with one shape, and how far that has followed the view."""

    def __init__(self, rows: int, columns: int) -> None:
        self.losses = np.empty((rows, columns))
        self.changes = _NEVER


class ExpectedFit:
    """Follows *view*, for what *arrivals* lets expect."""

    def __init__(
        self, view: ClusterView, arrivals: Arrivals, kept_bytes: int = _KEPT_BYTES
    ) -> None:
        self._kept_bytes = kept_bytes
        self._view = view
        self._arrivals = arrivals
        self._choices = _NEVER
        self._expected = Expected(())
        self._worth: Floats = np.empty((0, _OF_HOST))
        """By row, the worth to each shape; then, if new VMs may go there, CPUs, memory and 1."""
        self._totals: Floats = np.zeros(_OF_HOST)
        """Sums of those columns."""
        self._rooms: Rooms = np.empty((self._expected.kinds_of_room, 0))
        self._changes = _NEVER
        self._sizes: tuple[list[float], Floats | float] = ([], 1.0)
        """By which of the last totals they were worked out, and to which power they count."""
        self._kept: dict[Shape, _Kept] = {}

    @property
    def ready(self) -> bool:
        """Whether anything is expected."""
        return bool(self._arrivals.expected)

    def prices(self) -> tuple[Expected, Floats]:
        """What is expected, and the price of each."""
        self._follow()
        capacity = self._totals[-_OF_HOST:].tolist()
        if capacity != self._sizes[0]:
            cpus, memory_mib, hosts = capacity
            sizes = self._expected.sizes(cpus / hosts, memory_mib / hosts) if hosts else 1.0
            self._sizes = capacity, sizes**_SIZE_EXPONENT
        scarcity = self._totals[:-_OF_HOST] / SCALE + 1
        shares = self._arrivals.counts / max(self._arrivals.total, 1)
        return self._expected, shares * self._sizes[1] / scarcity**_SCARCITY_EXPONENT

    def scores(self, shape: Shape) -> Scores:
        """Of all rows, in order: minus the worth that a host loses, the mean over the shapes
        weighted by their prices."""
        weights = self._weights()
        hosts = len(self._view)
        if self._arrivals.of(shape) < 2:  # it may never come again
            return self._scored(shape, slice(hosts), weights)
        return -(self._current(shape).losses[:hosts] @ weights)

    def scored(self, shape: Shape, at: At, all_open: bool = False) -> Scores:
        """The same of the rows *at*; with *all_open* also of rows where no new VM may go."""
        return self._scored(shape, at, self._weights(), all_open)

    def _weights(self) -> Floats:
        _, prices = self.prices()
        weights: Floats = prices / (SCALE * prices.sum())
        return weights

    def _scored(self, shape: Shape, at: At, weights: Floats, all_open: bool = False) -> Scores:
        if not isinstance(at, slice):
            return -(self._losses(shape, at, all_open) @ weights)
        scores = np.empty(at.stop)
        for part in _parts(at.stop):
            scores[part] = -(self._losses(shape, part, all_open) @ weights)
        return scores

    def _follow(self) -> None:
        """Take over what changed in the view and in what is expected."""
        view, arrivals = self._view, self._arrivals
        if self._choices != arrivals.choices or len(self._worth) < len(view):
            rows = -(-len(view) // BLOCK) * BLOCK
            self._choices = arrivals.choices
            self._expected = Expected(arrivals.expected)
            self._worth = np.zeros((rows, len(self._expected) + _OF_HOST))
            self._rooms = np.zeros((self._expected.kinds_of_room, rows))
            self._changes = _NEVER
            self._sizes = ([], 1.0)
            self._kept.clear()
        if self._changes == view.changes:
            return
        changed = view.changed_since(self._changes)
        if changed is None or len(changed) > len(view) * _MANY_ROWS:
            for part in _parts(len(view)):
                self._worth[part] = self._look(part)
            self._totals = self._worth.sum(axis=0)
        else:
            at = _rows(changed)
            worth = self._look(at)
            self._totals += worth.sum(axis=0) - self._worth[at].sum(axis=0)
            self._worth[at] = worth
        self._changes = view.changes

    def _look(self, at: At) -> Floats:
        """What the hosts *at* are worth now, and what they have; takes down what is left there."""
        view, of = self._view, self._view.columns
        rooms = self._expected.rooms(view, at)
        self._rooms[:, at] = rooms
        worth = self._expected.worth(rooms)
        found = np.empty((worth.shape[1], len(worth) + _OF_HOST))
        found[:, :-_OF_HOST] = worth.T
        found[:, -3] = of.capacity_cpus[at]
        found[:, -2] = of.capacity_memory_mib[at]
        found[:, -1] = 1
        rows = range(at.start, at.stop) if isinstance(at, slice) else at.tolist()
        found[[place for place, row in enumerate(rows) if not view.is_open(row)]] = 0
        return found

    def _current(self, shape: Shape) -> _Kept:
        view, (rows, columns) = self._view, self._worth.shape
        kept = self._kept.pop(shape, None)
        if kept is None:
            columns -= _OF_HOST
            if len(self._kept) >= max(self._kept_bytes // (8 * rows * columns), 1):
                kept = self._kept.pop(next(iter(self._kept)))
                kept.changes = _NEVER
            else:
                kept = _Kept(rows, columns)
        # a dict keeps order: what was taken out and put back is the newest
        self._kept[shape] = kept
        if kept.changes != view.changes:
            changed = view.changed_since(kept.changes)
            if changed is None or len(changed) > len(view) * _MANY_ROWS:
                for part in _parts(len(view)):
                    kept.losses[part] = self._losses(shape, part)
            else:
                at = _rows(changed)
                kept.losses[at] = self._losses(shape, at)
            kept.changes = view.changes
        return kept

    def _losses(self, shape: Shape, at: At, all_open: bool = False) -> Floats:
        """What the hosts *at*, each a row, lose of their worth; infinite where there is no room."""
        view, of = self._view, self._view.columns
        gained = gained_cpus(view.level_columns(shape.level), at, shape, np.maximum)
        rooms = self._expected.with_one(self._rooms[:, at], shape, gained)
        losses: Floats = self._worth[at, :-_OF_HOST] - self._expected.worth(rooms).T
        room_mib = of.capacity_memory_mib[at] - of.memory_mib[at] if all_open else of.room_mib[at]
        losses[(gained > of.room_cpus[at]) | (room_mib < shape.memory_mib)] = np.inf
        return losses


def least(scores: Scores) -> float | None:
    """The score from which on one is as good as the largest; None if there is room nowhere."""
    best = float(scores.max(initial=NO_ROOM))
    if best == NO_ROOM:
        return None
    return best + _TIE * float(scores.min(where=scores > NO_ROOM, initial=best))


def _parts(rows: int) -> list[slice]:
    return [slice(start, min(start + _AT_ONCE, rows)) for start in range(0, rows, _AT_ONCE)]


def _rows(changed: Sequence[int]) -> NDArray[np.intp]:
    return np.array(sorted(set(changed)), dtype=np.intp)
