"""Another size or place for a domain that exists: its XML as libvirt has it, changed just there.

All else stays, what libvirt or an operator added to it included.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from schedulerlocal.adapters.domainmetadata import METADATA_URI, DomainMetadata, metadata_element
from schedulerlocal.adapters.domainxml import cpu_shares
from schedulerlocal.core.cpulist import format_cpulist
from schedulerlocal.core.topology import Cpus

ET.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")


def resized_xml(xml: str, metadata: DomainMetadata, cpus: Cpus) -> str:
    """The domain *xml* in the size its new *metadata* says, its vCPUs pinned to *cpus*.

    Raises ValueError with a sentence where the size is said in more places than we understand.
    """
    domain = ET.fromstring(xml)
    spec = metadata.spec
    if domain.find("cpu/numa") is not None or domain.find("maxMemory") is not None:
        raise ValueError(
            f"VM {spec.name!r} has NUMA nodes or memory slots of its own; change its size with"
            " virsh edit"
        )
    vcpu = _child(domain, "vcpu")
    before = int(vcpu.text or "1")
    vcpu.text = str(spec.max_vcpus)
    vcpu.set("current", str(spec.vcpus))
    for memory, size_mib in (("memory", spec.max_memory_mib), ("currentMemory", spec.memory_mib)):
        element = _child(domain, memory)
        element.text = str(size_mib)
        element.set("unit", "MiB")
    for each in domain.findall("vcpus"):
        domain.remove(each)  # which of them are plugged in: libvirt writes it anew
    topology = domain.find("cpu/topology")
    if topology is not None and before != spec.max_vcpus:
        topology.attrib.clear()
        cores = str(spec.max_vcpus)
        topology.attrib |= {"sockets": "1", "dies": "1", "cores": cores, "threads": "1"}
    _retune(_child(domain, "cputune"), metadata, cpus)
    _note(domain, metadata)
    return ET.tostring(domain, encoding="unicode")


def placed_xml(xml: str, partition: str, cpus: Cpus) -> str:
    """The domain *xml*, started in *partition*, or in libvirt's own if that is empty, from now on.

    Its vCPUs and emulator are pinned to *cpus*; where they are if that is empty.
    """
    domain = ET.fromstring(xml)
    for each in domain.findall("resource"):
        domain.remove(each)
    if partition:
        ET.SubElement(ET.SubElement(domain, "resource"), "partition").text = partition
    if cpus:
        tune = _child(domain, "cputune")
        _pin_all(tune, int(domain.findtext("vcpu", "1")), cpus)
        _child(tune, "emulatorpin").set("cpuset", format_cpulist(cpus))
    return ET.tostring(domain, encoding="unicode")


def _retune(tune: ET.Element, metadata: DomainMetadata, cpus: Cpus) -> None:
    spec = metadata.spec
    _child(tune, "shares").text = str(cpu_shares(spec.vcpus, spec.runs_at))
    _pin_all(tune, spec.max_vcpus if cpus else 0, cpus)


def _pin_all(tune: ET.Element, vcpus: int, cpus: Cpus) -> None:
    for pin in tune.findall("vcpupin"):
        tune.remove(pin)
    for number in range(vcpus):
        ET.SubElement(tune, "vcpupin", vcpu=str(number), cpuset=format_cpulist(cpus))


def _note(domain: ET.Element, metadata: DomainMetadata) -> None:
    kept = _child(domain, "metadata")
    for each in kept.findall(f"{{{METADATA_URI}}}vm"):
        kept.remove(each)
    kept.extend(metadata_element(metadata))


def _child(parent: ET.Element, tag: str) -> ET.Element:
    found = parent.find(tag)
    return ET.SubElement(parent, tag) if found is None else found
