"""Hosts that count their VMs anew whenever they are asked, to replay plans of moves on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from hypothesis import strategies as st

from schedulercommon.levels import parse_level
from schedulercommon.model import HostStatus, LevelStatus
from schedulercommon.sizing import cpus_needed
from schedulerglobal.core.arrivals import Arrivals
from schedulerglobal.core.moves import Move
from schedulerglobal.core.view import ClusterView, Shape


def shape(text: str) -> Shape:
    """Like ``2 1024 3/2``: vCPUs, MiB, level."""
    vcpus, memory_mib, level = text.split()
    return Shape(int(vcpus), int(memory_mib), parse_level(level))


@dataclass
class Machine:
    """A host that counts its VMs anew whenever it is asked."""

    cpus: int
    memory_mib: int
    overhead_mib: int = 0
    is_open: bool = True
    vms: dict[str, Shape] = field(default_factory=dict)

    def levels(self, more: Iterable[Shape] = ()) -> list[LevelStatus]:
        shapes = [*self.vms.values(), *more]
        found = []
        for level in sorted({each.level for each in shapes}):
            vcpus = [each.vcpus for each in shapes if each.level == level]
            cpus = cpus_needed(sum(vcpus), max(vcpus), level)
            found.append(LevelStatus(level, cpus, sum(vcpus), max(vcpus)))
        return found

    def free(self, more: Iterable[Shape] = ()) -> tuple[int, int]:
        more = list(more)
        shapes = [*self.vms.values(), *more]
        return (
            self.cpus - sum(each.cpus for each in self.levels(more)),
            self.memory_mib - sum(each.memory_mib + self.overhead_mib for each in shapes),
        )

    def holds(self, *more: Shape) -> bool:
        return min(self.free(more)) >= 0

    def score(self, more: Shape) -> float:
        cpus, memory_mib = self.free([more])
        return -((cpus / self.cpus + 0.02) * (memory_mib / self.memory_mib + 0.02))

    def missing(self, leaving: str, asked: Shape) -> tuple[float, float]:
        """Once *leaving* has left: what *asked* lacks, and what is free beyond it."""
        left = {name: vm for name, vm in self.vms.items() if name != leaving}
        cpus, memory_mib = Machine(self.cpus, self.memory_mib, self.overhead_mib, vms=left).free(
            [asked]
        )
        shares = cpus / self.cpus, memory_mib / self.memory_mib
        return (
            sum(max(-share, 0.0) for share in shares),
            sum(max(share, 0.0) for share in shares),
        )


Machines = list[Machine]


def view_of(machines: Sequence[Machine]) -> ClusterView:
    view = ClusterView()
    for row, machine in enumerate(machines):
        memory_mib = machine.memory_mib - machine.free()[1]
        status = HostStatus(
            name=f"h{row}",
            generation=1,
            capacity_cpus=machine.cpus,
            capacity_memory_mib=machine.memory_mib,
            allocated_memory_mib=memory_mib,
            levels=tuple(machine.levels()),
            vm_overhead_mib=machine.overhead_mib,
            vms=len(machine.vms),
        )
        view.set_status(view.add(status.name), status)
        view.set_open(row, machine.is_open)
    return view


def machine(cpus: int, memory_mib: int, **vms: str) -> Machine:
    """With VMs by name."""
    return Machine(cpus, memory_mib, vms={name: shape(text) for name, text in vms.items()})


def closed(machine: Machine) -> Machine:
    machine.is_open = False
    return machine


def replay(machines: Machines, moves: Iterable[Move[str]]) -> Machines:
    """The machines after *moves*: a VM counts on both hosts while it moves."""
    after = deepcopy(machines)
    names = sorted(name for machine in machines for name in machine.vms)
    for move in moves:
        source, destination = after[move.source], after[move.destination]
        assert move.source != move.destination
        assert destination.is_open
        destination.vms[move.vm] = source.vms[move.vm]
        assert destination.holds()
        assert source.holds()
        del source.vms[move.vm]
    assert sorted(name for machine in after for name in machine.vms) == names
    return after


LEVELS = tuple(map(parse_level, ("1", "4/3", "3/2", "2", "3")))
SHAPES = st.builds(
    Shape,
    vcpus=st.sampled_from([1, 1, 2, 2, 3, 4, 6]),
    memory_mib=st.sampled_from([1, 2, 3, 4, 5, 8, 13]),
    level=st.sampled_from(LEVELS),
)


@st.composite
def clusters(draw: st.DrawFn) -> Machines:
    """Small hosts, nearly full: VMs go wherever there is room for them."""
    overhead_mib = draw(st.sampled_from([0, 0, 1]))
    equal = draw(st.booleans())
    first = draw(st.integers(2, 12)), draw(st.integers(4, 32))
    machines = []
    for _ in range(draw(st.integers(1, 6))):
        size = first if equal else (draw(st.integers(2, 12)), draw(st.integers(4, 32)))
        machines.append(Machine(*size, overhead_mib))
    for number, vm in enumerate(draw(st.lists(SHAPES, max_size=40))):
        able = [machine for machine in machines if machine.holds(vm)]
        if able:
            able[draw(st.integers(0, len(able) - 1))].vms[f"vm{number}"] = vm
    for machine in machines:
        machine.is_open = draw(st.sampled_from([True] * 7 + [False]))
    return machines


@st.composite
def refusals(draw: st.DrawFn) -> tuple[Machines, Shape]:
    """Hosts with a little room on each, and a shape for which there is too little on any."""
    rng = draw(st.randoms(use_true_random=False))
    overhead_mib = draw(st.sampled_from([0, 0, 1]))
    count = draw(st.integers(2, 6))
    machines = [Machine(rng.randint(4, 10), rng.randint(8, 24), overhead_mib) for _ in range(count)]
    for number in range(12 * count):
        vm = Shape(rng.choice([1, 1, 1, 2, 3]), rng.choice([1, 1, 2, 3]), rng.choice(LEVELS))
        able = [each for each in machines if each.holds(vm) and rng.random() < 0.9]
        if able:
            rng.choice(able).vms[f"vm{number}"] = vm
    for each in machines:
        each.is_open = rng.random() < 0.9
        if each.vms and rng.random() < 0.5:
            del each.vms[rng.choice(list(each.vms))]
    level = draw(st.sampled_from(LEVELS))
    sizes = [(vcpus, mib) for vcpus in range(1, 7) for mib in range(1, 13)]
    rng.shuffle(sizes)
    sizes.sort(key=sum)
    for vcpus, memory_mib in sizes[draw(st.integers(0, 40)) :]:
        asked = Shape(vcpus, memory_mib, level)
        if not any(each.is_open and each.holds(asked) for each in machines):
            return machines, asked
    return machines, Shape(6, 12, level)


ARRIVALS = st.dictionaries(SHAPES, st.integers(20, 60), min_size=5, max_size=8).map(
    lambda counts: Arrivals(tuple(counts.items()))
)
