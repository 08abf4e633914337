"""Carrying a plan out: all steps, or none, or, past what cannot be undone, as many as possible."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from schedulercommon.errors import HypervisorError
from schedulerlocal.core.steps import Step, way_back
from schedulerlocal.ports import Hypervisor

_log = logging.getLogger(__name__)


async def carry_out(
    steps: Sequence[Step], hypervisor: Hypervisor, timeout_s: float
) -> HypervisorError | None:
    """Perform *steps* in order.

    A failure undoes what was done, last first, and is raised as HypervisorError. Once a step
    that cannot be undone has been done the plan has succeeded: a later failure is returned, and
    the steps after it are still tried. ``clean`` on the error tells whether the way back held.
    """
    done: list[Step] = []
    failure: HypervisorError | None = None
    for step in steps:
        try:
            async with asyncio.timeout(timeout_s):
                await hypervisor.perform(step)
        except (HypervisorError, TimeoutError) as problem:
            unsure = isinstance(problem, TimeoutError)
            told = _told(problem, step, timeout_s)
            back = way_back(done)
            if back is None:
                failure = told
                continue
            # a call that never answered may have happened all the same
            maybe = [step.inverse] if unsure and step.inverse else []
            told.clean = await _undo([*maybe, *back], hypervisor, timeout_s) and not unsure
            raise told from problem
        except asyncio.CancelledError:
            await asyncio.shield(_undo(way_back(done) or (), hypervisor, timeout_s))
            raise
        done.append(step)
    return failure


async def _undo(steps: Sequence[Step], hypervisor: Hypervisor, timeout_s: float) -> bool:
    """Perform every one of *steps*, whatever becomes of the others; whether all held."""
    held = True
    for step in steps:
        try:
            async with asyncio.timeout(timeout_s):
                await hypervisor.perform(step)
        except (HypervisorError, TimeoutError) as problem:
            _log.warning("undoing %s failed: %s", type(step).__name__, problem)
            held = False
    return held


def _told(problem: Exception, step: Step, timeout_s: float) -> HypervisorError:
    if isinstance(problem, HypervisorError):
        return HypervisorError(str(problem))
    return HypervisorError(
        f"the hypervisor did not answer {type(step).__name__} within {timeout_s:g} s;"
        " look at its log and try again"
    )
