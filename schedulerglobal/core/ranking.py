"""Which host a VM goes to: filters, then scores, then the choice among those left.

Wishes narrow the hosts down, whether there is room decides next, then the policy. A host that is
not preferred is taken only if none of the others can be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from schedulerglobal.core.arrivals import Arrivals
from schedulerglobal.core.policies import PRODUCT, Choice, Policy
from schedulerglobal.core.reasons import Verdict, verdicts, why_none
from schedulerglobal.core.scores import NO_ROOM, KeptScores, Scores, scored
from schedulerglobal.core.tight import ExpectedFit, least
from schedulerglobal.core.view import At, ClusterView, Shape
from schedulerglobal.core.wishes import Wishes

__all__ = ["Ranker", "Turn", "Verdict", "Wishes"]

_FEW_ROWS = 0.1  # of all: cheaper to score by themselves than all, once
_ANY_HOST = Wishes()
_NO_REASONS: Mapping[int, str] = {}


@dataclass(slots=True)
class Turn:
    """What a choice depends on beyond the hosts."""

    rng: Random
    last: int = -1
    """The row placed on last by a policy that goes round; -1 before the first."""


class Ranker:
    """Chooses hosts in *view*."""

    def __init__(self, view: ClusterView, turn: Turn, arrivals: Arrivals | None = None) -> None:
        self.turn = turn
        self.arrivals = Arrivals() if arrivals is None else arrivals
        self._view = view
        self._kept = KeptScores(view)
        self._tight = ExpectedFit(view, self.arrivals)

    def arrived(self, shape: Shape) -> None:
        """A VM of *shape* is asked for: to be said once a request, before its host is chosen."""
        self.arrivals.count(shape)

    def best(
        self,
        shape: Shape,
        policy: Policy,
        wishes: Wishes | None = None,
        excluding: Collection[int] = (),
    ) -> int | None:
        """The row to try, none of *excluding*; None if there is room nowhere."""
        policy = self._applied(policy)
        free_choice = wishes is None and not excluding
        if free_choice and policy.choice is Choice.LARGEST:
            row = self._kept.best(shape, policy.score)
        elif free_choice:
            row = self._chosen(policy, None, self._scores(shape, policy))
        else:
            row = self._narrowed(shape, policy, wishes or _ANY_HOST, excluding)
        if row is None and (rest := self._view.unpreferred):
            return self._unpreferred(shape, policy, wishes or _ANY_HOST, excluding, rest)
        return row

    def placed(self, policy: Policy, row: int) -> None:
        """The VM goes to *row*: to be said when it is reserved, so that the next one goes on."""
        if policy.choice is Choice.NEXT:
            self.turn.last = row

    def explain(
        self,
        shape: Shape,
        policy: Policy,
        wishes: Wishes | None = None,
        closed: Mapping[int, str] = _NO_REASONS,
    ) -> list[Verdict]:
        """Every host in order, with its score or the first reason it is left out; *closed* says
        of rows where new VMs may not go why: ``it is draining``."""
        policy = self._applied(policy)
        scores = self._scored(shape, policy, slice(len(self._view)), all_open=True)
        return verdicts(
            self._view, shape, policy, wishes or _ANY_HOST, closed, self.turn.last, scores
        )

    def why_none(
        self,
        shape: Shape,
        wishes: Wishes | None = None,
        closed: Mapping[int, str] = _NO_REASONS,
        excluding: Collection[int] = (),
    ) -> str:
        """One clause on why no host can take it, when none can."""
        return why_none(self._view, shape, wishes or _ANY_HOST, closed, excluding)

    def _narrowed(
        self, shape: Shape, policy: Policy, wishes: Wishes, excluding: Collection[int]
    ) -> int | None:
        view, out = self._view, {*wishes.refused, *excluding}
        only = wishes.rows
        if only is None:
            scores = self._scores(shape, policy).copy()
            if out:
                scores[list(out)] = NO_ROOM
            return self._chosen(policy, None, scores)
        rows = np.array(sorted(only - out), dtype=np.intp)
        if len(rows) <= _FEW_ROWS * len(view):
            scores = self._scored(shape, policy, rows)
        else:
            scores = self._scores(shape, policy)[rows]
        return self._chosen(policy, rows, _lowest_tier(wishes, rows, scores))

    def _unpreferred(
        self,
        shape: Shape,
        policy: Policy,
        wishes: Wishes,
        excluding: Collection[int],
        rest: Collection[int],
    ) -> int | None:
        only = wishes.rows
        out = {*wishes.refused, *excluding}
        able = [row for row in rest if row not in out and (only is None or row in only)]
        rows = np.array(able, dtype=np.intp)
        scores = self._scored(shape, policy, rows, all_open=True)
        return self._chosen(policy, rows, _lowest_tier(wishes, rows, scores))

    def _applied(self, policy: Policy) -> Policy:
        """The policy to go by while nothing is expected."""
        known = policy.choice is not Choice.LEAST_LOSS or self._tight.ready
        return policy if known else PRODUCT

    def _scores(self, shape: Shape, policy: Policy) -> Scores:
        """Of all rows, in order; to be read only, and before the view next changes."""
        if policy.choice is Choice.LEAST_LOSS:
            return self._tight.scores(shape)
        return self._kept.scores(shape, policy.score)

    def _scored(self, shape: Shape, policy: Policy, at: At, all_open: bool = False) -> Scores:
        """Of the rows *at*; with *all_open* also of rows where no new VM may go."""
        if policy.choice is Choice.LEAST_LOSS:
            return self._tight.scored(shape, at, all_open)
        return scored(self._view, shape, policy.score, at, all_open)

    def _chosen(self, policy: Policy, rows: NDArray[np.intp] | None, scores: Scores) -> int | None:
        """Of *rows* (all, if None), ascending, which have *scores*."""
        if policy.choice is Choice.LARGEST:
            place = int(scores.argmax()) if len(scores) else 0
            if not len(scores) or scores[place] == NO_ROOM:
                return None
            return place if rows is None else int(rows[place])
        if policy.choice is Choice.LEAST_LOSS:
            enough = least(scores)
            if enough is None:
                return None
            place = int((scores >= enough).argmax())
            return place if rows is None else int(rows[place])
        places = np.flatnonzero(scores > NO_ROOM)
        able = places if rows is None else rows[places]
        if not len(able):
            return None
        if policy.choice is Choice.ANY:
            return int(able[self.turn.rng.randrange(len(able))])
        following = int(np.searchsorted(able, self.turn.last, side="right"))
        return int(able[following % len(able)])


def _lowest_tier(wishes: Wishes, rows: NDArray[np.intp], scores: Scores) -> Scores:
    """*scores*, but for rows above the lowest tier that has room."""
    if wishes.tiers is None:
        return scores
    tiers = np.array([wishes.tiers[row] for row in rows.tolist()], dtype=np.int64)
    able = scores > NO_ROOM
    if able.any():
        scores[tiers > tiers[able].min()] = NO_ROOM
    return scores
