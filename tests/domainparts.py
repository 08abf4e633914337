"""Domains to make and look at, and libvirt's own schema to hold them to.

``python -m tests.domainparts`` writes the golden files anew, to be read before they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from lxml import etree

from schedulercommon.model import VmSpec
from schedulerlocal.adapters.domainmetadata import DomainMetadata
from schedulerlocal.adapters.domaintemplate import parse_template, read_template
from schedulerlocal.adapters.domainxml import DomainParts, domain_xml

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
GOLDEN = Path(__file__).parent / "golden" / "domains"
UUID = "6a1f8a4e-52b7-4b1c-9d8a-0d3f6a7b8c9d"

PLAIN = VmSpec(
    name="web-1",
    vcpus=2,
    memory_mib=2048,
    level=Fraction(2),
    image="/var/lib/libvirt/images/debian.qcow2",
    request_id="4f0c",
)
METADATA = DomainMetadata(
    spec=PLAIN,
    memory_nodes=((0, 2176),),
    mac="52:54:00:12:34:56",
    disk_path="/var/lib/vmstack/disks/web-1.qcow2",
    base_path=PLAIN.image,
    base_size_bytes=327_155_712,
    base_mtime_ns=1_700_000_000_123_456_789,
)
PARTS = DomainParts(
    metadata=METADATA,
    cpus=(4, 5, 6, 7),
    console_log="/var/log/vmstack/web-1.log",
    nodes=(0,),
    uuid=UUID,
    network="network:default",
)


def with_spec(parts: DomainParts = PARTS, **changes: Any) -> DomainParts:
    spec = replace(parts.metadata.spec, **changes)
    return replace(parts, metadata=replace(parts.metadata, spec=spec))


PREMIUM_PARTS = replace(
    with_spec(
        level=Fraction(1),
        runs_at=Fraction(1),
        max_vcpus=4,
        max_memory_mib=8192,
        owner="Müller & Söhne <it>",
        labels=(("note", "\x07😀]]>"), ("tier", '"gold"')),
    ),
    cpus=(2, 3, 10, 11),
    emulator_cpus=(0, 8),
    nodes=(0, 1),
    partition="/machine/vmstack_l1x0",
    network="bridge:br-tenants",
    machine="q35",
    emulator="/usr/bin/qemu-system-x86_64",
    cpu_model="Skylake-Server",
)
EMULATED_PARTS = replace(
    with_spec(level=Fraction(4, 3), runs_at=Fraction(4, 3), start=False, disk="in-place"),
    nodes=(),
    uuid="",
    kind="qemu",
    network="none",
)


def golden_domains() -> Iterator[tuple[str, DomainParts, ET.Element | None]]:
    yield "shared", PARTS, None
    yield "premium", PREMIUM_PARTS, None
    yield "emulated", EMULATED_PARTS, None
    for path in sorted(GOLDEN.glob("template-*.in.xml")):
        domain = read_template(path).domain
        yield path.name.removesuffix(".in.xml"), PREMIUM_PARTS, domain
        yield path.name.removesuffix(".in.xml") + "-emulated", EMULATED_PARTS, domain


def readable(xml: str) -> str:
    """*xml* with a line per element; texts stay as they are."""
    root = ET.fromstring(xml)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


@cache
def schema() -> etree.RelaxNG:
    if not SCHEMA.exists():
        pytest.fail(
            f"{SCHEMA} is missing: it comes with libvirt's library; run `scripts/setup.sh dev`, or"
            " as root apt install libvirt0 (Debian 12) or libvirt-common (Debian 13)",
            pytrace=False,
        )
    return etree.RelaxNG(etree.parse(str(SCHEMA)))


def breaches(xml: str) -> list[str]:
    """Where *xml* breaks libvirt's schema."""
    rules = schema()
    rules.validate(etree.fromstring(xml))
    return [f"line {each.line}: {each.message}" for each in rules.error_log]


def template_of(inside: str, devices: str = "") -> ET.Element:
    """What is left of a template with *inside* and, among its devices, *devices*."""
    content = f"<domain type='kvm'>{inside}<devices>{devices}</devices></domain>"
    return parse_template(content.encode(), Path("/etc/vmstack/base.xml")).domain


if __name__ == "__main__":
    for name, parts, template in golden_domains():
        (GOLDEN / f"{name}.xml").write_text(readable(domain_xml(parts, template)))
