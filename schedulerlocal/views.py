"""A host and its VMs as JSON documents: what the typed API shows of a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schedulercommon.levels import Level, format_level
from schedulercommon.model import VmState
from schedulerlocal.core.state import HostState, Vm
from schedulerlocal.core.waiting import Crowding
from schedulerlocal.readings import LevelReading, Readings, VmReading

_PLACES = 4
_OF_A_VM = {"cpus_used": "cpus", "memory_used_mib": "memory_mib", "waiting": "waiting"}
_OF_A_LEVEL = {**_OF_A_VM, "busy": "busy", "waiting_p95": "waiting_p95"}


def vm_names(state: HostState) -> list[str]:
    """All VMs' names, foreign ones too: they are taken."""
    return [vm.name for vm in state.vms()]


def vm_document(state: HostState, vm: Vm, doing: VmState) -> dict[str, Any]:
    """A VM: as it was asked for, what it is doing, and where it runs.

    A foreign VM shows the CPUs it was found pinned to, none meaning anywhere. One that was removed
    before its answer was made shows those of its level, none if that ended with it.
    """
    spec = vm.spec
    return {
        "name": spec.name,
        "level": format_level(spec.level),
        "runs_at": format_level(spec.runs_at),
        "vcpus": spec.vcpus,
        "memory_mib": spec.memory_mib,
        "image": spec.image,
        "state": doing,
        "pinned_cpus": list(vm.pinned if vm.foreign else state.reach.get(spec.runs_at, ())),
        "memory_nodes": [node for node, _ in vm.memory_nodes],
        "labels": dict(spec.labels),
        "owner": spec.owner,
    }


def vm_documents(state: HostState, states: Mapping[str, VmState]) -> list[dict[str, Any]]:
    """All VMs, by level and then in order of arrival."""
    return [vm_document(state, vm, doing(states, vm)) for vm in state.vms()]


def doing(states: Mapping[str, VmState], vm: Vm) -> VmState:
    """What *vm* is doing; one found a moment ago counts as running, as do its CPUs."""
    return states.get(vm.name, VmState.RUNNING)


def host_document(name: str, state: HostState, warnings: tuple[str, ...]) -> dict[str, Any]:
    """The host: capacity, levels, VMs that are not ours, and what to look into."""
    host = state.host
    return {
        "name": name,
        "generation": state.generation,
        "smt_isolation": host.rules.smt_isolation,
        "cpus": {"total": host.cpus, "free": len(state.free_cpus)},
        "memory_mib": {"total": host.memory_mib, "free": state.free_memory_mib},
        "vm_overhead_mib": host.rules.vm_overhead_mib,
        "levels": [
            {
                "level": format_level(level),
                "cpus": sorted(subset.cpus),
                "lent_cpus": sorted(set(state.reach[level]).difference(subset.cpus)),
                "vcpus": subset.vcpus,
                "largest_vcpus": subset.largest_vcpus,
                "vms": [vm.name for vm in subset.vms],
            }
            for level, subset in state.subsets.items()
        ],
        "foreign": [vm.name for vm in state.vms() if vm.foreign],
        "warnings": list(warnings),
    }


def usage_document(
    name: str,
    state: HostState,
    readings: Readings | None,
    crowding: Mapping[Level, Crowding],
) -> dict[str, Any]:
    """What is used of the host; None for what could not be told, as of a VM that is new."""
    levels = readings.levels if readings else {}
    vms = readings.vms if readings else {}
    return {
        "name": name,
        **_numbers(readings, {"over_s": "over_s"}),
        "cpus": {"total": state.host.cpus, **_numbers(readings, {"used": "cpus"})},
        **_numbers(readings, {"memory_share": "memory_share"}),
        "levels": [
            {
                "level": format_level(level),
                "cpus": len(subset.cpus),
                **_numbers(levels.get(level), _OF_A_LEVEL),
                "crowding": crowding.get(level, Crowding.CALM),
            }
            for level, subset in state.subsets.items()
        ],
        "vms": [
            {
                "name": vm.name,
                "level": format_level(vm.spec.runs_at),
                "vcpus": vm.vcpus,
                **_numbers(vms.get(vm.name), _OF_A_VM),
            }
            for vm in state.vms()
        ],
    }


def _numbers(
    reading: Readings | LevelReading | VmReading | None, fields: Mapping[str, str]
) -> dict[str, float | None]:
    """Numbers of *reading* by the names they are shown with."""
    values = {name: getattr(reading, field, None) for name, field in fields.items()}
    return {
        name: None if value is None else round(value, _PLACES) for name, value in values.items()
    }
