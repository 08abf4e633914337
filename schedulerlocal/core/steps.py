"""What a plan does to the hypervisor, as data that knows its inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schedulercommon.levels import Level
from schedulerlocal.core.state import HostState, Vm
from schedulerlocal.core.topology import Cpus


@dataclass(frozen=True, slots=True)
class Pin:
    """Let the VMs of a level run on *after* instead of *before* (both ascending).

    One step for the whole level, since a host may have a cheaper way than one call per vCPU.
    ``before`` is empty for a level that begins to exist, ``after`` for one that ends.
    """

    level: Level
    vms: tuple[str, ...]
    before: Cpus
    after: Cpus

    @property
    def inverse(self) -> Pin:
        return Pin(self.level, self.vms, before=self.after, after=self.before)


def moves(
    level: Level, vms: tuple[str, ...], before: Cpus, after: Cpus
) -> tuple[list[Pin], list[Pin]]:
    """The pins that lead from *before* to *after*: one that narrows, then one that widens.

    Where the two have no CPU in common, and where a level begins or ends, it is one move.
    """
    there = set(after)
    kept = tuple([cpu for cpu in before if cpu in there])
    narrow: list[Pin] = []
    if kept and len(kept) < len(before):
        narrow.append(Pin(level, vms, before, kept))
        before = kept
    return narrow, [] if before == after else [Pin(level, vms, before, after)]


@dataclass(frozen=True, slots=True)
class Create:
    """Make the VM, pinned to *cpus*, and start it if that is wanted."""

    vm: Vm
    cpus: Cpus

    @property
    def inverse(self) -> Remove:
        return Remove(self.vm, self.cpus)


@dataclass(frozen=True, slots=True)
class Remove:
    """Stop the VM, by force, and forget it. What it held cannot be brought back."""

    vm: Vm
    cpus: Cpus

    @property
    def inverse(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Resize:
    """Give the VM *after* instead of *before*."""

    before: Vm
    after: Vm

    @property
    def inverse(self) -> Resize:
        return Resize(before=self.after, after=self.before)


@dataclass(frozen=True, slots=True)
class Adopt:
    """Make a VM that was not ours ours, or the other way round: only what is noted about it."""

    before: Vm
    after: Vm

    @property
    def inverse(self) -> Adopt:
        return Adopt(before=self.after, after=self.before)


Step = Pin | Create | Remove | Resize | Adopt


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order that never lets a CPU belong to two levels, and where they lead."""

    steps: tuple[Step, ...]
    after: HostState


def way_back(done: Sequence[Step]) -> tuple[Step, ...] | None:
    """The steps that undo *done*, last first; None once something cannot be undone.

    None means the plan has succeeded as far as its user is concerned; what is left of it is for
    the repair pass.
    """
    back: list[Step] = []
    for step in reversed(done):
        if step.inverse is None:
            return None
        back.append(step.inverse)
    return tuple(back)
