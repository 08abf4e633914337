"""The operator's own domain: what is taken over, what never is, and what is no template at all."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.errors import ConfigError
from schedulerlocal.adapters.domaintemplate import ALLOWED, MARK, parse_template, read_template
from schedulerlocal.adapters.domainxml import DomainParts, domain_xml
from tests.domainparts import EMULATED_PARTS, GOLDEN, METADATA, PARTS, breaches, template_of

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"


def built_on(inside: str = "", devices: str = "", parts: DomainParts = PARTS) -> ET.Element:
    xml = domain_xml(parts, template_of(inside, devices))
    assert breaches(xml) == []
    return ET.fromstring(xml)


# --- what never survives --------------------------------------------------------------------------

HOSTILE_OUTSIDE = {
    "commandline": f"<commandline xmlns='{QEMU}'><arg value='-hda'/></commandline>",
    "override": f"<override xmlns='{QEMU}'><device alias='x'/></override>",
    "capabilities": f"<capabilities xmlns='{QEMU}'><add capability='x'/></capabilities>",
    "bootloader": "<bootloader>/usr/bin/pygrub</bootloader>",
    "seclabel": "<seclabel type='none'/>",
    "sysinfo": "<sysinfo type='fwcfg'><entry name='x' file='/etc/shadow'/></sysinfo>",
    "idmap": "<idmap><uid start='0' target='0' count='1'/></idmap>",
    "launchSecurity": "<launchSecurity type='sev'/>",
    "blkiotune": "<blkiotune><device><path>/dev/sda</path></device></blkiotune>",
    "iothreads": "<iothreads>4</iothreads>",
    "vcpus": "<vcpus><vcpu id='0' enabled='yes'/></vcpus>",
    "another's vcpu": "<vcpu cpuset='0-63'>64</vcpu>",
    "another's name": "<name>golden</name><uuid>11111111-2222-3333-4444-555555555555</uuid>",
    "strict": "<numatune><memory mode='strict' nodeset='0'/></numatune>",
    "partition": "<resource><partition>/elsewhere</partition></resource>",
    "metadata": "<metadata><v:vm xmlns:v='urn:vmstack:domain' format='1'>{}</v:vm></metadata>",
    "pages": "<memoryTune/><memtune><hard_limit>1</hard_limit></memtune>",
    "not in libvirt": "<x:hostdev xmlns:x='urn:x'><devices/></x:hostdev><![CDATA[<hostdev/>]]>",
}
HOSTILE_DEVICES = {
    "emulator": "<emulator>/tmp/evil</emulator>",
    "hostdev": "<hostdev mode='subsystem' type='pci'><source/></hostdev>",
    "filesystem": "<filesystem><source dir='/'/><target dir='r'/></filesystem>",
    "cdrom": "<disk device='cdrom'><source file='/etc/shadow'/><target dev='sda'/></disk>",
    "lun": "<disk device='lun' type='block'><source dev='/dev/sda'/><target dev='sda'/></disk>",
    "serial": "<serial type='file'><source path='/etc/shadow'/></serial>",
    "console": "<console type='tcp'><source mode='bind' host='0.0.0.0' service='1'/></console>",
    "parallel": "<parallel type='dev'><source path='/dev/sda'/></parallel>",
    "channel": "<channel type='unix'><source path='/run/x'/></channel>",
    "graphics": "<graphics type='vnc' listen='0.0.0.0' passwd='x'/>",
    "video": "<video><model type='qxl'><resolution/></model></video>",
    "redirdev": "<redirdev bus='usb' type='tcp'/>",
    "smartcard": "<smartcard mode='host'/>",
    "tpm": "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
    "shmem": "<shmem name='x'><size unit='M'>4</size></shmem>",
    "memory": "<memory model='nvdimm'><source><path>/etc/shadow</path></source></memory>",
    "nvram": "<nvram><address type='spapr-vio'/></nvram>",
    "input": "<input type='evdev'><source dev='/dev/input/event0'/></input>",
    "lease": "<lease><target path='/etc/shadow'/></lease>",
    "vsock": "<vsock model='virtio'><cid auto='yes'/></vsock>",
    "sound": "<sound model='ich9'/><audio id='1' type='file' path='/x'/>",
    "memballoon": "<memballoon model='none'/>",
    "crypto": "<crypto model='virtio' type='qemu'/>",
    "commandline": f"<commandline xmlns='{QEMU}'><arg value='-hda'/></commandline>",
}


def test_the_table_has_nothing_of_what_is_hostile() -> None:
    assert not ALLOWED.keys() & HOSTILE_OUTSIDE.keys()
    assert not ALLOWED.keys() & {f"devices/{name}" for name in HOSTILE_DEVICES}
    listed = {path.rpartition("/")[2] for path in ALLOWED}
    assert not listed & {"source", "address", "backingStore", "loader", "nvram", "dtb", "alias"}


@pytest.mark.parametrize("hostile", HOSTILE_OUTSIDE.values(), ids=HOSTILE_OUTSIDE.keys())
def test_nothing_hostile_beside_the_devices_survives(hostile: str) -> None:
    assert domain_xml(PARTS, template_of(hostile)) == domain_xml(PARTS, template_of(""))


@pytest.mark.parametrize("hostile", HOSTILE_DEVICES.values(), ids=HOSTILE_DEVICES.keys())
def test_no_hostile_device_survives(hostile: str) -> None:
    assert domain_xml(PARTS, template_of("", hostile)) == domain_xml(PARTS, template_of(""))


@pytest.mark.parametrize(
    "inside",
    [
        "<os><type>hvm</type><loader>/etc/shadow</loader></os>",
        "<os><type>hvm</type><nvram template='/etc/shadow'>/x</nvram></os>",
        "<os><type>hvm</type><dtb>/etc/shadow</dtb></os>",
        "<os><type>hvm</type><acpi><table type='slic'>/etc/shadow</table></acpi></os>",
        "<os><type>exe</type><init>/etc/shadow</init></os>",
        "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>",
        "<features><xen><passthrough state='on'/></xen></features>",
        "<cpu><numa><cell id='0' cpus='0' memory='9'/></numa></cpu>",
    ],
)
def test_no_other_file_survives_inside_what_is_allowed(inside: str) -> None:
    domain = built_on(inside)
    text = ET.tostring(domain, encoding="unicode")
    assert "/etc/shadow" not in text
    for tag in ("loader", "nvram", "dtb", "table", "init", "source", "passthrough", "numa"):
        assert domain.find(f"os//{tag}") is None
        assert domain.find(f"features//{tag}") is None
        assert domain.find(f"memoryBacking//{tag}") is None
        assert domain.find(f"cpu//{tag}") is None
    assert domain.findtext("os/type") == "hvm"


def test_what_is_left_out_is_told_once() -> None:
    content = (GOLDEN / "template-rich.in.xml").read_bytes()
    told = parse_template(content, Path("/t.xml")).left_out
    assert len(told) == len(set(told))
    assert {
        *("devices/disk", "devices/hostdev", "devices/filesystem", "devices/graphics"),
        *("os/loader", "os/nvram", "memoryBacking/locked", "devices/rng/backend/text()"),
        *("seclabel", f"{{{QEMU}}}commandline", "devices/controller/address"),
    } <= set(told)
    # what a VM's own parts say in any case
    assert not {"name", "uuid", "vcpu", "metadata", "devices/emulator", "@type"} & set(told)


# --- what does survive ----------------------------------------------------------------------------


def test_kernel_initrd_and_command_line_are_kept() -> None:
    domain = built_on(
        "<os><type arch='x86_64' machine='pc'>hvm</type><kernel>/srv/vmlinuz</kernel>"
        "<initrd>/srv/initrd</initrd><cmdline>a=1 &amp; b</cmdline></os>"
    )
    found = {path: domain.findtext(f"os/{path}") for path in ("kernel", "initrd", "cmdline")}
    assert found == {"kernel": "/srv/vmlinuz", "initrd": "/srv/initrd", "cmdline": "a=1 & b"}


def test_machine_and_cpu_of_the_template_win_over_the_settings() -> None:
    parts = replace(PARTS, machine="q35", cpu_model="EPYC")
    inside = "<os><type machine='pc'>hvm</type></os><cpu mode='host-passthrough'/>"
    domain = built_on(inside, parts=parts)
    assert [each.get("machine") for each in domain.iter("type")] == ["pc"]
    assert [each.get("mode") for each in domain.iter("cpu")] == ["host-passthrough"]
    bare = built_on("<os><type>hvm</type></os><cpu><topology sockets='9'/></cpu>", parts=parts)
    assert [each.get("machine") for each in bare.iter("type")] == ["q35"]
    assert bare.findtext("cpu/model") == "EPYC"
    assert [each.get("sockets") for each in bare.iter("topology")] == ["1"]


def test_what_a_template_does_not_say_is_as_without_one() -> None:
    assert domain_xml(PARTS, template_of("")) == domain_xml(PARTS)
    assert domain_xml(EMULATED_PARTS, template_of("")) == domain_xml(EMULATED_PARTS)


def test_a_template_serves_many_domains() -> None:
    template = template_of("<title>t</title>", "<disk><target dev='sdq' bus='scsi'/></disk>")
    before = ET.tostring(template)
    first = domain_xml(PARTS, template)
    assert domain_xml(PARTS, template) == first
    assert ET.tostring(template) == before


DISKS = """
    <disk type='file'><source file='/srv/one'/><target dev='sda' bus='sata'/></disk>
    <disk type='network'><source name='two'/><target dev='sdb' bus='scsi'/>{mark}
      <driver type='raw' cache='unsafe' io='threads'/><readonly/></disk>
    <disk type='file' device='disk'><source file='/srv/three'/><target dev='sdc'/></disk>
"""


@pytest.mark.parametrize(
    ("mark", "target", "cache"),
    [("", "sda", "none"), (f"<alias name='{MARK}'/>", "sdb", "unsafe")],
    ids=["the first", "the marked one"],
)
def test_one_disk_becomes_the_vms(mark: str, target: str, cache: str) -> None:
    domain = built_on("", DISKS.format(mark=mark))
    [disk] = domain.iter("disk")
    assert (disk.get("type"), disk.get("device")) == ("file", "disk")
    assert [each.attrib for each in disk.iter("source")] == [{"file": METADATA.disk_path}]
    assert [each.get("dev") for each in disk.iter("target")] == [target]
    [driver] = disk.iter("driver")
    assert (driver.get("type"), driver.get("cache")) == ("qcow2", cache)
    assert disk.find("readonly") is None


def test_the_first_card_becomes_the_vms_or_goes() -> None:
    cards = (
        "<interface type='hostdev'><source><address/></source><model type='e1000'/>"
        "<mac address='52:54:00:00:00:01'/><script path='/tmp/evil'/><filterref filter='f'/>"
        "</interface><interface type='user'/>"
    )
    [card] = built_on("", cards, replace(PARTS, network="bridge:br0")).iter("interface")
    assert card.get("type") == "bridge"
    assert [each.attrib for each in card.iter("source")] == [{"bridge": "br0"}]
    assert [each.get("address") for each in card.iter("mac")] == [METADATA.mac]
    assert {each.tag for each in card} == {"model", "filterref", "mac", "source"}
    assert built_on("", cards, replace(PARTS, network="none")).find("devices/interface") is None


def test_an_order_of_devices_takes_the_place_of_one_of_kinds() -> None:
    disk = "<disk><target dev='vda' bus='virtio'/><boot order='1'/></disk>"
    domain = built_on("<os><type>hvm</type><boot dev='network'/></os>", disk)
    assert [each.attrib for each in domain.iter("boot")] == [{"order": "1"}]


def test_parts_given_twice_are_taken_once() -> None:
    domain = built_on(
        "<os><type>hvm</type></os><os><kernel>/x</kernel></os>"
        "<devices><panic model='isa'/></devices><devices><panic model='hyperv'/></devices>"
        "<cpu mode='maximum'/><cpu mode='host-model'/>"
    )
    counted = Counter(child.tag for child in domain)
    assert set(counted.values()) == {1}
    assert domain.find("os/kernel") is None
    assert [each.get("model") for each in domain.iter("panic")] == ["isa"]


# --- whatever a template says ---------------------------------------------------------------------

TAGS = [
    *sorted({each for path in ALLOWED for each in path.split("/")}),
    *("source", "hostdev", "filesystem", "graphics", "emulator", "loader", "nvram", "alias"),
    *("serial", "console", "channel", "address", "backingStore", "seclabel", "metadata", "name"),
    *(f"{{{QEMU}}}commandline", f"{{{QEMU}}}arg"),
]
ATTRIBUTES = [
    *sorted(set().union(*ALLOWED.values()) - {"#", "*"}),
    *("file", "path", "template", "listen", f"{{{QEMU}}}value"),
]
VALUES = ("/etc/shadow", "disk", "cdrom", "usb", MARK, "1", "<>&\"'", "😀")
OURS_IN_DEVICES = Counter(["disk", "interface", "serial", "console", "channel", "memballoon"])
MAY_BE_THERE = {"controller", "rng", "panic", "watchdog", "iommu"}


NODES = st.tuples(
    st.integers(0, 9),
    st.sampled_from(TAGS) | st.sampled_from(["disk", "interface", "controller", "rng", "os"]),
    st.dictionaries(st.sampled_from(ATTRIBUTES), st.sampled_from(VALUES), max_size=2),
    st.sampled_from(("", *VALUES)),
)


@given(st.lists(NODES, max_size=20))
def test_no_template_adds_a_device_a_file_or_an_argument(
    nodes: list[tuple[int, str, dict[str, str], str]],
) -> None:
    domain = ET.Element("domain")
    placed = [ET.SubElement(domain, "devices"), domain]
    for parent, tag, attributes, text in nodes:
        element = ET.SubElement(placed[-1 - parent % len(placed)], tag, attributes)
        element.text = text
        placed.append(element)
    template = parse_template(ET.tostring(domain), Path("/t.xml")).domain
    for element in template.iter():
        assert "}" not in element.tag
        assert element.tag not in ("source", "hostdev", "loader", "emulator", "alias")
    built = ET.fromstring(domain_xml(PARTS, template))
    found = Counter(each.tag for each in built.findall("devices/*"))
    assert found - Counter({tag: found[tag] for tag in MAY_BE_THERE}) == OURS_IN_DEVICES
    assert len(built.findall("devices")) == 1
    sources = [each.attrib for each in built.iter("source")]
    assert sorted(sources, key=str) == [{"file": METADATA.disk_path}, {"network": "default"}]
    files = [each.get("file") for each in built.iter() if "file" in each.attrib]
    assert files == [METADATA.disk_path, PARTS.console_log]
    assert not any({"path", "listen", "template"} & set(each.attrib) for each in built.iter())
    spoken = {each.tag for each in built.iter() if each.text == "/etc/shadow"}
    assert spoken <= {path.rpartition("/")[2] for path, kept in ALLOWED.items() if "#" in kept}
    assert built.findtext("name") == PARTS.metadata.spec.name


# --- what is no template --------------------------------------------------------------------------

ENTITY = b'<!DOCTYPE domain [<!ENTITY x SYSTEM "file:///etc/shadow">]>'
LAUGHS = b"".join(
    [b"<!DOCTYPE domain [<!ENTITY a0 'ha'>"]
    + [b"<!ENTITY a%d '%s'>" % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 12)]
    + [b"]><domain><title>&a11;</title><devices/></domain>"]
)
WRONG = {
    "empty": (b"", "not XML"),
    "text": (b"hello", "not XML"),
    "cut short": (b"<domain><devices>", "not XML"),
    "two roots": (b"<domain><devices/></domain><domain/>", "not XML"),
    "undeclared entity": (b"<domain><title>&xxe;</title><devices/></domain>", "not XML"),
    "a null": (b"<domain>\0<devices/></domain>", "not XML"),
    "endlessly deep": (b"<domain>" * 100_000, "not XML"),
    "latin-1": ("<domain><title>é</title><devices/></domain>".encode("latin-1"), "UTF-8"),
    "utf-16": ("<domain><devices/></domain>".encode("utf-16"), "UTF-8"),
    "DOCTYPE": (b"<!DOCTYPE domain><domain><devices/></domain>", "DOCTYPE"),
    "external entity": (ENTITY + b"<domain><title>&x;</title><devices/></domain>", "DOCTYPE"),
    "external DTD": (b'<!DOCTYPE d SYSTEM "http://x/"><domain><devices/></domain>', "DOCTYPE"),
    "a billion laughs": (LAUGHS, "DOCTYPE"),
    "a network": (b"<network><devices/></network>", "<network>"),
    "namespaced": (b"<domain xmlns='urn:x'><devices/></domain>", "no <domain>"),
    "no devices": (b"<domain><name>x</name></domain>", "<devices>"),
    "huge": (b"<domain><devices/>" + b" " * (1 << 20) + b"</domain>", "larger"),
}


@pytest.mark.parametrize(("content", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_template_is_told_in_a_sentence(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "base.xml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as wrong:
        read_template(path)
    sentence = str(wrong.value)
    assert sentence.startswith(f"QEMU_TEMPLATE {path} ")
    assert says in sentence
    assert "mend" in sentence
    assert "\n" not in sentence


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("none.xml", "No such file"), (".", "regular"), ("pipe", "regular")):
        with pytest.raises(ConfigError, match=says):
            read_template(tmp_path / name)


def test_comments_a_bom_and_other_declarations_do_no_harm() -> None:
    content = (
        "\ufeff<?xml version='1.0' encoding='UTF-8'?><!-- <!DOCTYPE x> -->"
        "<domain><?pi x?><title>é😀</title><devices><!-- <hostdev/> --></devices></domain>"
    )
    domain = parse_template(content.encode(), Path("/t.xml")).domain
    assert domain.findtext("title") == "é😀"
    assert [each.tag for each in domain.iter()] == ["domain", "title", "devices"]
