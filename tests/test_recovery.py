"""What a local scheduler keeps to when the journal, the hypervisor or the clock lets it down."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from schedulercommon.errors import HypervisorError, RequestCancelled, StoreUnavailable
from schedulercommon.model import VmState
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.simulated import SimulatedHypervisor
from schedulerlocal.adapters.simulatedfaults import parse_faults
from schedulerlocal.agent import Resized
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.lifecycle import Verb
from schedulerlocal.ports import Domain
from tests.agentrig import ONE, Rig, full_disk, rig, spec


@asynccontextmanager
async def restarted(
    directory: Path, domains: list[Domain], faults: str = "", now_s: float = 1_000.0
) -> AsyncIterator[Rig]:
    made = Rig(directory, faults, True, 30.0)
    made.keeper._now_s = lambda: now_s  # noqa: SLF001
    for each in domains:
        made.hypervisor.gain(each.found, each.state)
    await made.keeper.start()
    try:
        yield made
    finally:
        await made.agent.close()


def next_point(made: Rig, *faults: str) -> None:
    """Arm *faults* for the next point."""
    point = made.hypervisor.points + 1
    made.hypervisor.arm(parse_faults(",".join(each.format(point) for each in faults)))


async def under_way(made: Rig) -> None:
    """Wait until the hypervisor has come to its next point."""
    points = made.hypervisor.points
    async with asyncio.timeout(5):
        while made.hypervisor.points == points:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0)


async def test_a_refused_remove_stays_refused_though_the_disk_was_full(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.agent.deploy(spec("a"))
        next_point(made, "slow@{}:0.01", "fail@{}")
        removing = asyncio.create_task(made.agent.remove("a"))
        await under_way(made)
        with full_disk(tmp_path), pytest.raises(HypervisorError):
            await removing
        await made.agent.deploy(spec("b"))
        domains = await made.hypervisor.domains()
    async with restarted(tmp_path, domains) as made:
        assert sorted(made.agent.states) == ["a", "b"]


async def test_a_remove_finished_at_the_start_is_not_undone_by_a_late_deploy(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as made:
        await made.agent.deploy(spec("a", request_id="id-1"))
        domains = await made.hypervisor.domains()
        made.journal.begin("remove", spec("a", request_id="id-1"))
    async with restarted(tmp_path, domains) as made:
        assert made.agent.states == {}
        with pytest.raises(RequestCancelled, match=r"'id-1' .* removed since; .* new id"):
            await made.agent.deploy(spec("a", request_id="id-1"))
        assert made.hypervisor.prepared == set()
        assert (await made.agent.deploy(spec("a", request_id="id-2"))).created


async def test_a_remove_that_cannot_be_finished_does_not_keep_the_service_from_starting(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as made:
        await made.agent.deploy(spec("a"))
        domains = await made.hypervisor.domains()
        made.journal.begin("remove", spec("a"))
    async with restarted(tmp_path, domains, "fail@1") as made:
        assert list(made.agent.states) == ["a"]
        await made.check()
        await made.agent.remove("a")


async def test_one_vm_that_cannot_be_removed_does_not_end_the_pass(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.agent.deploy(spec("a", request_id="id-1"))
        (domain,) = await made.hypervisor.domains()
        await made.agent.remove("a")
        # its deploy had been answered with a failure, and then it turns up
        made.journal.end(domain.found.spec, "undone", 0, None)
        made.hypervisor.gain(domain.found)
        other = spec("other", request_id="id-2")
        made.hypervisor.gain(replace(domain.found, spec=other))
        next_point(made, "fail@{}")
        await made.settle()
        assert list(made.agent.states) == ["other"]
        await made.settle()
        await made.check()


class Moody(SimulatedHypervisor):
    """Tells *problem*, once, instead of which VMs there are."""

    problem: Exception | None = None

    async def domains(self) -> list[Domain]:
        problem, self.problem = self.problem, None
        if problem is not None:
            raise problem
        return await super().domains()


@asynccontextmanager
async def moody(directory: Path) -> AsyncIterator[tuple[Rig, Moody]]:
    made = Rig(directory, "", True, 30.0)
    hypervisor = Moody(made.keeper.state.host, now_s=lambda: 0.0, sleep=asyncio.sleep)
    made.hypervisor = made.keeper.hypervisor = hypervisor
    await made.keeper.start()
    try:
        yield made, hypervisor
    finally:
        await made.agent.close()


@pytest.mark.parametrize("problem", [HypervisorError("gone"), KeyError("a bug")], ids=repr)
async def test_the_watch_outlives_what_goes_wrong(problem: Exception, tmp_path: Path) -> None:
    async with moody(tmp_path) as (made, hypervisor):
        hypervisor.problem = problem
        watch = asyncio.create_task(made.keeper.keep_watch(0.001))
        late = spec("late", 1, ONE)
        hypervisor.gain(FoundVm(spec=late, vcpus=1, boot_memory_mib=64, foreign=True))
        async with asyncio.timeout(5):
            while "late" not in made.agent.states:
                assert not watch.done()
                await asyncio.sleep(0)
        assert hypervisor.problem is None
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def test_a_change_that_was_made_is_not_told_as_a_failure(tmp_path: Path) -> None:
    async with moody(tmp_path) as (made, hypervisor):
        await made.agent.deploy(spec("a"))
        hypervisor.problem = HypervisorError("libvirtd is being restarted")
        assert await made.agent.resize("a", 1, None) == Resized("next-boot", "unchanged")
        assert hypervisor.problem is None
        hypervisor.problem = HypervisorError("again")
        assert await made.agent.power("a", Verb.REBOOT) is VmState.RUNNING
        assert hypervisor.problem is None
        await made.settle()
        await made.check()
        assert made.agent.state.vm("a").vcpus == 1


async def test_the_generation_never_falls_though_the_clock_does(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.agent.deploy(spec("a"))
        for verb in (Verb.SUSPEND, Verb.RESUME, Verb.SUSPEND):
            await made.agent.power("a", verb)
        generation = made.agent.state.generation
        domains = await made.hypervisor.domains()
    async with restarted(tmp_path, domains, now_s=10.0) as made:
        assert made.agent.state.generation > generation


async def test_a_vm_just_found_takes_verbs_while_it_is_being_set_right(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        found = FoundVm(spec=spec("a", 1, ONE), vcpus=1, boot_memory_mib=64, pinned=(3, 4))
        made.hypervisor.gain(found)
        next_point(made, "slow@{}:0.01")
        settling = asyncio.create_task(made.settle())
        await under_way(made)
        assert made.agent.state.level_of("a") == ONE
        assert await made.agent.power("a", Verb.SUSPEND) is VmState.SUSPENDED
        await settling
        await made.settle()
        await made.check()


def test_a_journal_that_cannot_be_shortened_is_still_written(tmp_path: Path) -> None:
    made = FileJournal(tmp_path)
    made.read()
    wide = {ONE: tuple(range(2000))}
    (tmp_path / "journal.new").mkdir()
    for generation in range(1000):
        made.note(generation, wide)
    assert (tmp_path / "journal.jsonl").stat().st_size > 8 << 20
    (tmp_path / "journal.new").rmdir()
    for generation in range(1000, 2000):
        made.note(generation, wide)
    made.close()
    assert (tmp_path / "journal.jsonl").stat().st_size < 9 << 20
    again = FileJournal(tmp_path)
    assert again.read().generation == 1999
    again.close()


def test_what_a_full_disk_kept_out_of_the_journal_comes_later(tmp_path: Path) -> None:
    made = FileJournal(tmp_path)
    made.read()
    with full_disk(tmp_path):
        for write in (
            lambda: made.note(5, {ONE: (1,)}),
            lambda: made.end(spec("a", request_id="id-1"), "deployed", 6, None),
            lambda: made.begin("deploy", spec("b")),
        ):
            with pytest.raises(StoreUnavailable):
                write()
    made.note(7, {})
    made.close()
    again = FileJournal(tmp_path)
    remembered = again.read()
    assert (remembered.generation, dict(remembered.owned)) == (7, {ONE: (1,)})
    assert (remembered.begun, again.outcome("id-1")) == ((), "deployed")
    again.close()


def test_a_record_torn_anywhere_costs_only_itself(tmp_path: Path) -> None:
    made = FileJournal(tmp_path)
    made.read()
    path = tmp_path / "journal.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    rooms = range(1, 400)
    told = 0
    for room in rooms:
        for part in (3, room):
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + part, before[1]))
            try:
                made.begin("deploy", spec("b"))
            except StoreUnavailable:
                told += 1
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
        made.begin("resize", spec("c"))
    made.close()
    assert len(rooms) < told < 2 * len(rooms)
    assert path.read_text().count('\n{"begin":"resize"') == len(rooms)
