"""Scores of all hosts for a shape, kept while that shape is asked for again and again.

A kept score follows the hosts that changed since, with the same formula. The largest of every
block of rows is kept too, so that the best host is found without reading all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedulerglobal.core.policies import Score, Trial
from schedulerglobal.core.view import BLOCK, At, ClusterView, Shape, gained_cpus

Scores = NDArray[np.float64]
NO_ROOM = float("-inf")
"""The score of a host that has no room, or where new VMs may not go."""

_Key = tuple[int, int, int, int, Score]

_KEPT_SHAPES = 128
_ASKED_SHAPES = 4_096
_NEVER = -1
_AT_ONCE = 16 * BLOCK  # rows whose intermediate results stay in a core's cache
# A changed row costs some 2 µs as plain numbers; a list of them some 20 µs, and 0.1 µs each.
_FEW_ROWS = 8
_MANY_ROWS = 0.05  # of all: then all are scored again
_FREED_BYTES = 1 << 22


class _Kept:
    """Scores for one shape, and how far they have followed the view."""

    def __init__(self, rows: int) -> None:
        self.scores: Scores = np.empty(rows)
        self.blocks = self.scores.reshape(-1, BLOCK)
        self.tops: Scores = np.empty(rows // BLOCK)
        self.cells: Any = self.scores.data
        self.top_cells: Any = self.tops.data
        self.changes = _NEVER


class KeptScores:
    """Keeps the scores of shapes asked for twice or more, of these the last ones.

    A shape asked for the first time is only remembered; so a stream of shapes that never come
    again drives none out, and its scores are always written to the same, cached memory.
    """

    def __init__(self, view: ClusterView) -> None:
        self._view = view
        # Having freed a block that large, glibc keeps what is freed from then on, instead of
        # handing it back to the system and paying for every page of every intermediate result
        # again: that makes a decision over 10 000 hosts three times as slow.
        np.empty(_FREED_BYTES, dtype=np.int8)
        self._kept: dict[_Key, _Kept] = {}
        self._asked: dict[_Key, None] = {}
        self._passing = _Kept(BLOCK)

    def best(self, shape: Shape, score: Score) -> int | None:
        """The first row with the largest score; None if there is room nowhere."""
        kept = self._current(shape, score)
        block = int(kept.tops.argmax())
        if kept.top_cells[block] == NO_ROOM:
            return None
        return block * BLOCK + int(kept.blocks[block].argmax())

    def scores(self, shape: Shape, score: Score) -> Scores:
        """Of all rows, in order; to be read only, and before the view next changes."""
        return self._current(shape, score).scores[: len(self._view)]

    def _current(self, shape: Shape, score: Score) -> _Kept:
        view, level = self._view, shape.level
        rows = -(-max(len(view), 1) // BLOCK) * BLOCK
        key = (shape.vcpus, shape.memory_mib, level.numerator, level.denominator, score)
        kept = self._found(key, rows)
        if kept.changes != view.changes:
            changed = view.changed_since(kept.changes)
            if changed is None or len(changed) > rows * _MANY_ROWS:
                _score_all(view, shape, score, kept)
            elif len(changed) <= _FEW_ROWS:
                _score_few(view, shape, score, kept, changed)
            else:
                kept.scores[changed] = scored(view, shape, score, np.array(changed))
                kept.blocks.max(axis=1, out=kept.tops)
            kept.changes = view.changes
        return kept

    def _found(self, key: _Key, rows: int) -> _Kept:
        """The place for the scores of *key*."""
        kept = self._kept.pop(key, None)
        if kept is None and key not in self._asked:
            if len(self._asked) >= _ASKED_SHAPES:
                del self._asked[next(iter(self._asked))]
            self._asked[key] = None
            if len(self._passing.scores) != rows:
                self._passing = _Kept(rows)
            self._passing.changes = _NEVER
            return self._passing
        if kept is None and len(self._kept) >= _KEPT_SHAPES:
            kept = self._kept.pop(next(iter(self._kept)))
            kept.changes = _NEVER
        if kept is None or len(kept.scores) != rows:
            kept = _Kept(rows)
        # a dict keeps order: what was taken out and put back is the newest
        self._kept[key] = kept
        return kept


def scored(view: ClusterView, shape: Shape, score: Score, at: At, all_open: bool = False) -> Scores:
    """The scores of the rows *at*; with *all_open* also of rows where no new VM may go."""
    of, vm_mib = view.columns, shape.memory_mib
    gained = gained_cpus(view.level_columns(shape.level), at, shape, np.maximum)
    scores: Scores = score(Trial(of, at, vm_mib, gained, np.minimum))
    room_mib = of.capacity_memory_mib[at] - of.memory_mib[at] if all_open else of.room_mib[at]
    lacks = gained > of.room_cpus[at]
    lacks |= room_mib < vm_mib
    np.putmask(scores, lacks, NO_ROOM)
    return scores


def _score_all(view: ClusterView, shape: Shape, score: Score, kept: _Kept) -> None:
    rows = len(kept.scores)
    for start in range(0, rows, _AT_ONCE):
        at = slice(start, min(start + _AT_ONCE, rows))
        kept.scores[at] = scored(view, shape, score, at)
    kept.blocks.max(axis=1, out=kept.tops)


def _score_few(
    view: ClusterView, shape: Shape, score: Score, kept: _Kept, changed: Sequence[int]
) -> None:
    of, level = view.cells, view.level_cells(shape.level)
    for row in set(changed):
        gained = gained_cpus(level, row, shape, max)
        if gained > of.room_cpus[row] or of.room_mib[row] < shape.memory_mib:
            new = NO_ROOM
        else:
            new = score(Trial(of, row, shape.memory_mib, gained, min))
        old, block = kept.cells[row], row // BLOCK
        kept.cells[row] = new
        if new >= kept.top_cells[block]:
            kept.top_cells[block] = new
        elif old == kept.top_cells[block]:
            kept.top_cells[block] = np.maximum.reduce(kept.blocks[block])
