"""How much VMs wait for CPUs that others are using: the figure that tells whether a level hurts.

It is the share a vCPU did not run of the time it was ready to run. Only the host makes it wait:
what a quota of the VM's own keeps it from is left out, and so is what its emulator waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from schedulercommon.levels import Level, format_level

LEAST_CPUS = 0.01
"""Of one CPU; VMs that want less say nothing about their level."""
WARNING_AT, BAD_AT = 0.05, 0.10
_CALM_AGAIN = 0.8  # of what it rose to, or a level at the border would be told of without end
_PERCENTILE = 0.95


class Crowding(StrEnum):
    """What the waiting of a level's VMs means for them."""

    CALM = "calm"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class VcpuTime:
    """A vCPU's counters; they begin anew with every boot."""

    ran_s: float
    waited_s: float
    """Ready to run, on no CPU."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a VM's vCPUs wanted between two readings, all together."""

    ran_s: float
    waited_s: float

    @property
    def wanted_s(self) -> float:
        return self.ran_s + self.waited_s


@dataclass(frozen=True, slots=True)
class Waiting:
    """Shares, 0 to 1, of the time VMs were ready to run."""

    share: float
    """Over all of them together."""
    p95: float
    """Of their shares one by one, that which 95 in 100 do not exceed."""


IDLE = Demand(0.0, 0.0)


def demand(
    before: Mapping[int, VcpuTime], now: Mapping[int, VcpuTime], throttled_s: float = 0.0
) -> Demand | None:
    """What happened between two readings, of which *throttled_s* is the VM's own quota's doing.

    A vCPU that is new, or whose counters fell since its thread is another, is left out; None if
    that leaves none.
    """
    known = False
    ran_s = waited_s = 0.0
    for vcpu, after in now.items():
        then = before.get(vcpu)
        if then is None or after.ran_s < then.ran_s or after.waited_s < then.waited_s:
            continue
        known = True
        ran_s += after.ran_s - then.ran_s
        waited_s += after.waited_s - then.waited_s
    return Demand(ran_s, max(0.0, waited_s - max(0.0, throttled_s))) if known else None


def share_waited(of: Demand, elapsed_s: float) -> float:
    """0 for a VM that hardly wanted to run: there its share would be chance."""
    return of.waited_s / of.wanted_s if _matters(of, elapsed_s) else 0.0


def waiting(demands: Iterable[Demand], elapsed_s: float) -> Waiting:
    """Of VMs together; those that hardly wanted to run do not count.

    What they wanted counts, not what they got: one that is kept from running altogether is the
    last to be overlooked.
    """
    counted = [each for each in demands if _matters(each, elapsed_s)]
    if not counted:
        return Waiting(0.0, 0.0)
    shares = sorted([each.waited_s / each.wanted_s for each in counted])
    waited_s = sum([each.waited_s for each in counted])
    return Waiting(
        share=min(1.0, waited_s / sum([each.wanted_s for each in counted])),
        p95=shares[ceil(_PERCENTILE * len(shares)) - 1],
    )


def crowding(share: float, before: Crowding = Crowding.CALM) -> Crowding:
    """What *share* means; it has to fall some way for what was bad *before* to be better."""
    bad = BAD_AT * (_CALM_AGAIN if before is Crowding.BAD else 1.0)
    warning = WARNING_AT * (1.0 if before is Crowding.CALM else _CALM_AGAIN)
    if share >= bad:
        return Crowding.BAD
    return Crowding.WARNING if share >= warning else Crowding.CALM


def crowded(
    before: Mapping[Level, Crowding], shares: Mapping[Level, float | None]
) -> dict[Level, Crowding]:
    """The levels that are not calm; one of which nothing can be told stays what it was *before*."""
    judged = {}
    for level, share in shares.items():
        known = before.get(level, Crowding.CALM)
        judged[level] = known if share is None else crowding(share, known)
    return {level: each for level, each in judged.items() if each is not Crowding.CALM}


def crowding_sentence(level: Level, how: Crowding) -> str:
    """Without the share itself: who shows this need not show it anew at every reading."""
    at, meaning = (BAD_AT, "far too long") if how is Crowding.BAD else (WARNING_AT, "too long")
    return (
        f"crowded: the VMs of level {format_level(level)} wait {meaning} for CPUs, {at:.0%} or more"
        " of the time they are ready to run (/v1/host/usage tells which); move some to another host"
    )


def _matters(of: Demand, elapsed_s: float) -> bool:
    return of.wanted_s > LEAST_CPUS * elapsed_s
