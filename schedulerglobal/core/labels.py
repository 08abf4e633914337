"""Which hosts have VMs of which labels, counted as promises come, move and go."""

from __future__ import annotations

from collections.abc import Mapping

from schedulerglobal.core.promises import Promise

Label = tuple[str, str]
_NO_HOSTS: Mapping[str, int] = {}


class LabelIndex:
    """VMs by label and host. What is added is to be taken away as it was added."""

    def __init__(self) -> None:
        self._entries: dict[Label, dict[tuple[str, str], frozenset[Label]]] = {}
        self._hosts: dict[Label, dict[str, int]] = {}

    def add(self, promise: Promise) -> None:
        labels = frozenset(promise.spec.labels)
        for label in labels:
            entries = self._entries.setdefault(label, {})
            if (promise.name, promise.host) not in entries:
                entries[promise.name, promise.host] = labels
                hosts = self._hosts.setdefault(label, {})
                hosts[promise.host] = hosts.get(promise.host, 0) + 1

    def discard(self, promise: Promise) -> None:
        for label in promise.spec.labels:
            entries = self._entries.get(label, {})
            if entries.pop((promise.name, promise.host), None) is None:
                continue
            hosts = self._hosts[label]
            hosts[promise.host] -= 1
            if not hosts[promise.host]:
                del hosts[promise.host]
            if not entries:
                del self._entries[label]
                del self._hosts[label]

    def hosts(self, label: Label) -> Mapping[str, int]:
        """How many VMs of *label* each host has; those without any are left out."""
        return self._hosts.get(label, _NO_HOSTS)

    def hosts_of_all(self, labels: tuple[Label, ...]) -> Mapping[str, int]:
        """How many VMs that have all of *labels*, of which there is one at least, each host has."""
        if len(labels) == 1:
            return self.hosts(labels[0])
        fewest = min(labels, key=lambda label: len(self._entries.get(label, ())))
        wanted = frozenset(labels)
        counts: dict[str, int] = {}
        for (_, host), found in self._entries.get(fewest, {}).items():
            if wanted <= found:
                counts[host] = counts.get(host, 0) + 1
        return counts
