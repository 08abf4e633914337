"""What a domain's XML says of a VM, ours or not, as far as scheduling it goes.

libvirt wrote it, so it is well formed; what is in it may be anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from xml.etree import ElementTree as ET

from schedulercommon.levels import PREMIUM
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.domainmetadata import DamagedMetadata, DomainMetadata, read_metadata
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.cpulist import parse_cpulist
from schedulerlocal.core.topology import Cpus

_MIB = 1 << 20
_MOST_VCPUS = 1 << 16
_POWERS = {letter: power for power, letter in enumerate("kmgtpe", 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainDisk:
    """A file a domain has as a disk."""

    path: str
    format: str = "raw"
    """What libvirt takes where nothing is said."""
    read_only: bool = False
    shared: bool = False
    """Whether the domain says that others may write to it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainFacts:
    """One XML of a domain, that of the running VM or that of its next boot."""

    name: str
    uuid: str
    vcpus: int
    """Plugged in."""
    max_vcpus: int
    memory_mib: int
    """What the balloon leaves it."""
    max_memory_mib: int
    """As booted."""
    pins: tuple[Cpus, ...]
    """By vCPU up to the maximum, ascending; empty for one that may run anywhere."""
    online: tuple[int, ...]
    """The vCPUs that are plugged in."""
    emulator_cpus: Cpus
    """Empty: anywhere."""
    machine: str
    cpu_model: str
    """The model's name, or the mode where there is none."""
    disks: tuple[DomainDisk, ...]
    metadata: DomainMetadata | None
    partition: str = ""
    """The cgroup it starts in; empty: libvirt's own."""
    damage: DamagedMetadata | None = None
    """Set where our metadata is there and cannot be used; ``metadata`` is then None."""

    @property
    def pinned(self) -> Cpus:
        """Where its vCPUs may run, all of them together; empty means anywhere."""
        pins = [self.pins[vcpu] for vcpu in self.online]
        return tuple(sorted(set().union(*pins))) if all(pins) else ()

    @property
    def evenly_pinned(self) -> bool:
        """Whether all vCPUs up to the maximum may run on the same CPUs, as ours do."""
        return len(set(self.pins)) == 1


@lru_cache(maxsize=4096)
def same(cpus: Cpus) -> Cpus:
    """One object for all that are equal, so that the pins of a level's VMs compare at once."""
    return cpus


def read_domain(xml: str) -> DomainFacts:
    """Raises ValueError with a sentence if *xml* is not that of a domain with a size."""
    try:
        domain = ET.fromstring(xml)  # libvirt writes no DOCTYPE
    except ET.ParseError as problem:
        raise ValueError(f"libvirt gave a domain that is not XML ({problem})") from problem
    name = domain.findtext("name", "")
    try:
        return _facts(domain, name)
    except ValueError as problem:
        raise ValueError(f"libvirt's XML of VM {name[:80]!r} cannot be used: {problem}") from None


def found_vm(live: DomainFacts, config: DomainFacts | None = None) -> FoundVm:
    """What adoption needs to know of the VM that *live* and, if it differs, *config* describe.

    While a resize waits for a boot, the larger size counts.
    """
    metadata = live.metadata
    both = [live] if config is None else [live, config]
    vcpus = max(each.vcpus for each in both)
    boot_memory_mib = max(each.max_memory_mib for each in both)
    if metadata is None:
        spec = VmSpec(
            name=live.name,
            vcpus=vcpus,
            memory_mib=boot_memory_mib,
            level=PREMIUM,
            max_vcpus=max(each.max_vcpus for each in both),
        )
        return FoundVm(
            spec=spec,
            vcpus=vcpus,
            boot_memory_mib=boot_memory_mib,
            pinned=live.pinned,
            foreign=True,
        )
    return FoundVm(
        spec=metadata.spec,
        vcpus=max(vcpus, metadata.spec.vcpus),
        boot_memory_mib=max(boot_memory_mib, metadata.spec.max_memory_mib),
        pinned=live.pinned,
        memory_nodes=metadata.memory_nodes,
    )


def memory_mib(element: ET.Element) -> int:
    """What a ``<memory>`` says, in MiB, rounded up; raises ValueError with a part of a sentence.

    libvirt's units, in any case: ``b`` or ``bytes``, ``k`` or ``KiB`` (what it takes where
    nothing is said) for powers of 1024, ``KB`` for powers of 1000, and so on up to E.
    """
    unit = element.get("unit", "KiB").lower()
    if unit in ("b", "byte", "bytes"):
        factor = 1
    elif unit[:1] in _POWERS and unit[1:] in ("", "ib", "b"):
        factor = (1000 if unit[1:] == "b" else 1024) ** _POWERS[unit[0]]
    else:
        raise ValueError(f"{unit[:20]!r} is no unit of memory")
    return ceil(_whole(element.text, element.tag) * factor / _MIB)


def _facts(domain: ET.Element, name: str) -> DomainFacts:
    memory = domain.find("memory")
    if domain.tag != "domain" or not name or memory is None:
        raise ValueError("it is no domain with a name and a memory")
    given = domain.find("currentMemory")
    max_memory_mib = max(1, memory_mib(memory))
    metadata = read_metadata(domain)
    vcpu = ET.Element("vcpu") if (found := domain.find("vcpu")) is None else found
    max_vcpus = max(1, _whole(vcpu.text or "1", "vcpu"))
    if max_vcpus > _MOST_VCPUS:
        raise ValueError(f"it has {max_vcpus} vCPUs")
    online = _online(domain, vcpu, max_vcpus)
    kind = _below(domain, "os", "type")
    return DomainFacts(
        name=name,
        uuid=domain.findtext("uuid", ""),
        vcpus=len(online),
        max_vcpus=max_vcpus,
        memory_mib=max_memory_mib if given is None else min(max_memory_mib, memory_mib(given)),
        max_memory_mib=max_memory_mib,
        pins=_pins(domain, vcpu, max_vcpus),
        online=online,
        emulator_cpus=_cpuset(_attribute(_below(domain, "cputune", "emulatorpin"), "cpuset")),
        machine="" if kind is None else kind.get("machine", ""),
        cpu_model=_text(_below(domain, "cpu", "model")) or _attribute(domain.find("cpu"), "mode"),
        disks=tuple(_disks(domain)),
        metadata=metadata if isinstance(metadata, DomainMetadata) else None,
        partition=_text(_below(domain, "resource", "partition")),
        damage=metadata if isinstance(metadata, DamagedMetadata) else None,
    )


def _online(domain: ET.Element, vcpu: ET.Element, max_vcpus: int) -> tuple[int, ...]:
    each = domain.find("vcpus")
    if each is not None and len(each):
        named = [_whole(one.get("id"), "vcpu id") for one in each if one.get("enabled") == "yes"]
        online = tuple([number for number in named if number < max_vcpus])
        return online or (0,)
    current = _whole(vcpu.get("current", str(max_vcpus)), "vcpu current")
    return tuple(range(max(1, min(current, max_vcpus))))


def _pins(domain: ET.Element, vcpu: ET.Element, max_vcpus: int) -> tuple[Cpus, ...]:
    pins = [_cpuset(vcpu.get("cpuset", ""))] * max_vcpus
    for pin in _all_below(domain, "cputune", "vcpupin"):
        number = _whole(pin.get("vcpu"), "vcpupin")
        if number < max_vcpus:
            pins[number] = _cpuset(pin.get("cpuset", ""))
    return tuple(pins)


@lru_cache(maxsize=1024)
def _cpuset(text: str) -> Cpus:
    """libvirt's sets are the kernel's, and ``^3`` takes CPU 3 out again."""
    cpus: set[int] = set()
    for part in text.split(","):
        if part.strip().startswith("^"):
            cpus.difference_update(parse_cpulist(part.strip()[1:]))
        else:
            cpus.update(parse_cpulist(part))
    return same(tuple(sorted(cpus)))


def _disks(domain: ET.Element) -> list[DomainDisk]:
    disks = []
    for disk in _all_below(domain, "devices", "disk"):
        source, driver = disk.find("source"), disk.find("driver")
        path = "" if source is None else source.get("file") or source.get("dev") or ""
        if path:
            disks.append(
                DomainDisk(
                    path=path,
                    format="raw" if driver is None else driver.get("type", "raw"),
                    read_only=disk.find("readonly") is not None or disk.get("device") == "cdrom",
                    shared=disk.find("shareable") is not None,
                )
            )
    return disks


def _below(domain: ET.Element, parent: str, tag: str) -> ET.Element | None:
    """By one tag at a time, since paths are looked for slowly."""
    found = domain.find(parent)
    return None if found is None else found.find(tag)


def _all_below(domain: ET.Element, parent: str, tag: str) -> list[ET.Element]:
    found = domain.find(parent)
    return [] if found is None else found.findall(tag)


def _text(element: ET.Element | None) -> str:
    return "" if element is None else element.text or ""


def _attribute(element: ET.Element | None, name: str) -> str:
    return "" if element is None else element.get(name, "")


def _whole(text: str | None, what: str) -> int:
    stripped = (text or "").strip()
    if not (stripped.isascii() and stripped.isdigit() and len(stripped) <= 20):
        raise ValueError(f"its {what} is {stripped[:20]!r} and no number")
    return int(stripped)
