"""From a topology and the operator's settings to the host that is scheduled."""

from __future__ import annotations

from schedulercommon.errors import ConfigError, TopologyError
from schedulerlocal.config import HostSettings
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.topology import Topology, exclude

_OVERHEAD_MIB = 128
_LEAST_RESERVE_MIB = 2048
_RESERVE_PERCENT = 5


def set_up_host(topology: Topology, settings: HostSettings, *, real: bool) -> Host:
    """The host that is left of *topology*.

    A *real* machine, unlike one described in a file, by default keeps memory for itself and for
    each VM's hypervisor process. Raises ConfigError where a setting leaves nothing, or names
    CPUs the machine cannot have.
    """
    gone = settings.excluded_cpus + settings.host_cpus
    highest = max(max(topology.ids), topology.host_count - 1)
    if beyond := [cpu for cpu in gone if cpu > highest]:
        raise ConfigError(
            f"TOPO_EXCLUDE or SCL_HOST_CPUS names CPU {beyond[0]} and the host's last is"
            f" {highest}; correct the list"
        )
    reserve_mib = max(_LEAST_RESERVE_MIB, topology.memory_allowed_mib * _RESERVE_PERCENT // 100)
    rules = Rules(
        smt_isolation=settings.smt_isolation,
        critical_size=settings.critical_size,
        vm_overhead_mib=_given(settings.vm_overhead_mib, _OVERHEAD_MIB if real else 0),
        reserved_memory_mib=_given(settings.reserved_memory_mib, reserve_mib if real else 0),
    )
    try:
        return Host(exclude(topology, gone), rules)
    except (ValueError, TopologyError) as problem:
        raise ConfigError(str(problem)) from problem


def _given(setting: int | None, default: int) -> int:
    return default if setting is None else setting
