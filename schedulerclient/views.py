"""What a cluster looks like to people: hosts, VMs and answers as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite

from schedulerclient.answers import Amount, Explanation, Host, Room, Vm
from schedulerclient.tables import Cell, Column, Part, Row, Table
from schedulerclient.troubles import STATE_STYLES, trouble_parts
from schedulercommon.levels import Level, format_level

_NOTHING = "–"
_BAR = 12  # characters
_DIGITS = 6


def status_parts(hosts: Sequence[Host], vms: Sequence[Vm] = ()) -> tuple[Part, ...]:
    """The whole cluster at a glance: hosts with what is used of them, levels, what is wrong."""
    if not hosts:
        return (_NO_HOSTS, *trouble_parts(hosts, vms))
    columns = (
        Column("HOST", shortens=True),
        Column("STATE"),
        Column("CPUS", drawn=True),
        Column("CPUS USED", right=True),
        Column("OF", right=True),
        Column("MEMORY", drawn=True),
        Column("GB USED", right=True),
        Column("OF", right=True),
        Column("VMS", right=True, spare=1),
        Column("LEVELS: VCPUS ON CPUS", folds=",", spare=2),
    )
    rows = [
        (host.name, _state(host.state), *_used(host.cpus, host.memory_mib), str(host.vms),
         _levels({level.level: (level.cpus, level.vcpus) for level in host.levels}))
        for host in hosts
    ]  # fmt: skip
    cpus = _sum(host.cpus for host in hosts)
    memory_mib = _sum(host.memory_mib for host in hosts)
    levels = _by_level(hosts)
    count = sum(host.vms for host in hosts)
    up = sum(host.state == "up" for host in hosts)
    total = ("total", f"{up} of {len(hosts)} up", *_used(cpus, memory_mib), str(count), "")
    found: list[Part] = [Table(columns, rows, total)]
    if levels:
        found.append("")
        found.append(_level_table(levels))
    return (*found, *_below(trouble_parts(hosts, vms)))


def host_parts(hosts: Sequence[Host], vms: Sequence[Vm] = ()) -> tuple[Part, ...]:
    if not hosts:
        return (_NO_HOSTS, *trouble_parts(hosts, vms))
    columns = (
        Column("HOST", shortens=True),
        Column("STATE"),
        Column("URL", spare=1),
        Column("SEEN S AGO", right=True, spare=4),
        Column("VMS", right=True, spare=2),
        Column("LABELS", folds=" ", spare=3),
    )
    rows = [
        (
            host.name,
            _state(host.state),
            host.url.removeprefix("http://"),
            _NOTHING if host.seen_s_ago is None else f"{host.seen_s_ago:.1f}",
            str(host.vms),
            _labels(host.labels),
        )
        for host in hosts
    ]
    return (Table(columns, rows), *_below(trouble_parts(hosts, vms)))


def vm_parts(vms: Sequence[Vm], host: str | None = None) -> tuple[Part, ...]:
    """Those of *host*, or of all."""
    if not vms:
        return ("there are no VMs" + (f" on {host}" if host else ""),)
    columns = (
        Column("VM", shortens=True),
        Column("HOST", shortens=True),
        Column("STATUS"),
        Column("STATE", spare=3),
        Column("LEVEL", right=True),
        Column("VCPUS", right=True, spare=1),
        Column("GB", right=True, spare=2),
        Column("LABELS", folds=" ", spare=4),
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
        ("pinned to", _ranges(vm.pinned_cpus or ())),
        ("memory nodes", _ranges(vm.memory_nodes or ())),
        ("also on", ", ".join(vm.conflicts)),
        ("because", vm.reason or ""),
    ]
    told = [(title, cell) for title, cell in lines if cell not in ("", _NOTHING)]
    return Table((Column(), Column(folds=" ,")), told)


def explanation_parts(explanation: Explanation) -> tuple[Part, ...]:
    """Hosts best first, then those left out; a tie stays in the scheduler's order."""
    columns = (
        Column("HOST", shortens=True),
        Column("SCORE", right=True),
        Column("REASON", folds=" "),
    )
    scores = _aligned([each.score for each in explanation.hosts])
    ordered = sorted(
        explanation.hosts,
        key=lambda each: (each.score is None, each.host != explanation.host, -(each.score or 0.0)),
    )
    rows: list[Row] = [
        (
            Cell(each.host, "bold green" if each.host == explanation.host else ""),
            _NOTHING if each.score is None else scores[each.score],
            each.reason or "",
        )
        for each in ordered
    ]
    by = f" by policy {explanation.policy}" if explanation.policy else ""
    where = f"it would go to {explanation.host}{by}" if explanation.host else _NO_HOST_FITS
    return (Table(columns, rows), "", where) if rows else (where,)


def room_parts(room: Room) -> tuple[Part, ...]:
    rows = [(host, str(fits)) for host, fits in room.hosts.items()]
    return (Table((Column("HOST"), Column("FITS", right=True)), rows, ("total", str(room.total))),)


def _below(parts: Iterable[Part]) -> tuple[Part, ...]:
    """*parts* after an empty line; nothing if there are none."""
    found = tuple(parts)
    return ("", *found) if found else ()


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


def _state(state: str | None) -> Cell | str:
    return Cell(state, STATE_STYLES.get(state, "")) if state else _NOTHING


def _level(level: Level | None) -> str:
    return _NOTHING if level is None else format_level(level)


def _or_nothing(number: int | None) -> str:
    return _NOTHING if number is None else str(number)


def _gb(mib: int) -> str:
    return f"{mib / 1024:.1f}"


def _exact_gb(mib: int | None) -> str:
    return _NOTHING if mib is None else f"{mib / 1024:.3f}".rstrip("0").rstrip(".")


def _ranges(numbers: Iterable[int]) -> str:
    """``2-127,130`` for all from 2 to 127 and 130."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def _aligned(scores: Iterable[float | None]) -> dict[float, str]:
    """Each score with as many decimals as the others: six digits of the largest, fewer if all
    the rest are zeros."""
    known = {score for score in scores if score is not None}
    finite = [abs(score) for score in known if isfinite(score)]
    largest = max(finite, default=0.0)
    whole = len(f"{largest:.0f}")
    if whole > _DIGITS or 0 < largest < 1e-4:
        return {score: f"{score:.{_DIGITS - 1}e}" for score in known}
    decimals = _DIGITS - whole if largest >= 1 else _DIGITS
    while decimals > 0 and all(f"{score:.{decimals}f}"[-1] == "0" for score in finite):
        decimals -= 1
    return {score: f"{score:.{decimals}f}" for score in known}


def _labels(labels: Mapping[str, str]) -> str:
    return " ".join(f"{name}={text}" for name, text in labels.items())
