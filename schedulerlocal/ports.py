"""What the agent needs from the world: a hypervisor and a journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from schedulercommon.levels import Level
from schedulercommon.model import VmSpec, VmState
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.lifecycle import Verb
from schedulerlocal.core.steps import Step
from schedulerlocal.core.topology import Cpus
from schedulerlocal.core.waiting import VcpuTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A VM as the hypervisor has it."""

    found: FoundVm
    state: VmState
    vcpus_pending: bool = False
    """Whether the vCPUs its spec says wait for its next boot."""
    memory_pending: bool = False
    autostart: bool = False
    """Whether the hypervisor would start it when the machine boots, before anything is planned."""

    @property
    def name(self) -> str:
        return self.found.spec.name


@dataclass(frozen=True, slots=True, kw_only=True)
class VmUsage:
    """A VM's counters at one moment; None is what could not be told."""

    cpu_time_s: float | None
    """CPU time used since it started, over all vCPUs and its emulator."""
    memory_used_mib: float | None
    """Of the memory it was given."""
    vcpus: Mapping[int, VcpuTime] = field(default_factory=dict)
    """By vCPU; those of which it could not be told are missing."""
    throttled_s: float | None = None
    """How long a quota of its own has kept its vCPUs from running since it started; None if
    nobody looked, since they hardly waited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUsage:
    """All counters of a host at one moment."""

    at_s: float
    """Monotonic."""
    cpu_share: float | None
    """Of all CPUs together, since the last reading; None at the first."""
    memory_share: float
    cpu_shares: Mapping[int, float] = field(default_factory=dict)
    """By CPU, 0 to 1, since the last reading; CPUs that went offline are missing."""
    vms: Mapping[str, VmUsage] = field(default_factory=dict)


class Hypervisor(Protocol):
    """Where VMs really run.

    Every call happens, or raises HypervisorError having left nothing behind. A call that never
    answers is given up by the agent, which then looks at what became of it.
    """

    async def open(self, changed: Callable[[], None]) -> None:
        """Connect; *changed* is to be called whenever a VM changed by itself."""

    async def close(self) -> None: ...

    async def domains(self) -> list[Domain]:
        """All VMs there are, foreign ones too, in order of their making."""

    async def prepare(self, spec: VmSpec) -> None:
        """Check the image and make the disk; BadRequest if the image may not be used.

        Called outside the agent's lock, since it may take long; followed by a Create step or by
        :meth:`discard`.
        """

    async def discard(self, spec: VmSpec) -> None:
        """Undo :meth:`prepare`, if it was done and no VM came of it."""

    async def perform(self, step: Step) -> None:
        """Carry out one step of a plan. Removing a VM that is gone is no error."""

    async def power(self, name: str, verb: Verb, force: bool) -> None:
        """Do what *verb* says and remember whether the VM is wanted running."""

    async def forbid_autostart(self, name: str) -> None:
        """Leave it to us to start the VM called *name*, which is ours."""

    async def usage(self) -> HostUsage: ...

    async def console(self, name: str, most_bytes: int) -> bytes:
        """The end of what the guest of a VM of ours wrote to its console; WrongState if that is
        not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A change that was begun and not ended."""

    action: str
    """``deploy``, ``remove`` or ``resize``."""
    name: str
    request_id: str
    spec: VmSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What a journal knows from earlier runs."""

    generation: int = 0
    boot_id: str = ""
    owned: Mapping[Level, Cpus] = field(default_factory=dict)
    begun: tuple[Begun, ...] = ()


class Journal(Protocol):
    """The agent's memory across restarts; the hypervisor stays the truth.

    Whatever writes raises StoreUnavailable if it cannot.
    """

    def read(self) -> Remembered: ...

    def begin(self, action: str, spec: VmSpec) -> None:
        """Note a change before its first step."""

    def end(
        self, spec: VmSpec, outcome: str, generation: int, owned: Mapping[Level, Cpus] | None
    ) -> None:
        """Note what became of a change: ``deployed``, ``removed``, ``resized`` or ``undone``.

        *owned* is what each level owns now, or None if that did not change.
        """

    def note(self, generation: int, owned: Mapping[Level, Cpus]) -> None:
        """Note a state reached without a request."""

    def booted(self) -> None:
        """Note that what a boot of the machine asks for has been done."""

    async def cancel(self, request_id: str) -> None:
        """Remember for good that *request_id* is refused; returns once that is on disk."""

    @property
    def epoch(self) -> int:
        """The highest that was told; 0 if none was."""

    def hear(self, epoch: int) -> None:
        """Note that a global scheduler leads under *epoch*, or did."""

    async def keep_epoch(self) -> None:
        """Return once the highest epoch that was told is on disk."""

    def outcome(self, request_id: str) -> str | None:
        """What became of a request: an outcome of :meth:`end`, or None if it is not known."""

    def cancelled(self, request_id: str) -> bool: ...

    def close(self) -> None: ...
