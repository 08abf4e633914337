"""Placement policies as values: each scores the hosts that have room; the largest score wins.

A formula is written once: it serves all rows at once as arrays, and one row as plain numbers,
which is how kept scores follow a host that changed. Equal scores go to the host known first,
except where a policy goes round or draws lots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType

from schedulerglobal.core.view import At, Columns, Larger, Numbers


@dataclass(slots=True)
class Trial:
    """A VM as if placed on each of some hosts: on rows as arrays, or on one as plain numbers."""

    of: Columns
    at: At
    vm_mib: int
    gained: Numbers
    """CPUs its level gains."""
    minimum: Larger
    """``numpy.minimum`` or ``min``."""

    @property
    def cpus(self) -> Numbers:
        """Promised with it."""
        return self.of.cpus[self.at] + self.gained

    @property
    def memory_mib(self) -> Numbers:
        """Promised with it."""
        return self.of.memory_mib[self.at] + self.vm_mib

    @property
    def free_cpus(self) -> Numbers:
        """Left over."""
        return self.of.capacity_cpus[self.at] - self.cpus

    @property
    def free_mib(self) -> Numbers:
        """Left over."""
        return self.of.capacity_memory_mib[self.at] - self.memory_mib


Score = Callable[[Trial], Numbers]
"""How good each host is: new floats, finite for every row."""


class Choice(Enum):
    """Which of the hosts that have room."""

    LARGEST = auto()
    """The one with the largest score, of equals the first."""
    NEXT = auto()
    """The first after the one placed on last, round and round."""
    ANY = auto()
    """One drawn by lot."""
    LEAST_LOSS = auto()
    """The one where the shapes to come lose least: :mod:`schedulerglobal.core.tight`."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to choose among hosts that have room."""

    name: str
    score: Score
    choice: Choice = Choice.LARGEST


_ONE_CPU = 2.0**-20
_ONE_MIB = 2.0**-31
# Less than one of the other, however many there are, and exact: 51 bits in all.
_NOT_NOTHING = 0.02
# Of hosts that have none of one left, the one with less of the other is still the better.


def _progress(on: Trial) -> Numbers:
    """:func:`schedulercommon.balance.progress`: a loss, and only a loss, grows by ``worse``."""
    of, at = on.of, on.at
    gain = of.apart[at] - abs(on.memory_mib / on.cpus - of.ideal[at])
    return on.minimum(gain, gain * of.worse[at])


def _equal(on: Trial) -> Numbers:
    return on.gained * 0.0


def _best_fit(on: Trial) -> Numbers:
    """The least left over: the sum of the fills of CPU and memory."""
    of, at = on.of, on.at
    return on.cpus / of.capacity_cpus[at] + on.memory_mib / of.capacity_memory_mib[at]


def _product(on: Trial) -> Numbers:
    """Least ``(free CPU share + 0.02)(free memory share + 0.02)``: a host filled evenly by half
    leaves more of that than one whose CPUs or memory are all but used up."""
    of, at = on.of, on.at
    free_cpus = on.free_cpus / of.capacity_cpus[at] + _NOT_NOTHING
    return -(free_cpus * (on.free_mib / of.capacity_memory_mib[at] + _NOT_NOTHING))


def _ram_first(on: Trial) -> Numbers:
    """Least memory left, then least CPUs left."""
    return -(on.free_mib + on.free_cpus * _ONE_CPU)


def _cores_first(on: Trial) -> Numbers:
    """Least CPUs left, then least memory left."""
    return -(on.free_cpus + on.free_mib * _ONE_MIB)


def _most_vms(on: Trial) -> Numbers:
    return on.of.vms[on.at] * 1.0


def _fewest_vms(on: Trial) -> Numbers:
    return on.of.vms[on.at] * -1.0


PRODUCT = Policy("product", _product)
_ROUND_ROBIN = Policy("round-robin", _equal, Choice.NEXT)

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        "progress": Policy("progress", _progress),
        "first-fit": Policy("first-fit", _equal),
        "best-fit": Policy("best-fit", _best_fit),
        "product": PRODUCT,
        # by product while too little is known of what is asked for
        "tight": Policy("tight", _product, Choice.LEAST_LOSS),
        "round-robin": _ROUND_ROBIN,
        "distributed": _ROUND_ROBIN,
        # one host is filled before the next is begun, so that the others stay empty
        "concentrated": Policy("concentrated", _most_vms),
        # as many VMs on each; who places a batch in order may give each host its share at once
        "n_by_hosts": Policy("n_by_hosts", _fewest_vms),
        "random": Policy("random", _equal, Choice.ANY),
        "best-fit-ram-first": Policy("best-fit-ram-first", _ram_first),
        "best-fit-cores-first": Policy("best-fit-cores-first", _cores_first),
    }
)


def parse_policy(text: str) -> Policy:
    """The policy called *text*; raises ValueError with a sentence that lists those there are."""
    policy = POLICIES.get(text)
    if policy is None:
        raise ValueError(f"there is no policy {text[:40]!r}; choose one of {', '.join(POLICIES)}")
    return policy
