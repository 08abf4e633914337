"""What is read of domains, ours and those that anybody defined."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from schedulercommon.levels import PREMIUM
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.domainfacts import DomainDisk, found_vm, memory_mib, read_domain
from schedulerlocal.adapters.domainxml import domain_xml
from schedulerlocal.core.adoption import FoundVm
from schedulerlocal.core.topology import Cpus
from tests.domainparts import METADATA, PREMIUM_PARTS, UUID, breaches

FOREIGN = """
<domain type='kvm' id='3'>
  <name>theirs</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <memory unit='KiB'>4194304</memory>
  <currentMemory unit='KiB'>1048576</currentMemory>
  <vcpu placement='static' cpuset='0-7,^3' current='2'>4</vcpu>
  <cputune><vcpupin vcpu='1' cpuset='9'/></cputune>
  <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>
  <cpu mode='custom' match='exact'><model fallback='forbid'>EPYC</model></cpu>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='/srv/a &amp; b.qcow2'/><target dev='vda'/>
    </disk>
    <disk type='block' device='disk'>
      <source dev='/dev/vg/x'/><target dev='vdb'/><shareable/>
    </disk>
    <disk type='file' device='cdrom'><target dev='hda'/></disk>
    <disk type='file' device='cdrom'><source file='/srv/a.iso'/><target dev='hdb'/></disk>
  </devices>
</domain>
"""
BY_VCPU = """
    <vcpu current='2'>3</vcpu>
    <vcpus>
      <vcpu id='0' enabled='yes'/><vcpu id='1' enabled='no'/><vcpu id='2' enabled='yes'/>
    </vcpus>
    <cputune>
      <vcpupin vcpu='0' cpuset='1'/><vcpupin vcpu='1' cpuset='7'/>
      <vcpupin vcpu='2' cpuset='2'/><vcpupin vcpu='9' cpuset='3'/>
    </cputune>
"""


def minimal(inside: str) -> str:
    return f"<domain><name>x</name><memory>1024</memory>{inside}</domain>"


def test_a_foreign_domain_is_read() -> None:
    assert breaches(FOREIGN.strip()) == []
    facts = read_domain(FOREIGN)
    assert (facts.name, facts.uuid) == ("theirs", "11111111-2222-3333-4444-555555555555")
    assert (facts.vcpus, facts.max_vcpus) == (2, 4)
    assert (facts.memory_mib, facts.max_memory_mib) == (1024, 4096)
    assert facts.pins == ((0, 1, 2, 4, 5, 6, 7), (9,), (0, 1, 2, 4, 5, 6, 7), (0, 1, 2, 4, 5, 6, 7))
    assert not facts.evenly_pinned
    assert (facts.machine, facts.cpu_model) == ("pc-i440fx-7.2", "EPYC")
    assert facts.disks == (
        DomainDisk(path="/srv/a & b.qcow2", format="qcow2"),
        DomainDisk(path="/dev/vg/x", shared=True),
        DomainDisk(path="/srv/a.iso", read_only=True),
    )
    assert facts.metadata is None
    assert facts.damage is None


def test_a_foreign_vm_is_counted_at_level_1_with_its_boot_maximum() -> None:
    assert found_vm(read_domain(FOREIGN)) == FoundVm(
        spec=VmSpec(name="theirs", vcpus=2, memory_mib=4096, level=PREMIUM, max_vcpus=4),
        vcpus=2,
        boot_memory_mib=4096,
        pinned=(0, 1, 2, 4, 5, 6, 7, 9),
        foreign=True,
    )


def test_our_domain_is_read() -> None:
    facts = read_domain(domain_xml(PREMIUM_PARTS))
    assert facts.uuid == UUID
    assert (facts.vcpus, facts.max_vcpus) == (2, 4)
    assert (facts.memory_mib, facts.max_memory_mib) == (2048, 8192)
    assert facts.pins == ((2, 3, 10, 11),) * 4
    assert facts.evenly_pinned
    assert facts.emulator_cpus == (0, 8)
    assert facts.disks == (DomainDisk(path=METADATA.disk_path, format="qcow2"),)
    assert facts.metadata == PREMIUM_PARTS.metadata
    assert found_vm(facts) == FoundVm(
        spec=PREMIUM_PARTS.metadata.spec,
        vcpus=2,
        boot_memory_mib=8192,
        pinned=(2, 3, 10, 11),
        memory_nodes=METADATA.memory_nodes,
    )


def test_the_larger_size_counts_while_a_resize_waits() -> None:
    live = read_domain(domain_xml(PREMIUM_PARTS))
    config = replace(live, vcpus=4, max_memory_mib=16_384)
    for one, other in ((live, config), (config, live)):
        found = found_vm(one, other)
        assert (found.vcpus, found.boot_memory_mib) == (4, 16_384)


def test_a_copy_of_our_domain_under_another_name_is_not_ours() -> None:
    xml = domain_xml(PREMIUM_PARTS).replace("<name>web-1</name>", "<name>copy</name>")
    facts = read_domain(xml)
    assert facts.metadata is None
    assert facts.damage is not None
    assert "'copy'" in facts.damage.sentence
    assert found_vm(facts).foreign


@pytest.mark.parametrize(
    ("amount", "unit", "mib"),
    [
        ("2097152", None, 2048),
        ("2097152", "KiB", 2048),
        ("2097152", "k", 2048),
        ("1", "KiB", 1),
        ("1000000", "KB", 954),
        ("1048577", "b", 2),
        ("1048576", "bytes", 1),
        ("7", "M", 7),
        ("7", "mib", 7),
        ("100", "MB", 96),
        ("2", "G", 2048),
        ("2", "GiB", 2048),
        ("2", "GB", 1908),
        ("1", "TiB", 1 << 20),
        ("1", "PiB", 1 << 30),
        ("1", "EB", 953_674_316_407),
        (" 5 ", "MiB", 5),
    ],
)
def test_memory_in_all_units_of_libvirt(amount: str, unit: str | None, mib: int) -> None:
    element = ET.Element("memory", {} if unit is None else {"unit": unit})
    element.text = amount
    assert memory_mib(element) == mib


@pytest.mark.parametrize(
    ("inside", "pinned", "vcpus"),
    [
        ("", (), 1),
        ("<vcpu>2</vcpu>", (), 2),
        ("<vcpu cpuset='1,3'>2</vcpu>", (1, 3), 2),
        ("<vcpu cpuset='0-3,^1,^2'>2</vcpu>", (0, 3), 2),
        ("<vcpu>2</vcpu><cputune><vcpupin vcpu='0' cpuset='1'/></cputune>", (), 2),
        (
            "<vcpu current='1'>2</vcpu><cputune><vcpupin vcpu='0' cpuset='1'/></cputune>",
            (1,),
            1,
        ),
        (BY_VCPU, (1, 2), 2),
    ],
    ids=["nothing", "no pins", "cpuset", "taken out", "one unpinned", "unplugged", "by vCPU"],
)
def test_pins(inside: str, pinned: Cpus, vcpus: int) -> None:
    facts = read_domain(minimal(inside))
    assert (facts.pinned, facts.vcpus) == (pinned, vcpus)


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<domain>",
        "<network><name>x</name><memory>1</memory></network>",
        "<domain><memory>1024</memory></domain>",
        "<domain><name>x</name></domain>",
        "<domain><name>x</name><memory>lots</memory></domain>",
        "<domain><name>x</name><memory unit='acres'>1</memory></domain>",
        minimal("<vcpu>-1</vcpu>"),
        minimal("<vcpu>99999999999</vcpu>"),
        minimal("<vcpu cpuset='all'>1</vcpu>"),
        minimal("<cputune><vcpupin vcpu='x' cpuset='1'/></cputune>"),
    ],
)
def test_what_is_no_domain_is_told_in_a_sentence(xml: str) -> None:
    with pytest.raises(ValueError, match=r"libvirt.*cannot be used: |not XML"):
        read_domain(xml)
