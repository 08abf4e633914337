"""The topology of the machine we run on, from ``/sys`` and ``/proc``.

The kernel leaves much open: CPUs may be offline or their numbers have holes, caches may have no
id, or one that contradicts who shares them (seen in virtual machines), frequency and NUMA
may be missing. Only CPUs that are online are listed. Nodes are those of ``/sys/devices/system/
node``, never the package: one package can hold several. Whatever had to be made up or is worth
knowing is in the topology's notes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from schedulercommon.errors import TopologyError
from schedulerlocal.core.cpulist import format_cpulist, parse_cpulist
from schedulerlocal.core.topology import Cpu, Cpus, Topology

_KIB_PER_MIB = 1024
_NODE_SUM_TOLERANCE = 100  # the nodes' memory may miss /proc/meminfo by one part in so many
_MEM_TOTAL = re.compile(r"^(?:Node\s+[0-9]+\s+)?MemTotal:\s*([0-9]{1,15}) kB$", re.ASCII | re.M)
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Node:
    cpus: Cpus
    distances: tuple[int, ...]
    memory_kib: int | None


@dataclass(frozen=True, slots=True)
class _Cache:
    id: int | None
    shared_by: Cpus


def read_sysfs(root: Path = Path("/")) -> Topology:
    """*root* holds ``sys`` and ``proc``; raises TopologyError naming the file that is wrong."""
    directory = root / "sys/devices/system/cpu"
    notes: list[str] = []
    present = _numbered(directory, "cpu")
    online = _online(directory, present, notes)
    nodes = _nodes(root / "sys/devices/system/node", online, notes)
    node_of = _node_of(nodes, online, notes)
    listed = frozenset(online)
    siblings = {cpu: _siblings(directory, cpu, listed) for cpu in online}
    _check_siblings(directory, siblings)
    caches = _caches(directory, online, notes)
    total_kib = _mem_total(root / "proc/meminfo")
    if total_kib is None:
        raise TopologyError(
            f"{root / 'proc/meminfo'} does not say MemTotal in kB; mount /proc, or give the"
            " topology as a file"
        )
    cpus = tuple(
        Cpu(
            id=cpu,
            node=node_of[cpu],
            siblings=tuple(each for each in siblings[cpu] if each != cpu),
            caches=caches[cpu],
            max_freq_khz=_max_freq_khz(directory / f"cpu{cpu}/cpufreq/cpuinfo_max_freq"),
        )
        for cpu in online
    )
    memory_mib = total_kib // _KIB_PER_MIB
    return Topology(
        cpus=cpus,
        numa_distances={number: node.distances for number, node in nodes.items()},
        memory_total_mib=memory_mib,
        memory_allowed_mib=memory_mib,
        node_memory_mib=_node_memory_mib(nodes, total_kib, notes),
        host_count=len(present),
        notes=tuple(notes),
    )


def _online(directory: Path, present: Cpus, notes: list[str]) -> Cpus:
    listed = _cpulist(directory / "online")
    candidates = present if listed is None else sorted(set(present) & set(listed))
    online = tuple(cpu for cpu in candidates if _text(directory / f"cpu{cpu}/online") != "0")
    if not online:
        raise TopologyError(
            f"{directory} shows no CPU that is online; mount /sys, or give the topology as a file"
        )
    if offline := set(present) - set(online):
        notes.append(f"CPUs left out because they are offline: {format_cpulist(offline)}")
    if isolated := set(_cpulist(directory / "isolated") or ()) & set(online):
        notes.append(
            "CPUs isolated from the kernel's scheduler, listed all the same (exclude them if they"
            f" are not meant for VMs): {format_cpulist(isolated)}"
        )
    return online


def _nodes(directory: Path, online: Cpus, notes: list[str]) -> dict[int, _Node]:
    numbers = _numbered(directory, "node")
    if not numbers:
        notes.append(f"{directory} shows no NUMA node; all CPUs are taken to be on one, 0")
        return {0: _Node(online, (10,), None)}
    nodes = {number: _node(directory / f"node{number}") for number in numbers}
    for number, node in nodes.items():
        if len(node.distances) != len(nodes):
            raise TopologyError(
                f"{directory}/node{number}/distance has {len(node.distances)} distances for"
                f" {len(nodes)} nodes; read it again when no node is being added or removed"
            )
    return nodes


def _node(directory: Path) -> _Node:
    cpus = _cpulist(directory / "cpulist")
    row = (_text(directory / "distance") or "").split()
    if cpus is None or not row or not all(map(_NUMBER.fullmatch, row)):
        wrong = "cpulist" if cpus is None else "distance"
        raise TopologyError(
            f"{directory / wrong} is missing or not a list of numbers; give the topology as a file"
        )
    return _Node(cpus, tuple(map(int, row)), _mem_total(directory / "meminfo"))


def _node_of(nodes: Mapping[int, _Node], online: Cpus, notes: list[str]) -> dict[int, int]:
    lowest = min(nodes)
    node_of = dict.fromkeys(online, lowest)
    node_of |= {cpu: number for number, node in nodes.items() for cpu in node.cpus}
    if homeless := set(online) - {cpu for node in nodes.values() for cpu in node.cpus}:
        notes.append(f"CPUs on no NUMA node, taken to be on {lowest}: {format_cpulist(homeless)}")
    return node_of


def _node_memory_mib(
    nodes: Mapping[int, _Node], total_kib: int, notes: list[str]
) -> dict[int, int] | None:
    sizes = {number: node.memory_kib for number, node in nodes.items()}
    known = {number: size for number, size in sizes.items() if size is not None}
    if not known:
        return None
    # A node's figure can lack memory brought in after boot (some virtual machines);
    # /proc/meminfo has it.
    off_by_kib = abs(sum(known.values()) - total_kib)
    if len(known) < len(sizes) or off_by_kib * _NODE_SUM_TOLERANCE > total_kib:
        notes.append(
            f"the NUMA nodes say they have {sum(known.values()) // _KIB_PER_MIB} MiB and"
            f" /proc/meminfo {total_kib // _KIB_PER_MIB} MiB, which is believed;"
            " memory is split evenly among the nodes"
        )
        return None
    return {number: size // _KIB_PER_MIB for number, size in known.items()}


def _siblings(directory: Path, cpu: int, online: frozenset[int]) -> Cpus:
    """The online CPUs of *cpu*'s core, itself included."""
    topology = directory / f"cpu{cpu}/topology"
    listed = _cpulist(topology / "thread_siblings_list")
    if listed is None:
        listed = _cpulist(topology / "core_cpus_list")
    return _online_of(listed or (), cpu, online)


def _check_siblings(directory: Path, siblings: Mapping[int, Cpus]) -> None:
    for cpu, core in siblings.items():
        for other in core:
            if siblings[other] != core:
                raise TopologyError(
                    f"{directory}/cpu{cpu}/topology/thread_siblings_list names CPU {other}, whose"
                    " own differs; read it again when no CPU is being taken on- or offline"
                )


def _caches(directory: Path, online: Cpus, notes: list[str]) -> dict[int, tuple[int, ...]]:
    """Cache ids per CPU, equal at an index exactly for the CPUs that share that cache.

    CPUs with fewer indexes than others (the efficient cores of hybrid ones may lack the third
    level) get their last cache again: whom they share it with was found at the lower index, and
    with the rest they share nothing, so every distance is what it should be.
    """
    listed = frozenset(online)
    found = {cpu: _caches_of(directory / f"cpu{cpu}/cache", cpu, listed) for cpu in online}
    depth = max(map(len, found.values()))
    if not depth:
        notes.append(f"{directory} shows no caches; CPUs are apart by their NUMA nodes alone")
    if shallow := [cpu for cpu in online if len(found[cpu]) < depth]:
        notes.append(
            "CPUs with fewer cache indexes than others, whose last cache is taken for the missing"
            f" ones: {format_cpulist(shallow)}"
        )
    full = {
        cpu: caches + [_Cache(None, caches[-1].shared_by if caches else (cpu,))] * depth
        for cpu, caches in found.items()
    }
    columns = [
        _cache_ids({cpu: full[cpu][index] for cpu in online}, index, notes)
        for index in range(depth)
    ]
    return {cpu: tuple(column[cpu] for column in columns) for cpu in online}


def _caches_of(directory: Path, cpu: int, online: frozenset[int]) -> list[_Cache]:
    caches: list[_Cache] = []
    for index in count():
        here = directory / f"index{index}"
        if not here.is_dir():
            return caches
        cache_id = _text(here / "id") or ""
        shared = _cpulist(here / "shared_cpu_list") or ()
        caches.append(
            _Cache(
                int(cache_id) if _NUMBER.fullmatch(cache_id) else None,
                _online_of(shared, cpu, online),
            )
        )
    raise AssertionError("count() does not end")


def _cache_ids(caches: Mapping[int, _Cache], index: int, notes: list[str]) -> dict[int, int]:
    """The kernel's ids where they tell exactly who shares; else the groups, numbered from 0."""
    groups = {cache.shared_by for cache in caches.values()}
    ids = {cache.id for cache in caches.values()}
    pairs = {(cache.id, cache.shared_by) for cache in caches.values()}
    if None not in ids and len(ids) == len(groups) == len(pairs):
        return {cpu: cache.id for cpu, cache in caches.items() if cache.id is not None}
    if None not in ids:
        notes.append(
            f"the ids of cache index {index} contradict shared_cpu_list; numbered anew by who"
            " shares them"
        )
    numbers = {group: number for number, group in enumerate(sorted(groups))}
    return {cpu: numbers[cache.shared_by] for cpu, cache in caches.items()}


def _online_of(cpus: Iterable[int], cpu: int, online: frozenset[int]) -> Cpus:
    return tuple(sorted({cpu, *online.intersection(cpus)}))


def _max_freq_khz(path: Path) -> int:
    # Nothing is decided by it, so what cannot be made out is merely unknown.
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return 0
    return int(text) if _NUMBER.fullmatch(text) else 0


def _mem_total(path: Path) -> int | None:
    """KiB."""
    match = _MEM_TOTAL.search(_text(path) or "")
    return int(match[1]) if match else None


def _numbered(directory: Path, stem: str) -> tuple[int, ...]:
    """The numbers of the entries named *stem* and a number, ascending."""
    name = re.compile(stem + "([0-9]{1,5})", re.ASCII)
    try:
        entries = [entry.name for entry in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as problem:
        raise _unreadable(directory, problem) from problem
    return tuple(sorted(int(match[1]) for entry in entries if (match := name.fullmatch(entry))))


def _cpulist(path: Path) -> Cpus | None:
    if (text := _text(path)) is None:
        return None
    try:
        return parse_cpulist(text)
    except ValueError as problem:
        raise TopologyError(f"{path}: {problem}, or give the topology as a file") from problem


def _text(path: Path) -> str | None:
    """None where there is no such file."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as problem:
        raise TopologyError(f"{path} is not text; give the topology as a file") from problem
    except OSError as problem:
        raise _unreadable(path, problem) from problem


def _unreadable(path: Path, problem: OSError) -> TopologyError:
    return TopologyError(
        f"{path} cannot be read: {problem.strerror}; allow it, or give the topology as a file"
    )
