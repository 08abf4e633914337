"""The cluster's columns say of every host what the host would say of itself."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.model import HostStatus, LevelStatus
from schedulercommon.sizing import cpus_needed
from schedulerglobal.core.capacity import fits
from schedulerglobal.core.view import ClusterView, Columns, Shape, gained_cpus
from tests.clusters import LEVELS, Host, hosts, shapes

EMPTY = Host(64, 65_536, 128, seen=True)
SMALL = Shape(1, 1_024, Fraction(1))


def view_of(*hosts: Host) -> ClusterView:
    view = ClusterView()
    for number, host in enumerate(hosts):
        view.set_status(view.add(f"h{number}"), host.status)
    return view


def columns_of(view: ClusterView, row: int) -> dict[str, float]:
    return {field.name: getattr(view.cells, field.name)[row] for field in fields(Columns)}


@given(hosts(), shapes)
def test_a_level_gains_what_its_host_would_give_it(host: Host, shape: Shape) -> None:
    view = view_of(Host(), host)
    assert gained_cpus(view.level_cells(shape.level), 1, shape, max) == host.gained(shape)
    of_all = gained_cpus(view.level_columns(shape.level), slice(2), shape, np.maximum)
    assert of_all.tolist() == [shape.vcpus, host.gained(shape)]


@pytest.mark.parametrize(
    ("level", "vcpus", "more", "gained"),
    [("3/2", 2, 1, 0), ("3/2", 3, 1, 1), ("4/3", 3, 1, 0), ("11/10", 10, 1, 0), ("1.1", 11, 1, 1)],
)
def test_sizing_is_exact(level: str, vcpus: int, more: int, gained: int) -> None:
    host = Host(64, 65_536, seen=True)
    for _ in range(vcpus):
        host.place(Shape(1, 1, Fraction(level)))
    view = view_of(host)
    shape = Shape(more, 1, Fraction(level))
    assert gained_cpus(view.level_cells(shape.level), 0, shape, max) == gained


@given(hosts(), st.lists(shapes, max_size=5))
def test_a_reservation_counts_like_a_status_that_has_it(host: Host, reserved: list[Shape]) -> None:
    view = view_of(host, host, host)
    view.set_status(1, host.status, reserved)
    after = deepcopy(host)
    for shape in reserved:
        view.reserve(0, shape)
        after.place(shape)
    view.set_status(2, after.status)
    assert columns_of(view, 0) == columns_of(view, 1) == columns_of(view, 2)
    expected = {(level, owned, vcpus) for level, (owned, vcpus, _) in after.levels.items()}
    assert set(view.levels_of(0)) == set(view.levels_of(1)) == set(view.levels_of(2)) == expected
    assert view.free(0) == (
        after.capacity_cpus - after.cpus,
        after.capacity_mib - after.allocated_mib,
    )
    assert view.cells.vms[0] == after.vms


@given(st.lists(shapes, max_size=8), st.data())
def test_what_is_released_leaves_a_host_as_if_it_had_never_come(
    placed: list[Shape], data: st.DataObject
) -> None:
    view, kept = view_of(EMPTY, EMPTY), list(placed)
    for shape in placed:
        view.reserve(0, shape)
    for shape in data.draw(st.permutations(placed))[: data.draw(st.integers(0, len(placed)))]:
        kept.remove(shape)
        same = (each.vcpus for each in kept if each.level == shape.level)
        view.release(0, shape, max(same, default=0))
    left = deepcopy(EMPTY)
    for shape in sorted(kept, key=lambda shape: shape.vcpus):
        left.place(shape)
    view.set_status(1, left.status)
    assert columns_of(view, 0) == columns_of(view, 1)
    assert set(view.levels_of(0)) == set(view.levels_of(1))
    for level in LEVELS:
        of = view.level_columns(level)
        assert (of.parts[0], of.owned[0]) == (of.parts[1], of.owned[1])


@given(hosts(), shapes)
def test_a_release_undoes_a_reservation(host: Host, shape: Shape) -> None:
    for level, (_, vcpus, largest) in host.levels.items():  # none owns more than it needs
        host.levels[level] = (cpus_needed(vcpus, largest, level), vcpus, largest)
    view = view_of(host, host)
    view.reserve(0, shape)
    seen = view.changes
    view.release(0, shape, host.levels.get(shape.level, (0, 0, 0))[2])
    assert view.changed_since(seen) == [0]
    assert columns_of(view, 0) == columns_of(view, 1)
    assert view.levels_of(0) == view.levels_of(1)


@pytest.mark.parametrize(
    ("shape", "largest"),
    [
        (Shape(5, 1, Fraction(2)), 0),
        (Shape(4, 1, Fraction(3)), 0),
        (Shape(2, 1, Fraction(2)), 3),
        (Shape(1, 1, Fraction(9, 7)), 0),
    ],
    ids=["too large", "another level", "largest is larger than what is left", "unknown level"],
)
def test_a_vm_that_cannot_be_there_is_not_released(shape: Shape, largest: int) -> None:
    host = Host(8, 8_192, seen=True)
    host.place(Shape(4, 1, Fraction(2)))
    view = view_of(host, host)
    with pytest.raises(ValueError, match="host 'h0' has no VM of"):
        view.release(0, shape, largest)
    assert columns_of(view, 0) == columns_of(view, 1)


@given(hosts(), hosts())
def test_a_status_starts_from_scratch(before: Host, after: Host) -> None:
    view, fresh = view_of(before), view_of(after)
    view.set_status(0, after.status)
    assert columns_of(view, 0) == columns_of(fresh, 0)
    for level in LEVELS:
        for name in ("parts", "owned"):
            held, expected = view.level_cells(level), fresh.level_cells(level)
            assert getattr(held, name)[0] == getattr(expected, name)[0]


@given(hosts(), shapes, st.booleans())
def test_as_many_fit_as_can_be_placed_one_by_one(host: Host, shape: Shape, preferred: bool) -> None:
    view = view_of(host, host)
    view.set_open(1, False)
    view.set_preferred(0, preferred)
    placed = 0
    while host.has_room(shape):
        host.place(shape)
        placed += 1
    assert fits(view, shape).tolist() == [placed, 0]


def test_a_host_takes_nothing_before_it_said_what_it_has() -> None:
    view = ClusterView()
    row = view.add("h")
    view.set_open(row, True)
    assert not view.is_open(row)
    assert fits(view, SMALL).tolist() == [0]
    assert view.free(row)[1] <= 1
    view.set_status(row, Host(4, 4_096, seen=True).status)
    assert view.is_open(row)
    assert fits(view, SMALL).tolist() == [4]


def test_a_row_stays_its_hosts_whatever_its_name() -> None:
    view = ClusterView()
    assert [view.add(name) for name in ("a", "b", "a")] == [0, 1, 0]
    view.rename(0, "c")
    view.rename(0, "c")
    assert (view.names, view.rows) == (["c", "b"], {"b": 1, "c": 0})
    with pytest.raises(ValueError, match="'b' already has a row"):
        view.rename(0, "b")


def test_growing_keeps_what_is_known() -> None:
    view = view_of(Host(8, 8_192, seen=True))
    view.reserve(0, Shape(3, 1_024, Fraction(3, 2)))
    before = columns_of(view, 0)
    for number in range(5_000):
        view.add(f"more{number}")
    assert len(view) == 5_001
    assert columns_of(view, 0) == before
    assert view.levels_of(0) == [(Fraction(3, 2), 3, 3)]
    assert gained_cpus(view.level_cells(Fraction(3, 2)), 0, Shape(1, 1, Fraction(3, 2)), max) == 0
    assert int(fits(view, SMALL).sum()) == 5


def test_changes_are_told_to_those_who_looked_before() -> None:
    view = view_of(Host(8, 8_192, seen=True), Host(8, 8_192, seen=True))
    seen = view.changes
    assert view.changed_since(seen) == []
    view.reserve(1, SMALL)
    view.set_open(0, True)  # it was
    view.set_open(0, False)
    view.set_preferred(1, False)
    assert view.changed_since(seen) == [1, 0, 1]
    for _ in range(20_000):
        view.reserve(1, SMALL)
    assert view.changed_since(seen) is None
    assert view.changed_since(view.changes - 3) == [1, 1, 1]


def test_a_level_nobody_has_any_more_is_forgotten() -> None:
    view = view_of(Host(8, 8_192, seen=True))
    unused = view.level_columns(Fraction(9, 7))
    view.reserve(0, Shape(2, 1, Fraction(9, 7)))
    assert view.level_columns(Fraction(9, 7)) is not unused
    view.set_status(0, Host(8, 8_192, seen=True).status)
    assert view.level_columns(Fraction(9, 7)) is unused
    assert unused.parts[0] == 0


HUGE = 10**15


@pytest.mark.parametrize(
    ("status", "most"),
    [
        (HostStatus("h", 1, 0, 0, 0, ()), 0),
        (HostStatus("h", 1, 0, 8_192, 0, ()), 0),
        (HostStatus("h", 1, 8, 0, 0, ()), 0),
        (HostStatus("h", 1, HUGE, HUGE, 0, ()), 1 << 20),
        (HostStatus("h", 1, 8, 8_192, HUGE, ()), 0),
        (HostStatus("h", 1, 8, 8_192, 0, (LevelStatus(Fraction(1), HUGE, HUGE, 1),)), 0),
        (HostStatus("h", 1, 8, 8_192, 0, (), HUGE), 0),
        (
            HostStatus(
                *("h", 1, 512, 65_536, 0),
                tuple(LevelStatus(Fraction(100 + n, 100), 1, 1, 1) for n in range(300)),
            ),
            64,
        ),
    ],
    ids=["nothing", "no CPU", "no memory", "all", "over", "level", "overhead", "levels"],
)
def test_what_a_host_claims_does_no_harm(status: HostStatus, most: int) -> None:
    view = ClusterView()
    view.set_status(view.add("h"), status)
    assert fits(view, SMALL)[0] <= most
    view.reserve(0, Shape(4_096, 1 << 30, Fraction(63_999, 1_000)))
    assert all(np.isfinite(value) for value in columns_of(view, 0).values())
    assert fits(view, SMALL)[0] <= most
