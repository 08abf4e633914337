"""The domain a VM becomes: as agreed, as libvirt's schema has it, and never more than asked for."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schedulercommon.errors import BadRequest
from schedulerlocal.adapters.domainfacts import read_domain
from schedulerlocal.adapters.domainxml import DomainParts, cpu_shares, domain_xml
from tests.domainparts import (
    GOLDEN,
    METADATA,
    PARTS,
    PREMIUM_PARTS,
    breaches,
    golden_domains,
    readable,
    with_spec,
)

NASTY = (
    "<",
    ">",
    "&",
    '"',
    "'",
    "&lt;",
    "&xxe;",
    "&#0;",
    "]]>",
    "<![CDATA[",
    "<!--",
    "-->",
    "<?x",
    "</source></disk><hostdev/>",
    "' file='/etc/shadow",
    ",if=virtio,file=/etc/shadow",
    "{http://libvirt.org/schemas/domain/qemu/1.0}commandline",
    "../",
    "/etc/shadow",
    " ",
    "\n",
    "\r",
    "\t",
    "\0",
    "\x1b",
    "\x7f",
    "\x85",
    "\u2028",
    "é",
    "😀",
    "\ud800",
    "\ufffe",
)
UNFIT = (*map(chr, range(0x20)), "\x7f", "\ud800", "\udfff", "\ufffe", "\uffff")
nasty = st.lists(st.sampled_from(NASTY) | st.characters(), max_size=6).map("".join)
holdable = nasty.map(lambda text: "".join([each for each in text if fits(each)]))


def fits(character: str) -> bool:
    return character not in UNFIT and not 0xD800 <= ord(character) <= 0xDFFF


def shape(element: ET.Element) -> tuple[Any, ...]:
    """The elements and the names of their attributes: what a text must never change."""
    return (element.tag, tuple(sorted(element.attrib)), *[shape(child) for child in element])


def domain_of(parts: DomainParts) -> ET.Element:
    return ET.fromstring(domain_xml(parts))


def attribute(domain: ET.Element, path: str, name: str) -> str | None:
    element = domain.find(path)
    return None if element is None else element.get(name)


def test_there_is_a_golden_file_for_each_kind() -> None:
    names = {name for name, _, _ in golden_domains()}
    assert {"shared", "premium", "emulated", "template-kernel", "template-rich"} <= names
    assert {f"{name}.xml" for name in names} == {
        path.name for path in GOLDEN.iterdir() if not path.name.endswith(".in.xml")
    }


@pytest.mark.parametrize("name", [name for name, _, _ in golden_domains()])
def test_domain_is_the_golden_one_and_valid(name: str) -> None:
    parts, template = next(each[1:] for each in golden_domains() if each[0] == name)
    xml = domain_xml(parts, template)
    assert xml == domain_xml(parts, template)
    # `python -m tests.domainparts` writes the files anew
    assert readable(xml) == (GOLDEN / f"{name}.xml").read_text()
    assert breaches(xml) == []


def test_the_schema_is_one_that_refuses() -> None:
    wrong = domain_xml(PARTS).replace('mode="restrictive"', 'mode="wishful"')
    assert wrong != domain_xml(PARTS)
    assert breaches(wrong)


# --- what is agreed -------------------------------------------------------------------------------


def test_every_vcpu_up_to_the_maximum_is_pinned_and_so_is_the_emulator() -> None:
    domain = domain_of(PREMIUM_PARTS)
    pins = [(pin.get("vcpu"), pin.get("cpuset")) for pin in domain.iter("vcpupin")]
    assert pins == [(str(vcpu), "2-3,10-11") for vcpu in range(4)]
    assert attribute(domain, "cputune/emulatorpin", "cpuset") == "0,8"
    assert attribute(domain_of(PARTS), "cputune/emulatorpin", "cpuset") == "4-7"


def test_maximum_and_present_size_are_told_apart() -> None:
    domain = domain_of(PREMIUM_PARTS)
    assert domain.findtext("vcpu") == "4"
    assert attribute(domain, "vcpu", "current") == "2"
    assert attribute(domain, "cpu/topology", "cores") == "4"
    assert (domain.findtext("memory"), domain.findtext("currentMemory")) == ("8192", "2048")


@pytest.mark.parametrize(
    ("vcpus", "level", "shares"),
    [
        (1, "1", 100),
        (2, "2", 100),
        (3, "4/3", 225),
        (4, "3", 133),
        (1, "64", 2),
        (3, "64", 5),
        (100, "1", 10_000),
        (4096, "1", 10_000),
    ],
)
def test_shares_are_the_cpus_paid_for(vcpus: int, level: str, shares: int) -> None:
    assert cpu_shares(vcpus, Fraction(level)) == shares
    parts = with_spec(vcpus=vcpus, max_vcpus=vcpus, level=Fraction(level), runs_at=Fraction(level))
    assert domain_of(parts).findtext("cputune/shares") == str(shares)


@pytest.mark.parametrize(
    ("bought", "runs_at", "kept_apart"),
    [("1", "1", True), ("2", "1", True), ("3/2", "3/2", False), ("64", "2", False)],
)
def test_pages_are_never_shared_at_level_1_only(
    bought: str, runs_at: str, kept_apart: bool
) -> None:
    domain = domain_of(with_spec(level=Fraction(bought), runs_at=Fraction(runs_at)))
    assert (domain.find("memoryBacking/nosharepages") is not None) is kept_apart
    assert (domain.find("memoryBacking") is not None) is kept_apart


def test_memory_nodes_are_asked_for_and_never_insisted_on() -> None:
    tuned = domain_of(replace(PARTS, nodes=(3, 0, 1)))
    assert [child.attrib for child in tuned.findall("numatune/*")] == [
        {"mode": "restrictive", "nodeset": "0-1,3"}
    ]
    assert domain_of(replace(PARTS, nodes=())).find("numatune") is None


@pytest.mark.parametrize(
    ("kind", "asked", "mode", "model"),
    [
        ("kvm", "", "host-model", None),
        ("qemu", "", "maximum", None),
        ("kvm", "host-passthrough", "host-passthrough", None),
        ("qemu", "host-model", "host-model", None),
        ("kvm", "Skylake-Server", "custom", "Skylake-Server"),
    ],
)
def test_cpu_model(kind: Any, asked: str, mode: str, model: str | None) -> None:
    domain = domain_of(replace(PARTS, kind=kind, cpu_model=asked))
    assert domain.get("type") == kind
    assert (attribute(domain, "cpu", "mode"), domain.findtext("cpu/model")) == (mode, model)


@pytest.mark.parametrize(
    ("network", "kind", "source"),
    [("bridge:br0", "bridge", {"bridge": "br0"}), ("network:lan", "network", {"network": "lan"})],
)
def test_network(network: str, kind: str, source: dict[str, str]) -> None:
    [card] = domain_of(replace(PARTS, network=network)).iter("interface")
    assert card.get("type") == kind
    assert [each.attrib for each in card.findall("source")] == [source]
    assert [each.attrib for each in card.findall("mac")] == [{"address": METADATA.mac}]


def test_without_a_network_there_is_no_card() -> None:
    assert domain_of(replace(PARTS, network="none")).find("devices/interface") is None


def test_a_partition_is_named_only_where_there_is_one() -> None:
    assert domain_of(PREMIUM_PARTS).findtext("resource/partition") == "/machine/vmstack_l1x0"
    assert domain_of(PARTS).find("resource") is None


# --- what cannot be a domain ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"console_log": "/var/log/a\0b"}, "console log"),
        ({"console_log": "log"}, "not absolute"),
        ({"emulator": "/usr/bin/\x1bqemu"}, "emulator"),
        ({"emulator": "qemu"}, "not absolute"),
        ({"partition": "/machine/\ufffe"}, "partition"),
        ({"partition": "machine"}, "not absolute"),
        ({"machine": "q35 -hda"}, "QEMU_MACHINE"),
        ({"machine": "q35,dumpdtb=/etc/shadow"}, "QEMU_MACHINE"),
        ({"cpu_model": "\ud800"}, "SCL_CPU_MODEL"),
        ({"network": "user"}, "QEMU_NETWORK"),
        ({"network": "bridge:"}, "QEMU_NETWORK"),
        ({"network": "bridge:br0 <x>"}, "QEMU_NETWORK"),
        ({"network": "bridge:br0\n"}, "QEMU_NETWORK"),
        ({"network": "bridge:../br0"}, "QEMU_NETWORK"),
        ({"network": "network:\x01"}, "QEMU_NETWORK"),
        ({"cpus": ()}, "no CPU"),
        ({"metadata": replace(METADATA, mac="")}, "MAC"),
        ({"metadata": replace(METADATA, mac="52:54:00:12:34:5<")}, "MAC"),
        ({"metadata": replace(METADATA, disk_path="")}, "disk"),
        ({"metadata": replace(METADATA, disk_path="web.qcow2")}, "not absolute"),
        ({"metadata": replace(METADATA, disk_path="/srv/\ud800")}, "disk"),
        ({"metadata": replace(METADATA, disk_path="/srv/a\nb")}, "disk"),
    ],
)
def test_what_no_domain_can_hold_is_refused_in_a_sentence(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        replace(PARTS, **changes)
    sentence = str(refused.value)
    assert says in sentence
    assert sentence.isprintable()
    assert len(sentence) < 300


@given(nasty)
@example("web-1")
@example("a</name><devices/>")
def test_a_name_is_a_name_or_refused(name: str) -> None:
    try:
        parts = with_spec(name=name)
    except BadRequest:
        return
    domain = domain_of(parts)
    assert domain.findtext("name") == name
    assert shape(domain) == shape(domain_of(PARTS))


@given(holdable, holdable, holdable, holdable)
@example("😀 <&>\"'.qcow2", "]]>", "&xxe;", "</emulator><hostdev/>")
def test_no_path_adds_anything(disk: str, log: str, partition: str, emulator: str) -> None:
    plain = replace(PARTS, partition="/machine/p", emulator="/usr/bin/qemu")
    parts = replace(
        plain,
        metadata=replace(METADATA, disk_path=f"/d{disk}"),
        console_log=f"/l{log}",
        partition=f"/p{partition}",
        emulator=f"/e{emulator}",
    )
    xml = domain_xml(parts)
    domain = ET.fromstring(xml)
    assert shape(domain) == shape(domain_of(plain))
    assert attribute(domain, "devices/disk/source", "file") == f"/d{disk}"
    assert attribute(domain, "devices/serial/log", "file") == f"/l{log}"
    assert domain.findtext("resource/partition") == f"/p{partition}"
    assert domain.findtext("devices/emulator") == f"/e{emulator}"
    assert breaches(xml) == []


@given(holdable, st.sampled_from(UNFIT), holdable)
def test_no_path_has_a_character_that_xml_lacks(before: str, unfit: str, after: str) -> None:
    path = f"/{before}{unfit}{after}"
    for changes in (
        {"metadata": replace(METADATA, disk_path=path)},
        {"console_log": path},
        {"partition": path},
        {"emulator": path},
    ):
        with pytest.raises(BadRequest, match="that no domain can hold"):
            replace(PARTS, **changes)


@given(nasty, nasty, nasty)
@example("br0", "q35", "EPYC")
def test_settings_are_plain_words_or_refused(link: str, machine: str, model: str) -> None:
    for changes in (
        {"network": f"bridge:{link}"},
        {"network": f"network:{link}"},
        {"machine": machine},
        {"cpu_model": model},
    ):
        try:
            parts = replace(PARTS, **changes)  # type: ignore[arg-type]
        except BadRequest:
            continue
        assert breaches(domain_xml(parts)) == []


@given(nasty, nasty, nasty, nasty, nasty)
def test_what_a_user_says_of_a_vm_adds_nothing_and_is_read_back(
    image: str, owner: str, label: str, value: str, base: str
) -> None:
    parts = with_spec(image=image, owner=owner, labels=((label, value),))
    metadata = replace(parts.metadata, base_path=f"/{base}", cpu_model=value, machine=label)
    parts = replace(parts, metadata=metadata)
    xml = domain_xml(parts)
    assert shape(ET.fromstring(xml)) == shape(domain_of(PARTS))
    assert xml.isprintable()
    assert breaches(xml) == []
    assert read_domain(xml).metadata == metadata
