"""How many more VMs of a shape fit: what placing them one after another would give, at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedulerglobal.core.view import ClusterView, Shape


def fits(view: ClusterView, shape: Shape) -> NDArray[np.int64]:
    """For every row, how many more VMs of *shape* it can take; 0 where new VMs may not go.

    With r the level, S its vCPUs, a the CPUs it owns and those free: n more VMs of v vCPUs need
    ``ceil((S + n·v)/r)`` CPUs and at least v, so n is ``floor((r·a - S)/v)`` if v ≤ a, else 0.
    """
    of, level = view.columns, view.level_columns(shape.level)
    at = slice(len(view))
    reach = level.owned[at].astype(np.int64) + of.room_cpus[at]
    parts = reach * shape.level.numerator - level.parts[at]
    by_cpus = parts // (shape.vcpus * shape.level.denominator)
    free_mib = (of.capacity_memory_mib[at] - of.memory_mib[at] + of.overhead_mib[at]).astype(
        np.int64
    )
    by_memory = free_mib // (shape.memory_mib + of.overhead_mib[at].astype(np.int64))
    more: NDArray[np.int64] = np.minimum(by_cpus, by_memory)
    more[reach < shape.vcpus] = 0
    more[list(view.closed)] = 0
    return np.maximum(more, 0, out=more)
