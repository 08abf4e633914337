"""The words between the hypervisor's adapter and the link to libvirt: plain data, no libvirt.

What is done in which order stands on this side and can be tried without a libvirtd; how libvirt is
talked to stands on the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol

from schedulercommon.errors import HypervisorError
from schedulercommon.model import VmState
from schedulerlocal.core.topology import Cpus


class Why(Enum):
    """What kind of failure libvirt reported, as far as it makes a difference."""

    GONE = auto()
    """There is no such VM."""
    WRONG_STATE = auto()
    """The VM is running, or is not, and the call needs the other."""
    NOT_POSSIBLE = auto()
    """This guest, emulator or host cannot do that, or not in time."""
    CHANGED = auto()
    """The VM is not as it was told of."""
    AWAY = auto()
    """libvirtd did not answer, or not to the end: nobody knows whether it was done."""
    OTHER = auto()


class LinkError(HypervisorError):
    """A call failed; the sentence names the VM and has libvirt's words."""

    def __init__(self, said: str, why: Why, mend: str = "") -> None:
        super().__init__(f"{said}; {mend}" if mend else said)
        self.said = said
        """The sentence without *mend*, for whoever knows a better one."""
        self.why = why


def refused(said: str, why: Why) -> LinkError:
    """What libvirt answered with, and where to look if nobody knows better."""
    return LinkError(said, why, _MENDS[why])


_MENDS = {
    Why.GONE: "look at /listvm",
    Why.WRONG_STATE: "look at what it is doing (/v1/vms/NAME) and try again",
    Why.NOT_POSSIBLE: "let the guest get ready for it, or give this host an emulator that can",
    Why.CHANGED: "try again",
    Why.AWAY: "start libvirtd again if it has ended (systemctl status libvirtd)",
    Why.OTHER: "look at libvirtd's log (journalctl -u libvirtd)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainText:
    """A domain as libvirt tells it."""

    name: str
    state: VmState
    active: bool
    """Whether it has a process: suspended ones too."""
    live: str
    """Its XML; that of its next boot if it is not active."""
    config: str
    """The XML of its next boot; ``live`` again where that was not asked for."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Something happened to the domain called *name*."""

    name: str
    pins: Mapping[str, str] | None = None
    """Set if all that happened is that these were pinned: ``vcpupin0`` or ``emulatorpin`` → CPUs
    as a list."""


@dataclass(frozen=True, slots=True)
class PinWish:
    """Where a vCPU may run; None for the emulator's own threads."""

    vcpu: int | None
    cpus: Cpus
    live: bool
    config: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Whom the link tells; both are called on the event loop."""

    heard: Callable[[Heard], None] = field(default=lambda _: None)
    doubt: Callable[[], None] = field(default=lambda: None)
    """libvirtd went away, or is there again: whatever was known may be wrong."""


Stats = tuple[str, dict[str, Any]]
"""A domain's name and what libvirt's bulk statistics say of it."""


class Link(Protocol):
    """Calls to libvirt; each raises LinkError. Calls about one VM are made one after another, also
    behind one that was given up and still goes on."""

    @property
    def calls(self) -> Counter[str]:
        """How many calls were made, by what they do."""

    async def open(self, ears: Ears) -> None: ...
    async def close(self) -> None: ...

    async def version(self) -> str:
        """Of the emulator and of libvirtd: what may change what guests can do."""

    async def guest_kinds(self) -> frozenset[str]:
        """``kvm``, ``qemu``: what libvirtd says it can run; of KVM it may not be true."""

    async def read_all(self) -> list[DomainText]: ...

    async def read(self, names: Sequence[str]) -> list[DomainText]:
        """Those of *names* there are."""

    async def quiet(self, name: str) -> None:
        """Wait until no call about the VM called *name* is under way, given up or not."""

    async def full_config(self, name: str) -> str:
        """The XML of the next boot, its secrets included, to be defined again."""

    async def make(self, name: str, xml: str, check: Callable[[], None]) -> DomainText | LinkError:
        """Define and start it; returns what it became, its next boot left aside: that is what it
        was just started from. If it does not start it stays defined, and why is returned. *check*
        is called in a thread before that, and what it raises is raised."""

    async def define(self, name: str, xml: str) -> None: ...
    async def try_define(self, name: str, xml: str) -> None:
        """Have *xml* checked against libvirt's schema and defined; undefined again at once."""

    async def undefine(self, name: str) -> None: ...
    async def start(self, name: str) -> None: ...
    async def start_transient(self, name: str, xml: str) -> None: ...
    async def destroy(self, name: str) -> None:
        """Stop it by force, without waiting for an earlier call about it."""

    async def remove(self, name: str, *, active: bool) -> None:
        """Destroy it if it is *active*, and undefine it; that it is off or gone already is fine."""

    async def remove_unchanged(self, told: DomainText) -> None:
        """Remove it if libvirt still tells of it, as it is now, what it *told*: else it fails as
        CHANGED."""

    async def press_power_button(self, name: str) -> None: ...
    async def reboot(self, name: str) -> None: ...
    async def reset(self, name: str) -> None: ...
    async def suspend(self, name: str) -> None: ...
    async def resume(self, name: str) -> None: ...

    async def is_active(self, name: str) -> bool: ...

    async def autostarting(self) -> frozenset[str]:
        """The VMs libvirtd starts when it starts on a machine that has booted."""

    async def set_autostart(self, name: str, on: bool) -> bool:
        """Whether it was on before; one that is as wanted already is left alone."""

    async def note(self, name: str, text: str | None, *, live: bool, config: bool) -> None:
        """Write our metadata, or with None remove it."""

    async def pin(
        self, wishes: Mapping[str, Sequence[PinWish]], pinned: Callable[[Sequence[str]], None]
    ) -> None:
        """What is wished for VMs, by name; VMs that wish the same may share it. *pinned* is told of
        those that were pinned, also if another fails: that ends it, but for what is under way."""

    async def plug_vcpus(self, name: str, vcpus: int) -> None: ...
    async def balloon(self, name: str, memory_mib: int) -> None: ...

    async def ballooned_mib(self, name: str) -> int:
        """What the balloon leaves a running VM now."""

    async def weigh(self, name: str, shares: int) -> None: ...
    async def all_stats(self) -> list[Stats]: ...
