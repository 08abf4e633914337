"""What the scheduler answers, as values: read tolerantly, so that client and service may be of
different versions.

Fields we do not know are ignored, and kept in ``document`` with the others as they came; of those
we know, few have to be there. Every ``read_`` raises ValueError for what makes no sense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from schedulercommon.levels import Level, parse_level

T = TypeVar("T")
D = TypeVar("D")
Document = Mapping[str, Any]

_LARGEST = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A VM. What only its host knows is None where that host was not asked or did not tell."""

    name: str
    host: str
    """Empty if a host was asked instead of the cluster."""
    status: str
    """How the cluster's promise stands: ``pending``, ``placed``, ``removing``, ``unknown`` or
    ``lost``."""
    state: str | None
    """What it is doing: ``running``, ``down``, ``suspended``, ``migrating`` or ``error``."""
    level: Level | None
    runs_at: Level | None
    vcpus: int | None
    memory_mib: int | None
    image: str | None
    labels: Mapping[str, str]
    owner: str
    request_id: str
    reason: str | None
    conflicts: tuple[str, ...]
    """Other hosts that have a VM of that name."""
    pinned_cpus: tuple[int, ...] | None
    memory_nodes: tuple[int, ...] | None
    document: Document = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A VM that was asked for."""

    vm: Vm
    created: bool
    """False: the same request was made before, and this is its VM."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of a removal."""

    done: bool
    """False: accepted, and done when the VM's host is back."""
    reason: str | None
    document: Document = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Resized:
    """A VM in its new size, and when its guest sees it: ``live``, ``next-boot``, ``unchanged``."""

    vm: Vm
    vcpus: str
    memory_mib: str


@dataclass(frozen=True, slots=True)
class Amount:
    """How much there is for VMs, and how much of it is free."""

    total: int
    free: int

    @property
    def used(self) -> int:
        return self.total - self.free


@dataclass(frozen=True, slots=True)
class HostLevel:
    """A level of a host."""

    level: Level
    cpus: int
    """Owned by the level."""
    vcpus: int
    """Promised to its VMs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host of the cluster."""

    name: str
    state: str
    """``up``, ``suspect``, ``down``, ``draining`` or ``maintenance``."""
    cpus: Amount
    memory_mib: Amount
    levels: tuple[HostLevel, ...]
    url: str
    reachable: bool
    problem: str | None
    seen_s_ago: float | None
    typed: bool
    """Whether it knows the typed routes, or only the published ones."""
    fenced: bool
    labels: Mapping[str, str]
    vms: int
    conflicts: tuple[str, ...]
    """VMs there that are promised elsewhere or nowhere."""
    document: Document = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a host was found to be for a request: its score, or why it is left out."""

    host: str
    score: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a VM would go and why; nothing was done."""

    host: str | None
    policy: str
    hosts: tuple[Verdict, ...]
    document: Document = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Room:
    """How many more such VMs fit."""

    total: int
    hosts: Mapping[str, int]
    document: Document = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    sequence: int
    """To go on listening after it; each scheduler has its own."""
    kind: str
    data: Document
    source: str = field(default="", compare=False)
    """The address of the scheduler that told it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a global scheduler says of itself."""

    leading: bool
    shared: bool
    """Whether there may be others; one with a store of its own always leads."""
    leader: str
    """Where the one that leads is found by the others; empty if not known."""
    epoch: int
    """Rises with each leader."""
    document: Document = field(default_factory=dict, repr=False, compare=False)


def read_vm(document: Any) -> Vm:
    told = _object(document)
    return Vm(
        name=_needed(told, "name", str),
        host=_told(told, "host", str, ""),
        status=_told(told, "status", str, ""),
        state=_told(told, "state", str, None),
        level=_level(told, "level"),
        runs_at=_level(told, "runs_at"),
        vcpus=_told(told, "vcpus", int, None),
        memory_mib=_told(told, "memory_mib", int, None),
        image=_told(told, "image", str, None),
        labels=_labels(told),
        owner=_told(told, "owner", str, ""),
        request_id=_told(told, "request_id", str, ""),
        reason=_told(told, "reason", str, None),
        conflicts=_texts(told, "conflicts"),
        pinned_cpus=_numbers(told, "pinned_cpus"),
        memory_nodes=_numbers(told, "memory_nodes"),
        document=told,
    )


def read_vms(document: Any) -> tuple[Vm, ...]:
    return tuple(map(read_vm, _list(document)))


def read_removal(document: Any) -> Removal:
    told = _object(document)
    if told.get("success") is not True:
        raise ValueError("it says neither that it is done nor why not")
    waiting = told.get("status") == "removing"
    return Removal(not waiting, _told(told, "reason", str, None), told)


def read_resized(document: Any) -> Resized:
    effect = _object(_object(document).get("takes_effect") or {})
    return Resized(
        read_vm(document),
        _told(effect, "vcpus", str, "unchanged"),
        _told(effect, "memory_mib", str, "unchanged"),
    )


def read_host(document: Any) -> Host:
    told = _object(document)
    return Host(
        name=_needed(told, "name", str),
        state=_needed(told, "state", str),
        cpus=_amount(told, "cpus"),
        memory_mib=_amount(told, "memory_mib"),
        levels=tuple(map(_host_level, _told(told, "levels", list, []))),
        url=_told(told, "url", str, ""),
        reachable=_told(told, "reachable", bool, True),
        problem=_told(told, "problem", str, None),
        seen_s_ago=_number(told, "seen_s_ago"),
        typed=_told(told, "typed", bool, True),
        fenced=_told(told, "fenced", bool, False),
        labels=_labels(told),
        vms=_told(told, "vms", int, 0),
        conflicts=_texts(told, "conflicts"),
        document=told,
    )


def read_hosts(document: Any) -> tuple[Host, ...]:
    return tuple(map(read_host, _list(document)))


def read_explanation(document: Any) -> Explanation:
    told = _object(document)
    verdicts = [_object(each) for each in _needed(told, "hosts", list)]
    return Explanation(
        _told(told, "host", str, None),
        _told(told, "policy", str, ""),
        tuple(
            Verdict(
                _needed(each, "host", str),
                _number(each, "score"),
                _told(each, "reason", str, None),
            )
            for each in verdicts
        ),
        told,
    )


def read_room(document: Any) -> Room:
    told = _object(document)
    fits = [_object(each) for each in _needed(told, "hosts", list)]
    return Room(
        _needed(told, "total", int),
        {_needed(each, "host", str): _needed(each, "fits", int) for each in fits},
        told,
    )


def read_standing(document: Any) -> Standing:
    told = _object(document)
    return Standing(
        _needed(told, "leading", bool),
        _told(told, "shared", bool, False),
        _told(told, "url", str, ""),
        _told(told, "epoch", int, 0),
        told,
    )


def read_console(document: Any) -> str:
    return _needed(_object(document), "console", str)


def read_service(document: Any) -> str:
    return _told(_object(document), "service", str, "")


def _told(document: Document, name: str, kind: type[T], otherwise: D) -> T | D:
    """The field *name*; *otherwise* where it is missing or null."""
    return otherwise if document.get(name) is None else _needed(document, name, kind)


def _needed(document: Document, name: str, kind: type[T]) -> T:
    value = document.get(name)
    if not isinstance(value, kind) or (kind is int and not _is_count(value)):
        raise ValueError(f"its field {name!r} is missing or not what it should be")
    return value


def _is_count(value: object) -> bool:
    """Whether it is a whole number one can calculate with; JSON's may have any length."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _object(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object where there should be one")
    return document


def _list(document: Any) -> list[Any]:
    if not isinstance(document, list):
        raise ValueError("it is not a JSON list where there should be one")
    return document


def _level(document: Document, name: str) -> Level | None:
    text = _told(document, name, str, None)
    return None if text is None else parse_level(text)


def _number(document: Document, name: str) -> float | None:
    if isinstance(document.get(name), int):
        return float(_needed(document, name, int))
    return _told(document, name, float, None)


def _amount(document: Document, name: str) -> Amount:
    told = _needed(document, name, dict)
    return Amount(_needed(told, "total", int), _needed(told, "free", int))


def _host_level(document: Any) -> HostLevel:
    told = _object(document)
    level = parse_level(_needed(told, "level", str))
    return HostLevel(level, _needed(told, "cpus", int), _needed(told, "vcpus", int))


def _labels(document: Document) -> dict[str, str]:
    told = _told(document, "labels", dict, {})
    return {str(name): str(text) for name, text in told.items()}


def _texts(document: Document, name: str) -> tuple[str, ...]:
    return tuple(map(str, _told(document, name, list, [])))


def _numbers(document: Document, name: str) -> tuple[int, ...] | None:
    told = _told(document, name, list, None)
    if told is not None and not all(map(_is_count, told)):
        raise ValueError(f"its field {name!r} is not a list of whole numbers")
    return None if told is None else tuple(told)
