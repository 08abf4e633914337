"""What every host was found to be for a request, and in one clause why none can take it.

For people who ask, and so in no hurry; what a decision itself needs is elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schedulercommon.model import Rejection
from schedulerglobal.core.policies import Choice, Policy
from schedulerglobal.core.scores import NO_ROOM, Scores
from schedulerglobal.core.tight import least
from schedulerglobal.core.view import ClusterView, Shape, gained_cpus
from schedulerglobal.core.wishes import Wishes

_CLOSED = "it is closed to new VMs"
_NOT_ASKED_FOR = "it is not among the hosts asked for"
_NO_TIER = "it has no place in the spread"
_HIGHER_TIER = "it has more of these VMs around it than another with room"
_TRIED = "it was asked and refused"
_UNPREFERRED = "it is used only if no other has room"

_MOST_REASONS = 6  # in one sentence


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a host was found to be for a request."""

    host: str
    score: float | None
    """The larger the better, of equals the first; None if it is left out."""
    reason: str | None
    """Why it is left out, as a clause about the host."""


def verdicts(
    view: ClusterView,
    shape: Shape,
    policy: Policy,
    wishes: Wishes,
    closed: Mapping[int, str],
    last: int,
    scores: Scores,
) -> list[Verdict]:
    """One for each row, in order; *last* is where a policy that goes round is, *scores* are those
    of all rows as if new VMs might go to any."""
    hosts = len(view)
    if policy.choice is Choice.NEXT:
        steps = (np.arange(hosts) - last - 1) % max(hosts, 1)
        scores = np.where(scores > NO_ROOM, 0.0 - steps, NO_ROOM)
    reasons = {}
    if wishes.only is not None:
        reasons = {row: _NOT_ASKED_FOR for row in range(hosts) if row not in wishes.only}
    reasons |= _ruled_out(view, wishes, closed)
    gained, room_cpus, room_mib = _rooms(view, shape)
    for row in np.flatnonzero(scores == NO_ROOM).tolist():
        if gained[row] > room_cpus[row]:
            short = Rejection("cpus", asked=int(gained[row]), free=int(room_cpus[row]))
        else:
            overhead_mib = int(view.cells.overhead_mib[row])
            free_mib = max(int(room_mib[row]) + overhead_mib, 0)
            short = Rejection("memory_mib", shape.memory_mib + overhead_mib, free_mib)
        reasons.setdefault(row, short.sentence)
    reasons |= _surpassed(view, wishes, [row for row in range(hosts) if row not in reasons])
    if policy.choice is Choice.LEAST_LOSS:
        scores[list(reasons)] = NO_ROOM
        if (enough := least(scores)) is not None:
            scores[scores >= enough] = scores.max()  # of these it is the first
    return [
        Verdict(name, None, reasons[row]) if row in reasons else Verdict(name, score, None)
        for row, (name, score) in enumerate(zip(view.names, scores.tolist(), strict=True))
    ]


def why_none(
    view: ClusterView,
    shape: Shape,
    wishes: Wishes,
    closed: Mapping[int, str],
    excluding: Collection[int],
) -> str:
    """Why none of the hosts asked for can take it, *excluding* having been tried."""
    asked = np.ones(len(view), dtype=np.bool_)
    if wishes.only is not None:
        asked[:] = False
        asked[list(wishes.only)] = True
    hosts = int(asked.sum())
    if not hosts:
        return "there is no host" if wishes.only is None else "no host is as asked for"
    reasons = _ruled_out(view, wishes, closed) | dict.fromkeys(excluding, _TRIED)
    found = Counter(reason for row, reason in reasons.items() if asked[row])
    asked[list(reasons)] = False
    gained, room_cpus, room_mib = _rooms(view, shape)
    lacks_cpus = asked & (gained > room_cpus)
    lacks_memory = asked & ~lacks_cpus & (room_mib < shape.memory_mib)
    parts = Counter(
        {
            "it has too few CPUs": int(lacks_cpus.sum()),
            "it has too little memory": int(lacks_memory.sum()),
        }
    )
    listed = [*parts.most_common(), *found.most_common(_MOST_REASONS)]
    if hosts == 1:
        name = view.names[next(iter(wishes.only))] if wishes.only else view.names[0]
        reason = next((reason for reason, count in listed if count), "it has room")
        return f"host {name} cannot take it: {reason}"
    texts = [_counted(count, reason) for reason, count in listed if count]
    if rest := sum(count for _, count in found.most_common()[_MOST_REASONS:]):
        texts.append(_counted(rest, "it is out for other reasons"))
    return f"none of {hosts} hosts has room: {', '.join(texts)}"


def _ruled_out(view: ClusterView, wishes: Wishes, closed: Mapping[int, str]) -> dict[int, str]:
    """Rows left out whether or not there is room; the first reason wins, and so comes last."""
    reasons: dict[int, str] = {}
    if wishes.tiers is not None:
        reasons = {row: _NO_TIER for row in range(len(view)) if row not in wishes.tiers}
    reasons |= wishes.refused
    reasons |= {row: closed.get(row, _CLOSED) for row in view.closed}
    return reasons


def _surpassed(view: ClusterView, wishes: Wishes, able: list[int]) -> dict[int, str]:
    """Those of the rows *able* to take it that something comes before, whatever they score."""
    reasons: dict[int, str] = {}
    if any(map(view.is_preferred, able)):
        reasons = {row: _UNPREFERRED for row in able if not view.is_preferred(row)}
    tiers = wishes.tiers
    left = [row for row in able if row not in reasons]
    if tiers is not None and left:
        lowest = min(tiers[row] for row in left)
        reasons |= {row: _HIGHER_TIER for row in left if tiers[row] > lowest}
    return reasons


def _rooms(
    view: ClusterView, shape: Shape
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """CPUs gained and free, and the memory of the largest VM there is room for, by row."""
    of, at = view.columns, slice(len(view))
    gained = gained_cpus(view.level_columns(shape.level), at, shape, np.maximum)
    return gained, of.room_cpus[at], of.capacity_memory_mib[at] - of.memory_mib[at]


def _counted(count: int, reason: str) -> str:
    """A clause about one host (``it is draining``) as one about *count* of them."""
    it, _, clause = reason.partition(" ")
    verb, _, rest = clause.partition(" ")
    if it != "it" or not rest:
        return f"{count}: {reason}"
    if count > 1:
        verb = {"is": "are", "has": "have", "was": "were"}.get(verb, verb)
    return f"{count} {verb} {rest}"
