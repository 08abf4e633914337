"""What a cluster looks like to people: hosts, VMs and answers as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from schedulerclient.answers import Amount, Explanation, Host, Room, Vm
from schedulerclient.tables import Cell, Column, Row, Table
from schedulercommon.levels import Level, format_level

_NOTHING = "–"
_BAR = 12  # characters
_COLOURS = {
    **dict.fromkeys(("up", "placed", "running"), "green"),
    **dict.fromkeys(("suspect", "pending", "removing", "suspended", "migrating"), "yellow"),
    **dict.fromkeys(("down", "unknown", "lost", "error"), "red"),
    **dict.fromkeys(("draining", "maintenance"), "cyan"),
}


def status_parts(hosts: Sequence[Host]) -> tuple[str | Table, ...]:
    """The whole cluster at a glance: hosts with what is used of them, levels, what is wrong."""
    if not hosts:
        return (_NO_HOSTS,)
    columns = (
        Column("HOST"),
        Column("STATE"),
        Column("CPUS", drawn=True),
        Column("CPUS USED", right=True),
        Column("OF", right=True),
        Column("MEMORY", drawn=True),
        Column("GB USED", right=True),
        Column("OF", right=True),
        Column("VMS", right=True),
        Column("LEVELS: VCPUS ON CPUS"),
    )
    rows = [
        (host.name, _state(host.state), *_used(host.cpus, host.memory_mib), str(host.vms),
         _levels({level.level: (level.cpus, level.vcpus) for level in host.levels}))
        for host in hosts
    ]  # fmt: skip
    cpus = _sum(host.cpus for host in hosts)
    memory_mib = _sum(host.memory_mib for host in hosts)
    levels = _by_level(hosts)
    vms = sum(host.vms for host in hosts)
    up = sum(host.state == "up" for host in hosts)
    total = ("total", f"{up} of {len(hosts)} up", *_used(cpus, memory_mib), str(vms), "")
    found: list[str | Table] = [Table(columns, rows, total)]
    if levels:
        found.append("")
        found.append(_level_table(levels))
    if troubles := list(_troubles(hosts)):
        found += ["", *troubles]
    return tuple(found)


def host_parts(hosts: Sequence[Host]) -> tuple[str | Table, ...]:
    if not hosts:
        return (_NO_HOSTS,)
    columns = (
        Column("HOST"),
        Column("STATE"),
        Column("URL"),
        Column("SEEN S AGO", right=True),
        Column("VMS", right=True),
        Column("LABELS"),
        Column("PROBLEM"),
    )
    rows = [
        (
            host.name,
            _state(host.state),
            host.url,
            _NOTHING if host.seen_s_ago is None else f"{host.seen_s_ago:.1f}",
            str(host.vms),
            _labels(host.labels),
            _problem(host),
        )
        for host in hosts
    ]
    return (Table(columns, rows),)


def vm_parts(vms: Sequence[Vm]) -> tuple[str | Table, ...]:
    if not vms:
        return ("there are no VMs",)
    columns = (
        Column("VM"),
        Column("HOST"),
        Column("STATUS"),
        Column("STATE"),
        Column("LEVEL", right=True),
        Column("VCPUS", right=True),
        Column("GB", right=True),
        Column("LABELS"),
    )
    rows = [
        (
            vm.name,
            vm.host or _NOTHING,
            _state(vm.status),
            _state(vm.state),
            _level(vm.level),
            _or_nothing(vm.vcpus),
            _exact_gb(vm.memory_mib),
            _labels(vm.labels),
        )
        for vm in vms
    ]
    return (Table(columns, rows),)


def vm_in_full(vm: Vm) -> Table:
    """All there is to know of a VM, a line each."""
    lines: list[tuple[str, str | Cell]] = [
        ("name", vm.name),
        ("host", vm.host),
        ("status", _state(vm.status)),
        ("state", _state(vm.state)),
        ("level", _level(vm.level)),
        ("runs at", _level(vm.runs_at)),
        ("vCPUs", _or_nothing(vm.vcpus)),
        ("memory, GB", _exact_gb(vm.memory_mib)),
        ("image", vm.image or ""),
        ("labels", _labels(vm.labels)),
        ("owner", vm.owner),
        ("request id", vm.request_id),
        ("pinned to", ",".join(map(str, vm.pinned_cpus or ()))),
        ("memory nodes", ",".join(map(str, vm.memory_nodes or ()))),
        ("also on", ", ".join(vm.conflicts)),
        ("because", vm.reason or ""),
    ]
    told = [(title, cell) for title, cell in lines if cell not in ("", _NOTHING)]
    return Table((Column(), Column()), told)


def explanation_parts(explanation: Explanation) -> tuple[str | Table, ...]:
    """Hosts best first, then those left out; a tie stays in the scheduler's order."""
    columns = (Column("HOST"), Column("SCORE", right=True), Column("REASON"))
    ordered = sorted(
        explanation.hosts,
        key=lambda each: (each.score is None, each.host != explanation.host, -(each.score or 0.0)),
    )
    rows: list[Row] = [
        (
            Cell(each.host, "bold green" if each.host == explanation.host else ""),
            _NOTHING if each.score is None else f"{each.score:.6g}",
            each.reason or "",
        )
        for each in ordered
    ]
    by = f" by policy {explanation.policy}" if explanation.policy else ""
    where = f"it would go to {explanation.host}{by}" if explanation.host else _NO_HOST_FITS
    return (Table(columns, rows), "", where) if rows else (where,)


def room_parts(room: Room) -> tuple[str | Table, ...]:
    rows = [(host, str(fits)) for host, fits in room.hosts.items()]
    return (Table((Column("HOST"), Column("FITS", right=True)), rows, ("total", str(room.total))),)


_NO_HOSTS = "there are no hosts yet; add one with: python -m schedulerclient add-host URL"
_NO_HOST_FITS = "no host would take it"


def _used(cpus: Amount, memory_mib: Amount) -> tuple[Cell, str, str, Cell, str, str]:
    return (
        _bar(cpus),
        str(cpus.used),
        str(cpus.total),
        _bar(memory_mib),
        _gb(memory_mib.used),
        _gb(memory_mib.total),
    )


def _bar(amount: Amount) -> Cell:
    share = min(max(amount.used / amount.total, 0.0), 1.0) if amount.total > 0 else 0.0
    full = max(round(share * _BAR), int(share > 0))
    style = "red" if share > 0.9 else "yellow" if share > 0.7 else "green"
    return Cell("█" * full + "░" * (_BAR - full), style)


def _sum(amounts: Iterable[Amount]) -> Amount:
    known = tuple(amounts)
    return Amount(sum(each.total for each in known), sum(each.free for each in known))


def _by_level(hosts: Iterable[Host]) -> dict[Level, tuple[int, int]]:
    """CPUs owned and vCPUs promised in all, the levels ascending."""
    sums: dict[Level, tuple[int, int]] = {}
    for host in hosts:
        for each in host.levels:
            cpus, vcpus = sums.get(each.level, (0, 0))
            sums[each.level] = cpus + each.cpus, vcpus + each.vcpus
    return dict(sorted(sums.items()))


def _level_table(levels: Mapping[Level, tuple[int, int]]) -> Table:
    columns = tuple([Column(title, right=True) for title in ("LEVEL", "CPUS OWNED", "VCPUS")])
    rows = [(format_level(level), str(cpus), str(vcpus)) for level, (cpus, vcpus) in levels.items()]
    total = tuple(str(sum(each)) for each in zip(*levels.values(), strict=True))
    return Table(columns, rows, ("total", *total))


def _levels(levels: Mapping[Level, tuple[int, int]]) -> str:
    return ", ".join(
        f"{format_level(level)}: {vcpus} on {cpus}"
        for level, (cpus, vcpus) in sorted(levels.items())
    )


def _troubles(hosts: Iterable[Host]) -> Iterable[str]:
    for host in hosts:
        if problem := _problem(host):
            yield f"{host.name} is {host.state}: {problem}"


def _problem(host: Host) -> str:
    told = [host.problem] if host.problem else []
    if host.fenced:
        told.append("fenced")
    if host.conflicts:
        told.append(f"has VMs promised elsewhere or nowhere: {', '.join(host.conflicts)}")
    return "; ".join(told)


def _state(state: str | None) -> Cell | str:
    return Cell(state, _COLOURS.get(state, "")) if state else _NOTHING


def _level(level: Level | None) -> str:
    return _NOTHING if level is None else format_level(level)


def _or_nothing(number: int | None) -> str:
    return _NOTHING if number is None else str(number)


def _gb(mib: int) -> str:
    return f"{mib / 1024:.1f}"


def _exact_gb(mib: int | None) -> str:
    return _NOTHING if mib is None else f"{mib / 1024:.3f}".rstrip("0").rstrip(".")


def _labels(labels: Mapping[str, str]) -> str:
    return " ".join(f"{name}={text}" for name, text in labels.items())
