"""What happens to a cluster, and when, all of it by a seed: one seed, one sequence of faults."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from benchmarks.chaosproxy import Wire


class Fault(StrEnum):
    """What befalls the cluster in a round."""

    LEADER_KILLED = "kill -9 of the leader"
    STANDBY_KILLED = "kill -9 of another global scheduler"
    LEADER_TOLD = "the leader is told to stop"
    LEADER_STOPPED = "SIGSTOP of the leader past its lease"
    LEADER_HALTED = "SIGSTOP of the leader for a moment"
    LEADER_CUT_OFF = "the leader's way to PostgreSQL swallows everything past its lease"
    CUT = "all connections to PostgreSQL are reset"
    DATABASE_RESTARTED = "PostgreSQL is restarted"
    DATABASE_CRASHED = "PostgreSQL crashes and is started again"
    DATABASE_AWAY = "PostgreSQL is away"
    DATABASE_SILENT = "SIGSTOP of PostgreSQL"
    DATABASE_SLOW = "PostgreSQL is slow"
    HOST_KILLED = "kill -9 of a local scheduler"
    HOST_STOPPED = "SIGSTOP of a local scheduler"


_WEIGHTS = {
    Fault.LEADER_KILLED: 6,
    Fault.STANDBY_KILLED: 2,
    Fault.LEADER_TOLD: 1,
    Fault.LEADER_STOPPED: 3,
    Fault.LEADER_HALTED: 2,
    Fault.LEADER_CUT_OFF: 3,
    Fault.CUT: 3,
    Fault.DATABASE_RESTARTED: 2,
    Fault.DATABASE_CRASHED: 2,
    Fault.DATABASE_AWAY: 1,
    Fault.DATABASE_SILENT: 2,
    Fault.DATABASE_SLOW: 2,
    Fault.HOST_KILLED: 2,
    Fault.HOST_STOPPED: 2,
}


@dataclass(frozen=True, slots=True)
class Round:
    """A fault, and what is wrong on the wire to a host meanwhile."""

    fault: Fault
    after_s: float
    """How long the cluster is left in peace before."""
    which: float
    """Of those it may befall, from 0 to 1."""
    lasts_s: float
    """For faults that last."""
    wire: Wire | None
    wire_host: float
    """From 0 to 1."""
    wire_s: float

    def __str__(self) -> str:
        wire = f"; a proxy {self.wire} for {self.wire_s:.1f} s" if self.wire else ""
        return f"after {self.after_s:.1f} s: {self.fault}{wire}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster, and its rounds."""

    seed: int
    rounds: tuple[Round, ...]
    globals_: int = 3
    hosts: int = 4
    clients: int = 16
    lease_s: float = 1.0
    answer_s: float = 4.0
    """A client waits so long for one answer, then asks another global scheduler."""

    @property
    def kills(self) -> int:
        return sum(each.fault is Fault.LEADER_KILLED for each in self.rounds)


def mixed(seed: int, rounds: int) -> tuple[Round, ...]:
    """Of every kind."""
    rng = Random(f"{seed} faults")
    return tuple(
        _round(rng, rng.choices([*_WEIGHTS], [*_WEIGHTS.values()])[0]) for _ in range(rounds)
    )


def only(fault: Fault, seed: int, rounds: int, *, wire: bool = True) -> tuple[Round, ...]:
    """Of one kind, and of every kind on the wire unless *wire* says none."""
    rng = Random(f"{seed} {fault}")
    return tuple(_round(rng, fault, wire=wire) for _ in range(rounds))


def _round(rng: Random, fault: Fault, *, wire: bool = True) -> Round:
    kinds: list[Wire | None] = [*Wire, None, None]
    wires, place, long_s = rng.choice(kinds), rng.random(), rng.uniform(0.5, 3.0)
    return Round(
        fault=fault,
        after_s=rng.uniform(0.2, 1.2),
        which=rng.random(),
        lasts_s=rng.uniform(0.5, 4.0),
        wire=wires if wire else None,
        wire_host=place,
        wire_s=long_s,
    )
