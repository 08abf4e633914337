"""Carrying a plan out: all steps, or none, or, past what cannot be undone, as many as possible."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from schedulercommon.errors import HypervisorError
from schedulerlocal.core.steps import Step, way_back
from schedulerlocal.ports import Hypervisor
from schedulerprocess.patience import Patience

_log = logging.getLogger(__name__)


async def carry_out(
    steps: Sequence[Step], hypervisor: Hypervisor, patience: Patience
) -> HypervisorError | None:
    """Perform *steps* in order.

    A failure undoes what was done, last first, and is raised as HypervisorError. Once a step
    that cannot be undone has been done the plan has succeeded: a later failure is returned, and
    the steps after it are still tried, unless the hypervisor stopped answering. *patience* is
    for all of them. ``clean`` on the error tells whether the way back held.

    Cancelled, as at the end of the service, it stops where it is: what was begun is on record,
    and the next start finishes it.
    """
    done: list[Step] = []
    failure: HypervisorError | None = None
    step: Step | None = None
    try:
        # one bound for the whole plan: its steps are short, and most plans have few
        with patience:
            for step in steps:
                try:
                    await hypervisor.perform(step)
                    done.append(step)
                except HypervisorError as problem:
                    failure = HypervisorError(str(problem))
                    if way_back(done) is not None:
                        raise failure from problem
    except HypervisorError as problem:
        problem.clean = await _undo(way_back(done) or (), hypervisor, patience)
        raise
    except TimeoutError as problem:
        failure = HypervisorError(
            f"the hypervisor did not answer {type(step).__name__} within {patience.timeout_s:g} s;"
            " look at its log and try again"
        )
        back = way_back(done)
        if back is None:
            return failure
        failure.clean = False
        # a call that never answered may have happened all the same
        maybe = [step.inverse] if step is not None and step.inverse else []
        await _undo([*maybe, *back], hypervisor, patience)
        raise failure from problem
    return failure


async def _undo(steps: Sequence[Step], hypervisor: Hypervisor, patience: Patience) -> bool:
    """Perform *steps*, whatever becomes of each, as long as answers come; whether all held."""
    held = True
    try:
        with patience:
            for step in steps:
                try:
                    await hypervisor.perform(step)
                except HypervisorError as problem:
                    _log.warning("undoing %s failed: %s", type(step).__name__, problem)
                    held = False
    except TimeoutError:
        _log.warning("undoing stopped: no answer within %g s", patience.timeout_s)
        return False
    return held
