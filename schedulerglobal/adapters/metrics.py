"""The cluster as Prometheus sees it (prometheus-client); loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from schedulerglobal.book import count_by_status
from schedulerglobal.core.health import HostState
from schedulerglobal.core.promises import Status
from schedulerglobal.scheduler import ClusterScheduler

CONTENT_TYPE = CONTENT_TYPE_LATEST


def metrics_text(scheduler: ClusterScheduler) -> bytes:
    """All metrics, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Cluster(scheduler))
    return generate_latest(registry)


class _Cluster(Collector):
    def __init__(self, scheduler: ClusterScheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        fleet, book = self._scheduler.fleet, self._scheduler.book
        hosts = GaugeMetricFamily("vmstack_hosts", "Hosts by state", labels=["state"])
        states = [host.state for host in fleet]
        for state in HostState:
            hosts.add_metric([state], states.count(state))
        yield hosts
        vms = GaugeMetricFamily("vmstack_vms", "VMs by where they stand", labels=["status"])
        for status, count in count_by_status(book).items():
            if status is not Status.GONE:
                vms.add_metric([status], count)
        yield vms
        yield from self._room()
        deploys = CounterMetricFamily(
            "vmstack_deploys", "Deploys by how they ended", labels=["outcome"]
        )
        for outcome, count in sorted(self._scheduler.placer.outcomes.items()):
            deploys.add_metric([outcome], count)
        yield deploys
        polls = CounterMetricFamily("vmstack_polls", "Polls of hosts begun")
        polls.add_metric([], self._scheduler.poller.polls)
        yield polls

    def _room(self) -> Iterator[Metric]:
        fleet = self._scheduler.fleet
        capacity_cpus = capacity_mib = free_cpus = free_mib = 0
        for host in fleet:
            if host.report is not None:
                capacity_cpus += host.report.status.capacity_cpus
                capacity_mib += host.report.status.capacity_memory_mib
                cpus, mib = fleet.view.free(host.row)
                free_cpus += cpus
                free_mib += mib
        for name, text, value in (
            ("cpus", "CPUs of all hosts that ever answered", capacity_cpus),
            ("free_cpus", "Those no level owns", free_cpus),
            ("memory_mib", "Memory for VMs of all hosts that ever answered", capacity_mib),
            ("free_memory_mib", "That not promised", free_mib),
        ):
            yield GaugeMetricFamily(f"vmstack_{name}", text, value=value)
