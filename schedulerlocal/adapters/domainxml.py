"""The libvirt domain of a VM, as text: what libvirt is given when a VM is made.

It is built as elements, so that no name or path is ever read as markup, onto a base that says
what is not ours to decide: the one built in, or the operator's (see
:mod:`schedulerlocal.adapters.domaintemplate`). What VMs of one kind differ in is left blank and
filled in last, escaped (see :mod:`schedulerlocal.adapters.xmlform`): building the elements for each
of them was the largest part of making one. The same parts make the same text.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple
from xml.etree import ElementTree as ET

from schedulercommon.errors import BadRequest
from schedulercommon.levels import PREMIUM, Level
from schedulercommon.model import NAME
from schedulerlocal.adapters.domainmetadata import (
    DomainMetadata,
    document_element,
    is_mac,
    metadata_document,
)
from schedulerlocal.adapters.xmlform import Form, blank, form_of
from schedulerlocal.core.cpulist import format_cpulist
from schedulerlocal.core.topology import Cpus

GUEST_AGENT = "org.qemu.guest_agent.0"
LEAST_SHARES = 2  # of cgroup v1
MOST_SHARES = 10_000  # of cgroup v2
SHARES_PER_CPU = 100  # what cgroup v2 gives a group that asks for nothing

_MODES = ("host-model", "host-passthrough", "maximum")
_TYPE = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)  # of a machine or a CPU
_LINK = re.compile(r"(bridge|network):[A-Za-z0-9_.:-]+", re.ASCII)
# XML 1.0 has no way to hold these, and in a name or a path a control character is a mistake or
# an attack.
_UNFIT = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainParts:
    """All that decides what a VM's domain looks like.

    Raises BadRequest for what no domain can hold, naming it.
    """

    metadata: DomainMetadata
    """Its spec, MAC, disk path and the rest; all of it is noted in the domain too."""
    cpus: Cpus
    """Where each vCPU may run."""
    console_log: str
    """The file the serial console is logged to."""
    emulator_cpus: Cpus = ()
    """Where the emulator's own threads may run; empty means on ``cpus``."""
    nodes: tuple[int, ...] = ()
    """NUMA nodes its memory should be on; empty where the host has none to choose from."""
    partition: str = ""
    """The cgroup of its level; empty for libvirt's own."""
    uuid: str = ""
    """Empty: libvirt makes one."""
    kind: Literal["kvm", "qemu"] = "kvm"
    emulator: str = ""
    machine: str = ""
    cpu_model: str = ""
    """``host-model``, ``host-passthrough``, ``maximum`` or a model's name; empty: the first of
    these for KVM, and for emulation, which cannot have the host's, all that can be emulated."""
    network: str = "none"
    """``bridge:NAME``, ``network:NAME`` or ``none``."""
    disk_cache: str = "none"
    """How QEMU caches the disk; ``none`` is the one that is safe to migrate."""
    stats_period_s: int = 5
    """How often the balloon driver of the guest tells about its memory."""

    def __post_init__(self) -> None:
        spec, metadata = self.metadata.spec, self.metadata
        whose = f"VM {spec.name[:80]!r}"
        if not NAME.fullmatch(spec.name):
            raise BadRequest(
                f"{spec.name[:80]!r} is no name for a VM; take letters, digits, '.', '_' and '-',"
                " at most 63, a letter or digit first"
            )
        for what, path in (
            ("disk", metadata.disk_path),
            ("console log", self.console_log),
            ("partition", self.partition),
            ("emulator", self.emulator),
        ):
            if _UNFIT.search(path):
                raise BadRequest(
                    f"the path {path[:80]!r} of the {what} of {whose} has characters that no"
                    " domain can hold; choose another path"
                )
            if not path.startswith("/") and (path or what in ("disk", "console log")):
                raise BadRequest(f"the path {path[:80]!r} of the {what} of {whose} is not absolute")
        if self.machine and not _TYPE.fullmatch(self.machine):
            raise BadRequest(f"{self.machine[:80]!r} is no machine type (QEMU_MACHINE)")
        if self.cpu_model and not _TYPE.fullmatch(self.cpu_model):
            raise BadRequest(f"{self.cpu_model[:80]!r} is no CPU model (SCL_CPU_MODEL)")
        if self.network != "none":
            if not _LINK.fullmatch(self.network):
                raise BadRequest(
                    f"{self.network[:80]!r} is no network; QEMU_NETWORK must be bridge:NAME,"
                    " network:NAME or none"
                )
            if not is_mac(metadata.mac):
                raise BadRequest(f"{whose} has a network and no MAC for it")
        if not self.cpus:
            raise BadRequest(f"{whose} has no CPU to run on")


def domain_xml(parts: DomainParts, template: ET.Element | None = None) -> str:
    """The domain of *parts* on the *template*, which is left as it is, or on the one built in.

    What a template does not say is as without one.
    """
    spec = parts.metadata.spec
    kind = _Kind(
        max_vcpus=spec.max_vcpus,
        premium=spec.runs_at == PREMIUM,
        has_uuid=bool(parts.uuid),
        has_nodes=bool(parts.nodes),
        has_partition=bool(parts.partition),
        type=parts.kind,
        emulator=parts.emulator,
        machine=parts.machine,
        cpu_model=parts.cpu_model,
        network=parts.network,
        disk_cache=parts.disk_cache,
        stats_period_s=parts.stats_period_s,
    )
    values = {
        "name": spec.name,
        "uuid": parts.uuid,
        "metadata": metadata_document(parts.metadata),
        "memory": str(spec.max_memory_mib),
        "currentMemory": str(spec.memory_mib),
        "vcpus": str(spec.vcpus),
        "shares": str(cpu_shares(spec.vcpus, spec.runs_at)),
        "cpus": _cpulist(parts.cpus),
        "emulatorCpus": _cpulist(parts.emulator_cpus or parts.cpus),
        "nodes": _cpulist(parts.nodes),
        "partition": parts.partition,
        "disk": parts.metadata.disk_path,
        "mac": parts.metadata.mac,
        "consoleLog": parts.console_log,
    }
    return _form(kind, template, tuple(values)).filled(values)


class _Kind(NamedTuple):
    """What VMs have in common whose domains differ in single values only."""

    max_vcpus: int
    premium: bool
    has_uuid: bool
    has_nodes: bool
    has_partition: bool
    type: str
    emulator: str
    machine: str
    cpu_model: str
    network: str
    disk_cache: str
    stats_period_s: int


@lru_cache(maxsize=256)
def _form(kind: _Kind, template: ET.Element | None, blanks: tuple[str, ...]) -> Form:
    domain = deepcopy(template) if template is not None else ET.Element("domain")
    for element in _built_in():
        if domain.find(element.tag) is None:
            domain.append(element)
    domain.set("type", kind.type)
    _text(domain, "name", blank("name"))
    if kind.has_uuid:
        _text(domain, "uuid", blank("uuid"))
    domain.append(document_element(blank("metadata")))
    # the maximum cannot be raised while the VM runs, what it has of it can
    _text(domain, "memory", blank("memory"), unit="MiB")
    _text(domain, "currentMemory", blank("currentMemory"), unit="MiB")
    _text(domain, "vcpu", str(kind.max_vcpus), placement="static", current=blank("vcpus"))
    _text(domain, "on_poweroff", "destroy")
    domain.append(_cputune(kind.max_vcpus))
    if kind.has_nodes:
        tune = ET.SubElement(domain, "numatune")
        # strict would have the guest killed where a node is full; this only asks
        ET.SubElement(tune, "memory", mode="restrictive", nodeset=blank("nodes"))
    if kind.has_partition:
        _text(ET.SubElement(domain, "resource"), "partition", blank("partition"))
    if kind.premium:
        # merging equal pages would cost time of CPUs that are paid for, and tell neighbours
        # what is in them
        ET.SubElement(_child(domain, "memoryBacking"), "nosharepages")
    _put_os(domain, kind)
    _put_cpu(domain, kind)
    _put_devices(_child(domain, "devices"), kind)
    domain[:] = sorted(domain, key=_place)
    return form_of(domain, blanks)


@lru_cache(maxsize=1024)
def cpu_shares(vcpus: int, level: Level) -> int:
    """A VM's weight against others on the same CPUs: 100 for each CPU it pays for.

    ``vcpus / level`` is that number of CPUs. The bounds are those that both versions of cgroups
    take; the upper one is reached at 100 CPUs, the lower one below a fiftieth of a CPU.
    """
    return max(LEAST_SHARES, min(MOST_SHARES, round(Fraction(SHARES_PER_CPU * vcpus) / level)))


_TAGS = """
    name uuid title description metadata memory currentMemory memoryBacking vcpu cputune numatune
    resource os features cpu clock on_poweroff on_reboot on_crash pm devices
""".split()
_ORDER = {tag: place for place, tag in enumerate(_TAGS)}


def _place(element: ET.Element) -> int:
    return _ORDER.get(element.tag, len(_ORDER))


@lru_cache(maxsize=256)
def _cpulist(cpus: Cpus) -> str:
    return format_cpulist(cpus)


def _built_in() -> tuple[ET.Element, ...]:
    """What a domain says where its template is silent.

    A guest that reboots keeps its place; one that crashed is down, rather than crash for ever on
    CPUs others pay for. ACPI is how a guest is asked to shut down.
    """
    operating_system = ET.Element("os")
    ET.SubElement(operating_system, "type")
    ET.SubElement(operating_system, "boot", dev="hd")
    features = ET.Element("features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    reboot, crash = ET.Element("on_reboot"), ET.Element("on_crash")
    reboot.text, crash.text = "restart", "destroy"
    return operating_system, features, ET.Element("clock", offset="utc"), reboot, crash


def _cputune(max_vcpus: int) -> ET.Element:
    tune = ET.Element("cputune")
    _text(tune, "shares", blank("shares"))
    # one that is plugged in later without a pin of its own would run on every CPU
    for vcpu in range(max_vcpus):
        ET.SubElement(tune, "vcpupin", vcpu=str(vcpu), cpuset=blank("cpus"))
    ET.SubElement(tune, "emulatorpin", cpuset=blank("emulatorCpus"))
    return tune


def _put_os(domain: ET.Element, kind: _Kind) -> None:
    machine = _child(_child(domain, "os"), "type")
    machine.text = "hvm"
    if kind.machine and not machine.get("machine"):
        machine.set("machine", kind.machine)
    if domain.find("devices/*/boot") is not None:
        # libvirt takes an order of devices or one of kinds, not both
        for boot in _child(domain, "os").findall("boot"):
            _child(domain, "os").remove(boot)


def _put_cpu(domain: ET.Element, kind: _Kind) -> None:
    cpu = _child(domain, "cpu")
    if cpu.get("mode") is None and cpu.find("model") is None:
        model = kind.cpu_model or ("host-model" if kind.type == "kvm" else "maximum")
        cpu.set("mode", model if model in _MODES else "custom")
        if model not in _MODES:
            cpu.set("match", "exact")
            _text(cpu, "model", model, fallback="forbid")
    cores = str(kind.max_vcpus)
    # one socket: some guests are licensed by the socket, or use no more than two
    ET.SubElement(cpu, "topology", sockets="1", dies="1", cores=cores, threads="1")


def _put_devices(devices: ET.Element, kind: _Kind) -> None:
    """A template's disk and network card, if it has them, become ours."""
    if kind.emulator:
        devices.insert(0, emulator := ET.Element("emulator"))
        emulator.text = kind.emulator
    if devices.find("controller[@type='usb']") is None:
        # libvirt would add one, which costs the emulator time and nobody plugs anything into
        ET.SubElement(devices, "controller", type="usb", model="none")
    disk = _child(devices, "disk")
    disk.attrib |= {"type": "file", "device": "disk"}
    driver = _child(disk, "driver")
    driver.attrib |= {"name": "qemu", "type": "qcow2"}
    if "cache" not in driver.attrib:
        driver.set("cache", kind.disk_cache)
    ET.SubElement(disk, "source", file=blank("disk"))
    if disk.find("target") is None:
        ET.SubElement(disk, "target", dev="vda", bus="virtio")
    card = devices.find("interface")
    if kind.network == "none":
        if card is not None:
            devices.remove(card)
    else:
        card = _child(devices, "interface")
        link, _, name = kind.network.partition(":")
        card.set("type", link)
        ET.SubElement(card, "mac", address=blank("mac"))
        ET.SubElement(card, "source", {link: name})
        if card.find("model") is None:
            ET.SubElement(card, "model", type="virtio")
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "log", file=blank("consoleLog"), append="on")
    ET.SubElement(serial, "target", port="0")
    console = ET.SubElement(devices, "console", type="pty")
    ET.SubElement(console, "target", type="serial", port="0")
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name=GUEST_AGENT)
    balloon = ET.SubElement(devices, "memballoon", model="virtio")
    ET.SubElement(balloon, "stats", period=str(kind.stats_period_s))


def _child(parent: ET.Element, tag: str) -> ET.Element:
    """The child of *parent* called *tag*, made if it is not there."""
    found = parent.find(tag)
    return ET.SubElement(parent, tag) if found is None else found


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    """Give *parent* a child *tag* that says *text*."""
    ET.SubElement(parent, tag, attributes).text = text
