"""Topologies as the published JSON, read and written.

What is there twice is read once: ``distances`` and ``sib_cpu`` follow from the rest, are written
for older readers and never read. Notes are written for people, and not read back either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import cast

from schedulercommon.errors import OutputError, TopologyError
from schedulerlocal.core.machine import MOST_CPUS
from schedulerlocal.core.topology import Cpu, Topology

_LARGEST_CPU_ID = (1 << 16) - 1
_LARGEST_NODE = 1023
_LARGEST_NUMA_DISTANCE = 65_535
_DEEPEST_CACHES = 16
_LARGEST_CACHE_ID = (1 << 32) - 1  # the kernel's ids can be physical ones
_LARGEST_MIB = 1 << 40
_LARGEST_KHZ = 1 << 32

_NAMES: dict[type, str] = {dict: "an object", list: "a list"}


def read_topology(path: Path) -> Topology:
    """Raises TopologyError naming the file, and the line or field that is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as problem:
        raise TopologyError(
            f"{path}: there is no such file; give the path of a topology in JSON"
        ) from problem
    except IsADirectoryError as problem:
        raise TopologyError(f"{path} is a directory; name the JSON file inside") from problem
    except OSError as problem:
        raise TopologyError(
            f"{path} cannot be read: {problem.strerror}; mend that or name another file"
        ) from problem
    except UnicodeDecodeError as problem:
        raise TopologyError(
            f"{path} is not text in UTF-8 (byte {problem.start}); give a topology in JSON"
        ) from problem
    try:
        return _topology(_document(text))
    except TopologyError as problem:
        raise TopologyError(f"{path}: {problem}") from problem


def topology_document(topology: Topology) -> dict[str, object]:
    """The JSON of *topology*, one CPU's distances in ascending order."""
    ids = [str(cpu) for cpu in topology.ids]
    distances = {}
    for position, row in enumerate(topology.distances.tolist()):
        others = sorted(range(len(ids)), key=row.__getitem__)
        distances[ids[position]] = {ids[other]: row[other] for other in others if other != position}
    on_node = {
        node: [cpu.id for cpu in cpus]
        for node, cpus in groupby(
            sorted(topology.cpus, key=lambda cpu: cpu.node), key=lambda cpu: cpu.node
        )
    }
    memset: dict[str, object] = {
        "total": topology.memory_total_mib,
        "allowed": topology.memory_allowed_mib,
    }
    if topology.node_memory_mib is not None:
        memset["nodes"] = {str(node): mib for node, mib in topology.node_memory_mib.items()}
    document: dict[str, object] = {
        "cpuset": {
            "numa_distances": {
                str(node): list(row) for node, row in topology.numa_distances.items()
            },
            "cpu_list": [_cpu_document(cpu, on_node[cpu.node]) for cpu in topology.cpus],
            "distances": distances,
            "host_count": topology.host_count,
        },
        "memset": memset,
    }
    if topology.notes:
        document["notes"] = list(topology.notes)
    return document


def topology_text(topology: Topology) -> str:
    """The document as a file holds it; a line per CPU would not make its distances readable."""
    return json.dumps(topology_document(topology)) + "\n"


def write_topology(path: Path, topology: Topology) -> None:
    """Raises OutputError where the file cannot be written."""
    try:
        path.write_text(topology_text(topology), encoding="utf-8")
    except OSError as problem:
        raise OutputError(
            f"{path} cannot be written: {problem.strerror}; choose another path or make room there"
        ) from problem


def _cpu_document(cpu: Cpu, on_node: list[int]) -> dict[str, object]:
    return {
        "cpu_id": cpu.id,
        "numa_node": cpu.node,
        "sib_smt": list(cpu.siblings),
        "sib_cpu": [other for other in on_node if other != cpu.id],
        "cache_level": {str(index): cache for index, cache in enumerate(cpu.caches)},
        "max_freq": cpu.max_freq_khz,
    }


def _document(text: str) -> object:
    if not text.strip():
        raise TopologyError("the file is empty; give a topology in JSON")
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise TopologyError(
            f"line {problem.lineno}, column {problem.colno} is not JSON ({problem.msg});"
            + (
                " the file ends too early, copy it again"
                if problem.pos >= len(text.rstrip())
                else " correct it there"
            )
        ) from problem
    except (ValueError, RecursionError) as problem:
        raise TopologyError(
            "a number is too long or the nesting too deep for a topology; write the file anew"
        ) from problem


def _topology(document: object) -> Topology:
    root = _object(document, "the file")
    cpuset = _object(_field(root, "cpuset"), "cpuset")
    memset = _object(_field(root, "memset"), "memset")
    rows = _object(_field(cpuset, "numa_distances", "cpuset"), "cpuset.numa_distances")
    listed = _list(_field(cpuset, "cpu_list", "cpuset"), "cpuset.cpu_list")
    if len(listed) > MOST_CPUS:
        raise TopologyError(
            f"cpuset.cpu_list has {len(listed)} CPUs; list at most {MOST_CPUS}, as Linux allows"
        )
    return Topology(
        cpus=tuple(_cpu(entry, f"cpuset.cpu_list[{n}]") for n, entry in enumerate(listed)),
        numa_distances={
            _key(node, "cpuset.numa_distances", _LARGEST_NODE): _numbers(
                row, f"cpuset.numa_distances.{node}", _LARGEST_NUMA_DISTANCE
            )
            for node, row in rows.items()
        },
        memory_total_mib=_number(_field(memset, "total", "memset"), "memset.total", _LARGEST_MIB),
        memory_allowed_mib=_number(
            _field(memset, "allowed", "memset"), "memset.allowed", _LARGEST_MIB
        ),
        node_memory_mib=_node_memory(memset),
        host_count=_number(cpuset.get("host_count", 0), "cpuset.host_count", _LARGEST_CPU_ID + 1),
    )


def _cpu(entry: object, where: str) -> Cpu:
    cpu = _object(entry, where)

    def number(name: str, largest: int) -> int:
        return _number(_field(cpu, name, where), f"{where}.{name}", largest)

    cpu_id = number("cpu_id", _LARGEST_CPU_ID)
    siblings = _numbers(_field(cpu, "sib_smt", where), f"{where}.sib_smt", _LARGEST_CPU_ID)
    return Cpu(
        id=cpu_id,
        node=number("numa_node", _LARGEST_NODE),
        siblings=tuple(each for each in dict.fromkeys(siblings) if each != cpu_id),
        caches=_caches(_field(cpu, "cache_level", where), f"{where}.cache_level"),
        max_freq_khz=number("max_freq", _LARGEST_KHZ),
    )


def _caches(value: object, where: str) -> tuple[int, ...]:
    caches = _object(value, where)
    found = {
        _key(index, where, _DEEPEST_CACHES - 1): _number(
            cache, f"{where}.{index}", _LARGEST_CACHE_ID
        )
        for index, cache in caches.items()
    }
    for index in range(len(found)):
        if index not in found:
            raise TopologyError(
                f"{where} has index {max(found)} and lacks {index};"
                " number the cache indexes from 0 without a gap"
            )
    return tuple(found[index] for index in range(len(found)))


def _node_memory(memset: Mapping[str, object]) -> dict[int, int] | None:
    if (value := memset.get("nodes")) is None:
        return None
    return {
        _key(node, "memset.nodes", _LARGEST_NODE): _number(
            mib, f"memset.nodes.{node}", _LARGEST_MIB
        )
        for node, mib in _object(value, "memset.nodes").items()
    }


def _field(holder: Mapping[str, object], name: str, where: str = "") -> object:
    try:
        return holder[name]
    except KeyError:
        path = f"{where}.{name}" if where else name
        raise TopologyError(f"{path} is missing; add it") from None


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    return cast("dict[str, object]", value)


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise _wrong(where, value, "a list")
    return cast("list[object]", value)


def _number(value: object, where: str, largest: int) -> int:
    # Not isinstance: a boolean is an int to Python and none to whoever wrote the file.
    if type(value) is not int or not 0 <= value <= largest:
        raise _wrong(where, value, f"a whole number from 0 to {largest}")
    return value


def _numbers(value: object, where: str, largest: int) -> tuple[int, ...]:
    return tuple(
        _number(each, f"{where}[{n}]", largest) for n, each in enumerate(_list(value, where))
    )


def _key(text: str, where: str, largest: int) -> int:
    # One spelling per number, else "1" and "01" would be two nodes here and one there.
    if text.isascii() and text.isdigit() and len(text) <= 5 and str(int(text)) == text:
        return _number(int(text), f"{where}.{text}", largest)
    raise TopologyError(
        f"{where} has the key {text[:40]!r}; write whole numbers from 0 to {largest} as keys"
    )


def _wrong(where: str, value: object, wanted: str) -> TopologyError:
    shown = _NAMES.get(type(value)) or json.dumps(value)[:40]
    return TopologyError(f"{where} is {shown}; it must be {wanted}")
