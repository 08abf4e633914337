"""A domain as it is known: what libvirt last told of it, and where it was put since."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from schedulercommon.kept import kept
from schedulercommon.model import VmState
from schedulerlocal.adapters.domainfacts import DomainFacts, found_vm
from schedulerlocal.adapters.domainmetadata import DomainMetadata
from schedulerlocal.core.topology import Cpus
from schedulerlocal.ports import Domain


@dataclass(frozen=True, slots=True)
class Moved:
    """Where all vCPUs and, unless it is None, the emulator were put."""

    cpus: Cpus
    emulator: Cpus | None


@lru_cache(maxsize=4096)
def moved_to(cpus: Cpus, emulator: Cpus | None) -> Moved:
    """One object for all that are equal, so that where VMs are compares at once."""
    return Moved(cpus, emulator)


@dataclass(frozen=True, slots=True)
class Told:
    """A domain as libvirt last told of it."""

    state: VmState
    active: bool
    live: DomainFacts
    config: DomainFacts
    """Of its next boot; ``live`` again if it is not active, or was only just made."""
    emulated: bool
    """Whether it runs without KVM."""


Sizes = tuple[bool, int, int]
"""What, of two VMs at one place, is alike if the same is to be pinned of them: whether they are
active, and their most vCPUs, now and at their next boot."""


@lru_cache(maxsize=4096)
def _same(sizes: Sizes) -> Sizes:
    """One object for all that are equal."""
    return sizes


class _Known(NamedTuple):
    told: Told
    wanted: Cpus | None
    """Where our last step put its vCPUs; None if none did since we started."""
    moved: Moved | None
    """Set if it was pinned since libvirt told of it."""
    sizes: Sizes
    """Kept here, so that moving a level need not look at what libvirt told of each of its VMs."""


class Known(_Known):
    """A domain as it was last looked at, and where it was put since.

    A tuple, since all VMs of a level are moved at once, and each of them is a new one then: a
    frozen dataclass takes twice as long to make.
    """

    @classmethod
    def first(cls, told: Told, wanted: Cpus | None) -> Known:
        """Of what libvirt told just now."""
        sizes = told.active, told.live.max_vcpus, told.config.max_vcpus
        return cls(told, wanted, None, _same(sizes))

    def at(self, wanted: Cpus | None, moved: Moved | None) -> Known:
        """The same somewhere else."""
        return Known(self.told, wanted, moved, self.sizes)

    @property
    def name(self) -> str:
        return self.told.live.name

    @property
    def state(self) -> VmState:
        return self.told.state

    @property
    def active(self) -> bool:
        return self.told.active

    @property
    def metadata(self) -> DomainMetadata | None:
        """Ours, if the VM is."""
        return self.told.live.metadata

    @kept
    def live(self) -> DomainFacts:
        live = self.told.live
        return live if self.moved is None else _moved(live, self.moved)

    @kept
    def config(self) -> DomainFacts:
        """Of its next boot; ``live`` again if it is not active, or was only just made."""
        config = self.told.config
        if config is self.told.live:
            return self.live
        return config if self.moved is None else _moved(config, self.moved)

    @property
    def place(self) -> Moved | None:
        """Where it is, now and at its next boot, if all vCPUs are at one place then and now."""
        moved = self.moved
        return moved if moved is not None and moved.emulator is not None else self._place

    @kept
    def _place(self) -> Moved | None:
        live, config = self.live, self.config
        place, emulator = live.pins[0], live.emulator_cpus
        for each in (live, config) if config is not live else (live,):
            if each.pins != (place,) * len(each.pins) or each.emulator_cpus != emulator:
                return None
        return moved_to(place, emulator)

    @kept
    def domain(self) -> Domain:
        """As the agent knows it."""
        found = found_vm(self.live, self.config)
        spec = found.spec
        if not found.foreign:
            found = replace(found, pinned=self._pinned())
        return Domain(
            found=found,
            state=self.state,
            vcpus_pending=self.live.vcpus != spec.vcpus,
            memory_pending=self.live.memory_mib != spec.memory_mib,
        )

    def _pinned(self) -> Cpus:
        """Where a VM of ours is, or the first place it is and should not be.

        Each vCPU counts, also those not plugged in, and so do the pins of the next boot.
        """
        places = dict.fromkeys((*self.live.pins, *self.config.pins))
        strays = [place for place in places if place != self.wanted]
        if len(places) == 1 or (self.wanted is not None and strays):
            return strays[0] if strays else next(iter(places))
        return () if () in places else tuple(sorted(set().union(*places)))


def _moved(facts: DomainFacts, moved: Moved) -> DomainFacts:
    emulator = facts.emulator_cpus if moved.emulator is None else moved.emulator
    return replace(facts, pins=(moved.cpus,) * facts.max_vcpus, emulator_cpus=emulator)
