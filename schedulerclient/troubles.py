"""What is wrong in a cluster, host by host, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from schedulerclient.answers import Host, Vm
from schedulerclient.tables import Cell

STATE_STYLES = {
    **dict.fromkeys(("up", "placed", "running"), "green"),
    **dict.fromkeys(("suspect", "pending", "removing", "suspended", "migrating"), "yellow"),
    **dict.fromkeys(("down", "unknown", "lost", "error"), "red"),
    **dict.fromkeys(("draining", "maintenance"), "cyan"),
}
_IN_WORDS = {"maintenance": "in maintenance"}
_MOST_NAMES = 5
_CONFLICT = "conflict"
# by what is wrong with VMs: its words for one and for several, and its colour
_WRONG = {
    "lost": ("of {host} is lost", "of {host} are lost", "red"),
    "unknown": (
        "of {host} is unknown, there or not",
        "of {host} are unknown, there or not",
        "red",
    ),
    _CONFLICT: (
        "on {host} is promised elsewhere or nowhere",
        "on {host} are promised elsewhere or nowhere",
        "red",
    ),
    "removing": ("of {host} is being removed", "of {host} are being removed", "yellow"),
}


def trouble_parts(hosts: Sequence[Host], vms: Sequence[Vm]) -> Iterator[Cell]:
    """Hosts that are not well and VMs that are not where they should be, a sentence each."""
    wrong = _wrong_vms(hosts, vms)
    for host in hosts:
        if host.problem or host.fenced:
            state = _IN_WORDS.get(host.state, host.state)
            fenced = " and fenced" if host.fenced else ""
            problem = f": {host.problem}" if host.problem else ""
            style = STATE_STYLES.get(host.state, "")
            yield Cell(f"{host.name} is {state}{fenced}{problem}", style)
        yield from _vm_sentences(host.name, wrong.pop(host.name, {}))
    for name, found in wrong.items():
        yield from _vm_sentences(name, found)


def few(names: Sequence[str]) -> str:
    """The first of *names*, and how many more there are."""
    more = len(names) - _MOST_NAMES
    listed = ", ".join(names[:_MOST_NAMES])
    return f"{listed} and {more} more" if more > 0 else listed


def _wrong_vms(hosts: Iterable[Host], vms: Iterable[Vm]) -> dict[str, dict[str, dict[str, None]]]:
    """Names of VMs by host and by what is wrong with them, in order of arrival."""
    wrong: dict[str, dict[str, dict[str, None]]] = {}

    def note(host: str, kind: str, name: str) -> None:
        wrong.setdefault(host, {}).setdefault(kind, {})[name] = None

    for host in hosts:
        for name in host.conflicts:
            note(host.name, _CONFLICT, name)
    for vm in vms:
        if vm.status in _WRONG:
            note(vm.host, vm.status, vm.name)
        for other in vm.conflicts:
            note(other, _CONFLICT, vm.name)
    return wrong


def _vm_sentences(host: str, wrong: dict[str, dict[str, None]]) -> Iterator[Cell]:
    for kind, (one, several, style) in _WRONG.items():
        if names := list(wrong.get(kind, ())):
            words = one if len(names) == 1 else several
            vms = "1 VM" if len(names) == 1 else f"{len(names)} VMs"
            yield Cell(f"{vms} {words.format(host=host)}: {few(names)}", style)
