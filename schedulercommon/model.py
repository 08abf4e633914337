"""The tiers' shared words: a VM as asked for, a host as the global tier sees it, a refusal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from schedulercommon.levels import Level, check_level

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
NAME_RULE = "1 to 63 letters, digits, '.', '_' or '-', a letter or digit first"
MAX_VCPUS = 4096
MAX_MEMORY_MIB = 1 << 30  # 1 PiB

_AS_BOUGHT = Fraction(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """What a user asks for.

    ``level`` is what was bought, ``runs_at`` the level whose CPUs it uses: the same unless a
    policy puts the VM on a better one. Raises ValueError for an impossible combination.
    """

    name: str
    vcpus: int
    memory_mib: int
    level: Level
    runs_at: Level = _AS_BOUGHT
    image: str = ""
    disk: str = "overlay"
    max_vcpus: int = 0
    """vCPUs that can be plugged without a reboot; 0 stands for ``vcpus``."""
    max_memory_mib: int = 0
    """Memory at boot, the most the VM can ever be given; 0 stands for ``memory_mib``."""
    labels: tuple[tuple[str, str], ...] = ()
    """(key, value) pairs, ascending."""
    owner: str = ""
    request_id: str = ""
    start: bool = True
    """Whether it is wanted running; one that is not reserves its CPUs and memory all the same."""

    def __post_init__(self) -> None:
        if self.runs_at is _AS_BOUGHT:
            object.__setattr__(self, "runs_at", self.level)
        if not self.max_vcpus:
            object.__setattr__(self, "max_vcpus", self.vcpus)
        if not self.max_memory_mib:
            object.__setattr__(self, "max_memory_mib", self.memory_mib)
        if self.vcpus < 1 or self.memory_mib < 1:
            raise ValueError(f"VM {self.name!r} needs at least 1 vCPU and 1 MiB of memory")
        if self.max_vcpus < self.vcpus or self.max_memory_mib < self.memory_mib:
            raise ValueError(f"VM {self.name!r} asks for more than the maximum it names itself")
        check_level(self.level)
        if self.runs_at is not self.level and not 1 <= self.runs_at <= self.level:
            raise ValueError(f"VM {self.name!r} cannot run at a worse level than it bought")


def same_request(one: VmSpec, other: VmSpec) -> bool:
    """Whether a deploy of *other* asks for what *one* did."""
    return (one.name, one.vcpus, one.memory_mib, one.level, one.image) == (
        other.name,
        other.vcpus,
        other.memory_mib,
        other.level,
        other.image,
    )


class VmState(StrEnum):
    """What a VM is doing."""

    DOWN = "down"
    RUNNING = "running"
    SUSPENDED = "suspended"
    MIGRATING = "migrating"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a request does not fit: the resource there is too little of."""

    resource: str
    """``cpus`` or ``memory_mib``."""
    asked: int
    """What the request needs beyond what is allocated already."""
    free: int

    @property
    def sentence(self) -> str:
        unit = "CPUs" if self.resource == "cpus" else "MiB of memory"
        return f"no room: it needs {self.asked} more {unit} and {self.free} are free"


@dataclass(frozen=True, slots=True)
class LevelStatus:
    """A level of a host as the global tier sees it."""

    level: Level
    cpus: int
    """Owned by the level."""
    vcpus: int
    """Allocated, in all."""
    largest_vcpus: int
    """Of its largest VM; with the two above, sizing is exact."""


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A host as the global tier sees it."""

    name: str
    generation: int
    """Rises with every commit; older ones are ignored."""
    capacity_cpus: int
    capacity_memory_mib: int
    """After the reserve."""
    allocated_memory_mib: int
    """Per-VM overhead included."""
    levels: tuple[LevelStatus, ...]
    vm_overhead_mib: int = 0
    """Memory the host counts for each VM beyond its own."""
    vms: int = 0
    usage_ratio: float = 0.0
    """Measured, 0 to 1; never used for admission."""
