"""Whether libvirt takes the domains VMs will be made as, asked before the first of them is.

A domain of the kind is defined, checked against libvirt's schema, and undefined at once; it is
never started. Its name is none a VM of ours can have, and always the same, as its identity is: one
that was left behind by a crash between the two calls goes with the next start.
"""

from __future__ import annotations

from pathlib import Path
from uuid import NAMESPACE_URL, uuid5
from xml.etree import ElementTree as ET

from schedulercommon.errors import HypervisorError
from schedulercommon.levels import PREMIUM
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.domainmetadata import METADATA_URI, DomainMetadata
from schedulerlocal.adapters.domainxml import DomainParts, domain_xml
from schedulerlocal.adapters.hypervisorlink import Link, LinkError, Why
from schedulerlocal.adapters.hypervisorsteps import Making

CHECKED = "_vmstack-check"
CHECKED_UUID = str(uuid5(NAMESPACE_URL, METADATA_URI))


async def check_domains(link: Link, making: Making, template: Path | None) -> None:
    """Raises HypervisorError, naming the settings to mend, if libvirt refuses them."""
    try:
        await link.try_define(CHECKED, checked_xml(making, making.template))
    except LinkError as problem:
        if problem.why is Why.AWAY:
            raise
        if template is not None and await _takes_built_in(link, making):
            raise HypervisorError(
                f"QEMU_TEMPLATE {template} makes no domain: {problem.said}; mend the file, or leave"
                " the setting empty for the domain built in"
            ) from problem
        raise HypervisorError(
            f"no VM can be made with these settings: {problem.said}; correct QEMU_TYPE, QEMU_LOC,"
            " QEMU_MACHINE or SCL_CPU_MODEL"
        ) from problem


def checked_xml(making: Making, template: ET.Element | None) -> str:
    """A domain as that of a small VM of level 1, without its metadata: nobody's, if it stays."""
    spec = VmSpec(name="check", vcpus=1, memory_mib=64, level=PREMIUM)
    parts = DomainParts(
        metadata=DomainMetadata(spec=spec, mac="52:54:00:00:00:01", disk_path="/check.qcow2"),
        cpus=(0,),
        console_log=str(making.console_dir / "check.log"),
        nodes=(0,) if making.has_nodes else (),
        uuid=CHECKED_UUID,
        kind=making.kind,
        emulator=making.emulator,
        machine=making.machine,
        cpu_model=making.cpu_model,
        network=making.network,
    )
    domain = ET.fromstring(domain_xml(parts, template))
    for name, metadata in zip(domain.findall("name"), domain.findall("metadata"), strict=True):
        name.text = CHECKED
        domain.remove(metadata)
    return ET.tostring(domain, encoding="unicode")


async def _takes_built_in(link: Link, making: Making) -> bool:
    try:
        await link.try_define(CHECKED, checked_xml(making, None))
    except LinkError:
        return False
    return True
