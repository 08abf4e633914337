"""A sequential model of a host, and whether what concurrent clients were told agrees with it.

Clients note every request with the moments it was sent and answered. For each name there must be
an order of the requests about it, in which none comes before one that was answered before it was
sent, that explains every answer. Room is one for all names, and checked apart: a refusal for want
of room is explained if the VMs there may have been meanwhile leave none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil

FREE = "free"
"""What a name is shown as that no VM has."""
_POWER = {
    ("start", "down"): "running",
    ("shutdown", "running"): "down",
    ("reboot", "running"): "running",
    ("suspend", "running"): "suspended",
    ("resume", "suspended"): "running",
}
VERBS = {verb for verb, _ in _POWER}


@dataclass(frozen=True, slots=True)
class Size:
    """What a deploy asks for, and what a VM has."""

    vcpus: int
    memory_mib: int
    level: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request about one name; fields its kind has no use for are empty."""

    kind: str
    """``deploy``, ``remove``, ``resize``, ``cancel``, ``seen`` or a verb."""
    name: str
    size: Size | None = None
    """Of a deploy."""
    vcpus: int | None = None
    """Of a resize, as is ``memory_mib``."""
    memory_mib: int | None = None
    start: bool = True
    request_id: str = ""
    published: bool = False
    """Asked for by a published route, which does not tell a new VM from one there was."""


@dataclass(frozen=True, slots=True)
class Told:
    """A request, what it was answered, and when it was sent and answered."""

    request: Request
    answer: str
    """``created``, ``same``, ``done``, an outcome, a state, or the code of a refusal."""
    sent: int
    answered: int

    def overlaps(self, other: Told) -> bool:
        return self.sent < other.answered and other.sent < self.answered


@dataclass(frozen=True, slots=True)
class Name:
    """One name's part of the model."""

    size: Size | None = None
    """None while no VM has it."""
    power: str = ""
    request_id: str = ""
    cancelled: frozenset[str] = frozenset()
    outcomes: frozenset[tuple[str, str]] = frozenset()
    """(request id, what became of it)."""

    def ended(self, request_id: str, outcome: str) -> frozenset[tuple[str, str]]:
        others = {pair for pair in self.outcomes if pair[0] != request_id}
        return frozenset(others | {(request_id, outcome)}) if request_id else self.outcomes


class Unexplained(AssertionError):
    """No order of the requests explains the answers."""


def explain(history: list[Told], room: Room) -> None:
    """Raises Unexplained if some name's answers, or a refusal for want of *room*, cannot be."""
    room.explain(history)
    by_name: dict[str, list[Told]] = defaultdict(list)
    for told in history:
        by_name[told.request.name].append(told)
    for name, there in by_name.items():
        kept = [told for told in there if not _spoken_for(told, there)]
        if not _explainable(sorted(kept, key=lambda told: told.answered)):
            lines = "\n".join(map(str, sorted(there, key=lambda told: told.sent)))
            raise Unexplained(f"no order explains what was told about {name!r}:\n{lines}")


def _spoken_for(told: Told, others: list[Told]) -> bool:
    """Whether another request under way is reason enough for a refusal.

    A deploy under way has its name already, whatever becomes of it. A VM takes one verb at a
    time, and one that is being removed is down before it is gone.
    """
    request = told.request
    reasons: set[str] = set()
    if told.answer == "name-taken":
        reasons = {"deploy"}
    elif request.kind in VERBS:
        reasons = {"wrong-state": VERBS | {"remove"}, "hypervisor-failed": {"remove"}}.get(
            told.answer, set()
        )
    return any(
        other is not told and told.overlaps(other)
        for other in others
        if other.request.kind in reasons
        # the same deploy twice is no other
        and (other.request.size is None or other.request.size != request.size)
    )


def _explainable(there: list[Told]) -> bool:
    """Depth first over the orders that respect time."""
    everything = (1 << len(there)) - 1
    stack: list[tuple[int, Name]] = [(everything, Name())]
    been: set[tuple[int, Name]] = set()
    while stack:
        left, name = stack.pop()
        if not left:
            return True
        if (left, name) in been:
            continue
        been.add((left, name))
        waiting = [n for n in range(len(there)) if left >> n & 1]
        before = there[waiting[0]].answered
        options = []
        for number in waiting:
            if there[number].sent > before:
                continue
            after = list(_after(name, there[number]))
            rest = left & ~(1 << number)
            if after == [name] and there[number].answer != "done":
                # it changes nothing wherever it fits, and it fits here: no place is better
                options = [(rest, name)]
                break
            options += [(rest, each) for each in after]
        stack += options
    return False


def _after(name: Name, told: Told) -> Iterator[Name]:
    """What *name* may be once *told* was answered as it was; nothing if it cannot have been."""
    match told.request.kind:
        case "deploy":
            yield from _after_deploy(name, told)
        case "remove":
            yield from _after_remove(name, told)
        case "resize":
            yield from _after_resize(name, told)
        case "cancel":
            yield from _after_cancel(name, told)
        case "seen":
            if told.answer == ("there" if name.size else FREE):
                yield name
        case _:
            yield from _after_verb(name, told)


def _after_deploy(name: Name, told: Told) -> Iterator[Name]:
    request = told.request
    new = replace(
        name,
        size=request.size,
        power="running" if request.start else "down",
        request_id=request.request_id,
        outcomes=name.ended(request.request_id, "deployed"),
    )
    free, cancelled = name.size is None, request.request_id in name.cancelled
    removed = dict(name.outcomes).get(request.request_id) == "removed"
    match told.answer:
        case "created":
            if free and not (cancelled or removed):
                yield new
        case "same":
            if name.size == request.size:
                yield name
        case "done":
            if free or name.size == request.size:
                yield new if free else name
        case "name-taken":
            if not free and name.size != request.size:
                yield name
        case "request-cancelled":
            if cancelled or (free and removed):
                yield name
        case "no-capacity" if free:
            yield name
        case "hypervisor-failed" if free:
            yield name
            if request.request_id:
                yield replace(name, outcomes=name.ended(request.request_id, "undone"))


def _after_remove(name: Name, told: Told) -> Iterator[Name]:
    match told.answer:
        case "done":
            if name.size:
                gone = name.ended(name.request_id, "removed")
                yield replace(name, size=None, power="", request_id="", outcomes=gone)
        case "unknown-vm":
            if not name.size:
                yield name
        case "hypervisor-failed":
            if name.size:
                yield name


def _after_resize(name: Name, told: Told) -> Iterator[Name]:
    request, size = told.request, name.size
    if size is None:
        if told.answer == "unknown-vm":
            yield name
        return
    new = replace(
        size,
        vcpus=request.vcpus or size.vcpus,
        memory_mib=request.memory_mib or size.memory_mib,
    )
    if told.answer == "done":
        yield replace(name, size=new)
    elif told.answer in ("no-capacity", "hypervisor-failed") and new != size:
        yield name


def _after_cancel(name: Name, told: Told) -> Iterator[Name]:
    request_id = told.request.request_id
    there = bool(name.size) and name.request_id == request_id
    became = "deployed" if there else dict(name.outcomes).get(request_id, "cancelled")
    if told.answer == became:
        yield replace(name, cancelled=name.cancelled | {request_id})


def _after_verb(name: Name, told: Told) -> Iterator[Name]:
    after = _POWER.get((told.request.kind, name.power))
    match told.answer:
        case "unknown-vm":
            if not name.size:
                yield name
        case "wrong-state":
            if name.size and after is None:
                yield name
        case "hypervisor-failed":
            if name.size:
                yield name
        case _:
            if after == told.answer:
                yield replace(name, power=after)


@dataclass(frozen=True, slots=True)
class Room:
    """All a host has."""

    cpus: int
    memory_mib: int

    def explain(self, history: list[Told]) -> None:
        """Raises Unexplained for a refusal though there was room all the time."""
        for told in history:
            if told.answer == "no-capacity":
                sizes = [size for each in _possible(told, history).values() for size in each]
                if self.has_for(sizes):
                    raise Unexplained(f"there was room all the time for {told}")

    def has_for(self, sizes: list[Size]) -> bool:
        cpus = 0
        for level in {size.level for size in sizes}:
            vcpus = [size.vcpus for size in sizes if size.level == level]
            cpus += max(ceil(sum(vcpus) / Fraction(level)), *vcpus)
        return cpus <= self.cpus and sum(size.memory_mib for size in sizes) <= self.memory_mib


def _possible(told: Told, history: list[Told]) -> dict[str, list[Size]]:
    """The most each name may have amounted to while *told* was under way, done as it asked.

    At each level a name may have been at, the largest sizes it may have had there.
    """
    possible = {
        name: _largest(told, [each for each in history if each.request.name == name])
        for name in {each.request.name for each in history}
    }
    request = told.request
    if request.size is not None:
        possible[request.name] = [request.size]  # it was free when it was refused
    else:
        possible[request.name] = [
            replace(
                size,
                vcpus=max(size.vcpus, request.vcpus or 0),
                memory_mib=max(size.memory_mib, request.memory_mib or 0),
            )
            for size in possible[request.name]
        ]
    return possible


def _largest(told: Told, about: list[Told]) -> list[Size]:
    """The sizes the one VM *about* which these are may have had, one for each level."""
    removals = [each for each in about if each.request.kind == "remove" and each.answer == "done"]
    resizes = [each for each in about if each.request.kind == "resize" and each.answer == "done"]
    vcpus = [each.request.vcpus or 0 for each in resizes if each.sent < told.answered]
    memory_mib = [each.request.memory_mib or 0 for each in resizes if each.sent < told.answered]
    levels: dict[str, Size] = {}
    for each in about:
        size = each.request.size
        if size is None or each.answer not in ("created", "done") or each.sent > told.answered:
            continue
        if any(gone.sent > each.answered and gone.answered < told.sent for gone in removals):
            continue
        known = levels.get(size.level, size)
        levels[size.level] = Size(
            max(size.vcpus, known.vcpus, *vcpus),
            max(size.memory_mib, known.memory_mib, *memory_mib),
            size.level,
        )
    return list(levels.values())
