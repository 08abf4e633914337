"""What was given up because libvirt took too long, and happened, or did not, all the same."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from schedulercommon.errors import HypervisorError
from schedulerlocal.core.steps import Remove
from tests.hypervisorrig import WIDE, Rig


@pytest.mark.parametrize("fails", [False, True], ids=["it happens", "it does not"])
async def test_a_removal_given_up_takes_the_disk_if_the_vm_goes(
    tmp_path: Path, fails: bool
) -> None:
    if not shutil.which("qemu-img"):
        pytest.fail("disks are made with qemu-img: run `make setup`", pytrace=False)
    rig = await Rig(tmp_path).open()
    vm = await rig.make(rig.vm("old"))
    rig.link.holds = asyncio.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await rig.hypervisor.perform(Remove(vm, WIDE))
    assert rig.overlays() == 1
    looking = asyncio.create_task(rig.hypervisor.domains())
    await asyncio.sleep(0)
    rig.link.fails_at = 1 if fails else None
    rig.link.holds.set()
    assert [each.name for each in await looking] == ([vm.name] if fails else [])
    assert rig.overlays() == (1 if fails else 0)
    # whoever undefines it later may want its disk
    assert list((tmp_path / "notes").iterdir()) == []
    assert rig.link.held is not None
    assert isinstance(rig.link.held.exception(), HypervisorError) is fails
    rig.link.holds = rig.link.fails_at = None
    await rig.hypervisor.perform(Remove(vm, WIDE))
    assert (rig.link.domains, rig.overlays()) == ({}, 0)
    await rig.hypervisor.close()
