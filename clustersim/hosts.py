"""Equal hosts, in the columns the global scheduler decides on, with the VMs on each.

Nothing here chooses: it carries out and refuses what no host could do. CPUs are counted, not
picked.
"""

from __future__ import annotations

from bisect import insort

from clustersim.workload import HostSize
from schedulercommon.model import HostStatus
from schedulerglobal.core.view import ClusterView, Shape


class SimulatedHosts:
    """Hosts are rows of ``view``. Never over-committed: whoever asks for it gets a ValueError,
    and nothing has changed."""

    def __init__(self, size: HostSize, count: int) -> None:
        self.size = size
        self.view = ClusterView()
        self.vms: list[dict[int, Shape]] = []
        """VMs by row, in order of arrival there."""
        self.row_of: dict[int, int] = {}
        self.cpus = 0
        """Promised, on all hosts together; the memory alike."""
        self.memory_mib = 0
        self._vcpus: list[dict[tuple[int, int], list[int]]] = []
        """Of the VMs of a level of a row, ascending."""
        self._failed: set[int] = set()
        for _ in range(count):
            self.add()

    def __len__(self) -> int:
        return len(self.vms)

    def add(self) -> int:
        """One more host, empty; its row."""
        row = self.view.add(f"host-{len(self.vms)}")
        empty = HostStatus(f"host-{row}", 0, self.size.cpus, self.size.memory_mib, 0, ())
        self.view.set_status(row, empty)
        self.vms.append({})
        self._vcpus.append({})
        return row

    def place(self, vm: int, shape: Shape, row: int) -> None:
        if vm in self.row_of or row in self._failed:
            raise ValueError(f"VM {vm} cannot start on host {row}: it runs, or the host is down")
        cells = self.view.cells
        cpus = cells.cpus[row]
        self.view.reserve(row, shape)
        key = (shape.level.numerator, shape.level.denominator)
        sizes = self._vcpus[row].get(key)
        if cells.cpus[row] > self.size.cpus or cells.memory_mib[row] > self.size.memory_mib:
            self.view.release(row, shape, sizes[-1] if sizes else 0)
            raise ValueError(f"VM {vm} ({shape}) does not fit on host {row}")
        if sizes is None:
            self._vcpus[row][key] = [shape.vcpus]
        else:
            insort(sizes, shape.vcpus)
        self.vms[row][vm] = shape
        self.row_of[vm] = row
        self.cpus += int(cells.cpus[row] - cpus)
        self.memory_mib += shape.memory_mib

    def remove(self, vm: int) -> int:
        """The row it leaves."""
        row = self.row_of.pop(vm)
        shape = self.vms[row].pop(vm)
        key = (shape.level.numerator, shape.level.denominator)
        sizes = self._vcpus[row][key]
        sizes.remove(shape.vcpus)
        if not sizes:
            del self._vcpus[row][key]
        cells = self.view.cells
        cpus = cells.cpus[row]
        self.view.release(row, shape, sizes[-1] if sizes else 0)
        self.cpus += int(cells.cpus[row] - cpus)
        self.memory_mib -= shape.memory_mib
        return row

    def move(self, vm: int, row: int) -> None:
        """The room at *row* is reserved before that where it runs is given back."""
        source = self.row_of[vm]
        if source == row:
            raise ValueError(f"VM {vm} is on host {row} already")
        shape = self.vms[source][vm]
        del self.row_of[vm]
        try:
            self.place(vm, shape, row)
        except ValueError:
            self.row_of[vm] = source
            raise
        self.row_of[vm] = source
        self.remove(vm)
        self.row_of[vm] = row

    def fail(self, row: int) -> dict[int, Shape]:
        """The VMs that ran there, and no longer do; nothing is placed there until it returns."""
        stopped = dict(self.vms[row])
        for vm in stopped:
            self.remove(vm)
        self._failed.add(row)
        self.view.set_open(row, False)
        return stopped

    def return_(self, row: int) -> None:
        """Let VMs go there again."""
        self._failed.discard(row)
        self.view.set_open(row, True)
