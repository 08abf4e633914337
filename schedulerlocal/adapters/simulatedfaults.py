"""What a simulated hypervisor is told to do wrong, and when: ``fail@3,slow@7:0.5,lose@9``.

The number counts *points*, the single changes the hypervisor makes, from its start. Beside
faults there is what happens to VMs by themselves, since that too has to happen at the worst
moment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from schedulercommon.errors import ConfigError
from schedulercommon.levels import parse_decimal

SETTING = "SCL_SIMULATED_FAULTS"
LONGEST_DELAY_S = 86_400

_ITEM = re.compile(r"([a-z-]+)@([0-9]{1,9})(?::([^:]*))?", re.ASCII)
_SEED = re.compile(r"seed=([0-9]{1,9})", re.ASCII)


class FaultKind(StrEnum):
    FAIL = "fail"
    """The change is not made, and the hypervisor says so."""
    HANG = "hang"
    """The change is not made, and the call never returns."""
    SLOW = "slow"
    """The change comes late."""
    CRASH = "crash"
    """The process is killed before the change."""
    CRASH_AFTER = "crash-after"
    """The process is killed once the change is made."""
    LOSE = "lose"
    """Some VM vanishes by itself."""
    GAIN = "gain"
    """A VM that is not ours appears, pinned to some CPUs."""
    CHANGE = "change"
    """The pins of some VM change by themselves."""


@dataclass(frozen=True, slots=True)
class Fault:
    kind: FaultKind
    delay_s: float = 0.0
    """Of SLOW."""


@dataclass(frozen=True, slots=True)
class Faults:
    """By point, counted from 1; several at one happen in the order given."""

    at: Mapping[int, tuple[Fault, ...]] = field(default_factory=dict)
    seed: int = 0
    """Chooses the victims."""


def parse_faults(text: str) -> Faults:
    """``KIND@POINT``, ``slow@POINT:SECONDS`` and ``seed=NUMBER``, separated by commas.

    Raises ConfigError, naming the setting.
    """
    at: dict[int, tuple[Fault, ...]] = {}
    seed = 0
    for item in filter(None, (part.strip() for part in text.split(","))):
        if chosen := _SEED.fullmatch(item):
            seed = int(chosen[1])
            continue
        match = _ITEM.fullmatch(item)
        if match is None or int(match[2]) < 1:
            raise _wrong(item, "is not a fault; write KIND@POINT, like fail@3 or slow@7:0.5")
        try:
            kind = FaultKind(match[1])
        except ValueError:
            known = ", ".join(FaultKind)
            raise _wrong(item, f"names no kind of fault; there are {known}") from None
        if (match[3] is not None) != (kind is FaultKind.SLOW):
            raise _wrong(item, "is not a fault; slow, and nothing else, takes seconds: slow@7:0.5")
        point = int(match[2])
        at[point] = (*at.get(point, ()), Fault(kind, _delay_s(item, match[3])))
    return Faults(at, seed)


def _delay_s(item: str, text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        delay_s = parse_decimal(text)
    except ValueError as problem:
        raise _wrong(item, str(problem)) from problem
    if delay_s > LONGEST_DELAY_S:
        raise _wrong(item, f"waits longer than a day; give at most {LONGEST_DELAY_S} seconds")
    return float(delay_s)


def _wrong(item: str, what: str) -> ConfigError:
    shown = item if len(item) <= 40 else item[:40] + "…"
    return ConfigError(f"{SETTING}: {shown!r} {what}")
