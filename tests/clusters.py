"""Clusters as Hypothesis draws them, and what a host would do, worked out slowly and exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from hypothesis import strategies as st

from schedulercommon.balance import progress
from schedulercommon.levels import Level
from schedulercommon.model import HostStatus, LevelStatus
from schedulercommon.sizing import cpus_needed
from schedulerglobal.core.view import ClusterView, Shape

LEVELS = tuple(map(Fraction, ("1", "11/10", "4/3", "3/2", "2", "3")))

shapes = st.builds(
    Shape,
    vcpus=st.integers(1, 6) | st.integers(1, 40),
    memory_mib=st.integers(1, 4_000) | st.integers(1, 70_000),
    level=st.sampled_from(LEVELS),
)


@dataclass
class Host:
    """A host as it counts for itself."""

    capacity_cpus: int = 0
    capacity_mib: int = 0
    overhead_mib: int = 0
    allocated_mib: int = 0
    vms: int = 0
    levels: dict[Level, tuple[int, int, int]] = field(default_factory=dict)
    """CPUs owned, vCPUs, and those of the largest VM."""
    seen: bool = False
    is_open: bool = True
    preferred: bool = True

    @property
    def cpus(self) -> int:
        return sum(owned for owned, _, _ in self.levels.values())

    @property
    def status(self) -> HostStatus:
        return HostStatus(
            name="host",
            generation=1,
            capacity_cpus=self.capacity_cpus,
            capacity_memory_mib=self.capacity_mib,
            allocated_memory_mib=self.allocated_mib,
            levels=tuple(LevelStatus(level, *rest) for level, rest in self.levels.items()),
            vm_overhead_mib=self.overhead_mib,
            vms=self.vms,
        )

    def gained(self, shape: Shape) -> int:
        owned, vcpus, largest = self.levels.get(shape.level, (0, 0, 0))
        needed = cpus_needed(vcpus + shape.vcpus, max(largest, shape.vcpus), shape.level)
        return max(needed - owned, 0)

    def has_room(self, shape: Shape) -> bool:
        free_cpus = max(self.capacity_cpus - self.cpus, 0)
        free_mib = self.capacity_mib - self.allocated_mib
        return (
            self.seen
            and self.gained(shape) <= free_cpus
            and shape.memory_mib + self.overhead_mib <= free_mib
        )

    def place(self, shape: Shape) -> None:
        owned, vcpus, largest = self.levels.get(shape.level, (0, 0, 0))
        self.levels[shape.level] = (
            owned + self.gained(shape),
            vcpus + shape.vcpus,
            max(largest, shape.vcpus),
        )
        self.allocated_mib += shape.memory_mib + self.overhead_mib
        self.vms += 1

    def score(self, shape: Shape, policy: str) -> Fraction | tuple[Fraction, ...]:
        """The larger the better."""
        cpus = Fraction(self.cpus + self.gained(shape))
        memory = Fraction(self.allocated_mib + shape.memory_mib + self.overhead_mib)
        match policy:
            case "progress":
                return Fraction(self.progress(shape))
            case "best-fit":
                # what is left over counts with the overhead of one more VM, as progress does
                return cpus / self.capacity_cpus + memory / self.capacity_mib
            case "product" | "tight":  # of which nothing is expected yet
                free_cpus = 1 - cpus / self.capacity_cpus
                free_memory = 1 - memory / self.capacity_mib
                return -(free_cpus + Fraction(2, 100)) * (free_memory + Fraction(2, 100))
            case "best-fit-ram-first":
                return (memory - self.capacity_mib, cpus - self.capacity_cpus)
            case "best-fit-cores-first":
                return (cpus - self.capacity_cpus, memory - self.capacity_mib)
            case "concentrated":
                return Fraction(self.vms)
            case "n_by_hosts":
                return Fraction(-self.vms)
        return Fraction(0)

    def progress(self, shape: Shape) -> float:
        return progress(
            capacity_cpus=self.capacity_cpus,
            capacity_memory_mib=self.capacity_mib,
            allocated_cpus=self.cpus,
            allocated_memory_mib=self.allocated_mib,
            vm_memory_mib=shape.memory_mib + self.overhead_mib,
            gained_cpus=self.gained(shape),
        )


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    """Hosts with some VMs; some own more CPUs than they need, some have promised too much."""
    host = Host(
        capacity_cpus=draw(st.integers(1, 64)),
        capacity_mib=draw(st.integers(1, 64)) * draw(st.sampled_from([256, 2_048, 4_096])),
        overhead_mib=draw(st.sampled_from([0, 1, 128])),
        seen=True,
    )
    overdone = draw(st.integers(0, 9)) == 0
    for shape in draw(st.lists(shapes, max_size=6)):
        if overdone or host.has_room(shape):
            host.place(shape)
    for level, (owned, vcpus, largest) in host.levels.items():
        spare = draw(st.sampled_from([0, 0, 0, 1, 2]))
        if spare <= host.capacity_cpus - host.cpus:
            host.levels[level] = (owned + spare, vcpus, largest)
    return host


def view_of(known: Iterable[Host]) -> ClusterView:
    """Those hosts as a global scheduler knows them, h0 and so on."""
    view = ClusterView()
    for number, host in enumerate(known):
        row = view.add(f"h{number}")
        if host.seen:
            view.set_status(row, host.status)
        view.set_open(row, host.is_open)
        view.set_preferred(row, host.preferred)
    return view
