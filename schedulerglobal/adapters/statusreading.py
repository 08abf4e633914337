"""What hosts say of themselves, read with suspicion: a host may be old, broken or another service.

Raises ValueError with the end of a sentence about the host: "its status has no 'cpu'".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schedulercommon.levels import parse_level
from schedulercommon.model import NAME, HostStatus, LevelStatus

MOST_VMS = 8192
LONGEST_NAME = 255
LARGEST = 1 << 30
"""No count of CPUs, vCPUs or MiB of one host comes near; the view's integers hold it."""


def read_host(document: Any) -> tuple[HostStatus, frozenset[str]]:
    """The answer of ``/v1/host``: its status, and the names of the VMs there."""
    host = _object(document, "answer")
    name = host.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError("its name is none; set SCL_NAME to letters, digits, '.', '_' and '-'")
    cpus, memory = _object(host.get("cpus"), "cpus"), _object(host.get("memory_mib"), "memory_mib")
    levels, names = [], []
    for each in _list(host.get("levels"), "levels"):
        level = _object(each, "levels")
        vcpus = _count(level, "vcpus")
        levels.append(
            LevelStatus(
                level=parse_level(str(level.get("level"))),
                cpus=len(_list(level.get("cpus"), "cpus")),
                vcpus=vcpus,
                largest_vcpus=_count(level, "largest_vcpus"),
            )
        )
        names += _list(level.get("vms"), "vms")
    status = HostStatus(
        name=name,
        generation=_count(host, "generation", most=1 << 62),
        capacity_cpus=_capacity(cpus, "cpus"),
        capacity_memory_mib=_capacity(memory, "memory_mib"),
        allocated_memory_mib=_count(memory, "total") - _count(memory, "free", least=-LARGEST),
        levels=tuple(levels),
        vm_overhead_mib=_count(host, "vm_overhead_mib"),
        vms=len(names),
    )
    return status, read_names(names)


def read_status(document: Any, name: str, names: frozenset[str]) -> HostStatus:
    """The answer of ``/status`` as the status of the host that goes by *name*."""
    status = _object(document, "status")
    # that of one with no host yet is empty
    if all(isinstance(each, Mapping) and "cpu" in each for each in status.values()):
        raise ValueError("it is a global scheduler; name local schedulers only")
    cpu, memory = _object(status.get("cpu"), "cpu"), _object(status.get("mem"), "mem")
    levels = []
    for text, each in _object(cpu.get("subset"), "cpu.subset").items():
        level = _object(each, "cpu.subset")
        levels.append(
            LevelStatus(
                level=parse_level(text),
                cpus=_count(level, "pcap"),
                vcpus=_count(level, "palloc"),
                largest_vcpus=0,
            )
        )
    pools = [_object(each, "mem.subset") for each in _object(memory.get("subset"), "mem").values()]
    allocated_mib = sum(_count(pool, "pcap") for pool in pools)
    free_cpus = _count(cpu, "avail", least=-LARGEST)
    free_mib = _count(memory, "avail", least=-LARGEST)
    return HostStatus(
        name=name,
        generation=0,
        capacity_cpus=max(free_cpus + sum(level.cpus for level in levels), 1),
        capacity_memory_mib=max(free_mib + allocated_mib, 1),
        allocated_memory_mib=allocated_mib,
        levels=tuple(levels),
        vms=len(names),
    )


def read_names(document: Any) -> frozenset[str]:
    """The names of a list."""
    names = _list(document, "list of VMs")
    if len(names) > MOST_VMS:
        raise ValueError(f"its list holds {len(names)} VMs, more than the {MOST_VMS} of any host")
    if not all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in names):
        raise ValueError("its list of VMs holds something else than names")
    return frozenset(names)


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"its {what} is no JSON object, as a local scheduler's is")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"its {what} is no JSON array, as a local scheduler's is")
    return value


def _capacity(resource: Mapping[str, Any], what: str) -> int:
    total = _count(resource, "total")
    if not total:
        raise ValueError(f"it offers no {what}")
    return total


def _count(about: Mapping[str, Any], field: str, least: int = 0, most: int = LARGEST) -> int:
    value = about.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"its {field!r} is no whole number from {least} to {most}")
    return value
