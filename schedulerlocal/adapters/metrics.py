"""The host as Prometheus sees it (prometheus-client); loaded when it is first asked for.

What could not be told is left out, rather than shown as it was or as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from schedulercommon.levels import format_level
from schedulercommon.model import VmState
from schedulerlocal.agent import HostAgent
from schedulerlocal.readings import Readings
from schedulerlocal.views import doing

CONTENT_TYPE = CONTENT_TYPE_LATEST

_OF_A_LEVEL = (
    ("cpus_used", "CPUs its VMs used, borrowed ones too", "cpus"),
    ("busy_share", "Of its own CPUs, whoever used them", "busy"),
    ("memory_used_mib", "Memory its VMs used", "memory_mib"),
    ("waiting_share", "Of the time its VMs were ready to run, spent waiting", "waiting"),
    ("waiting_p95_share", "The same of its VMs one by one, 95th percentile", "waiting_p95"),
)
_OF_A_VM = (
    ("cpus_used", "CPUs used", "cpus"),
    ("memory_used_mib", "Memory used", "memory_mib"),
    ("waiting_share", "Of the time it was ready to run, spent waiting for a CPU", "waiting"),
)


def metrics_text(agent: HostAgent, readings: Readings | None) -> bytes:
    """All metrics, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Host(agent, readings))
    return generate_latest(registry)


class _Host(Collector):
    def __init__(self, agent: HostAgent, readings: Readings | None) -> None:
        self._agent = agent
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        yield from self._promised()
        yield from self._used()

    def _promised(self) -> Iterator[Metric]:
        agent, state = self._agent, self._agent.state
        for name, text, value in (
            ("host_cpus", "CPUs for VMs", state.host.cpus),
            ("host_free_cpus", "Those no level owns", len(state.free_cpus)),
            ("host_memory_mib", "Memory for VMs", state.host.memory_mib),
            ("host_free_memory_mib", "That not promised", state.free_memory_mib),
            ("host_warnings", "Sentences an operator should read", len(agent.warnings)),
        ):
            yield GaugeMetricFamily(f"vmstack_{name}", text, value=value)
        vms = GaugeMetricFamily("vmstack_host_vms", "VMs by what they do", labels=["state"])
        states = [doing(agent.states, vm) for vm in state.vms()]
        for each in VmState:
            vms.add_metric([each], states.count(each))
        yield vms
        levels = [(format_level(level), subset) for level, subset in state.subsets.items()]
        yield _by_level("cpus", "CPUs it owns", [(name, len(s.cpus)) for name, s in levels])
        yield _by_level("vcpus", "vCPUs promised", [(name, s.vcpus) for name, s in levels])
        yield _by_level("vms", "VMs", [(name, len(s.vms)) for name, s in levels])

    def _used(self) -> Iterator[Metric]:
        readings = self._readings
        if readings is None:
            return
        for name, text, value in (
            ("host_cpus_used", "CPUs for VMs that were busy, whoever used them", readings.cpus),
            ("host_memory_share", "Of all memory, whoever has it", readings.memory_share),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"vmstack_{name}", text, value=value)
        for name, text, field in _OF_A_LEVEL:
            told = attrgetter(field)
            of_levels = [(format_level(key), told(each)) for key, each in readings.levels.items()]
            yield _by_level(name, text, of_levels)
        level_of = {
            _printable(vm.name): (vm.name, format_level(level))
            for level, subset in self._agent.state.subsets.items()
            for vm in subset.vms
        }
        for name, text, field in _OF_A_VM:
            told = attrgetter(field)
            of_vms = GaugeMetricFamily(f"vmstack_vm_{name}", text, labels=["vm", "level"])
            for shown, (vm, level) in level_of.items():
                reading = readings.vms.get(vm)
                if reading is not None and told(reading) is not None:
                    of_vms.add_metric([shown, level], told(reading))
            yield of_vms


def _by_level(name: str, text: str, values: Iterable[tuple[str, float | None]]) -> Metric:
    family = GaugeMetricFamily(f"vmstack_level_{name}", text, labels=["level"])
    for level, value in values:
        if value is not None:
            family.add_metric([level], value)
    return family


def _printable(name: str) -> str:
    """A VM that was found may be called what is no text."""
    return name.encode("utf-8", "replace").decode()
