"""The operator's own domain, on which those of VMs are built.

It says what we do not decide: firmware or kernel, the CPU guests see, timers, limits of the disk
and the network card. Only what :data:`ALLOWED` lists is taken over; all else, above all what
names another file, another device or an argument of the emulator, is left out and told. It is
read without entities, and a DOCTYPE is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from schedulercommon.errors import ConfigError

MARK = "ua-vmstack"
"""The alias of the disk, or network card, that is to become the VM's where it is not the first."""

_TABLE = {
    "title|description": "#",
    "memoryBacking|memoryBacking/hugepages": "",
    "memoryBacking/hugepages/page": "* size unit nodeset",
    "os": "firmware",
    "os/type": "arch machine",
    "os/firmware": "",
    "os/firmware/feature": "* enabled name",
    "os/kernel|initrd|cmdline": "#",
    "os/boot": "* dev",
    "os/bootmenu": "enable timeout",
    "os/bios": "useserial rebootTimeout",
    "features": "",
    "features/acpi|pae": "",
    "features/apic": "eoi",
    "features/hap|pmu|vmport|smm|pvspinlock|vmcoreinfo|htm|ccf-assist": "state",
    "features/ioapic": "driver",
    "features/gic": "version",
    "features/kvm": "",
    "features/kvm/hidden|hint-dedicated|poll-control|pv-ipi": "state",
    "features/hyperv": "mode",
    "features/hyperv/relaxed|vapic|vpindex|runtime|synic|reset|frequencies": "state",
    "features/hyperv/reenlightenment|tlbflush|ipi|evmcs|avic": "state",
    "features/hyperv/spinlocks": "state retries",
    "features/hyperv/vendor_id": "state value",
    "features/hyperv/stimer": "state",
    "features/hyperv/stimer/direct": "state",
    "cpu": "mode match check migratable",
    "cpu/model": "# fallback vendor_id",
    "cpu/vendor": "#",
    "cpu/feature": "* policy name",
    "cpu/cache": "level mode",
    "cpu/maxphysaddr": "mode bits",
    "clock": "offset timezone basis adjustment start",
    "clock/timer": "* name present tickpolicy track frequency mode",
    "clock/timer/catchup": "threshold slew limit",
    "on_reboot|on_crash": "#",
    "pm": "",
    "pm/suspend-to-mem|suspend-to-disk": "enabled",
    "devices": "",
    "devices/controller": "* type index model",
    "devices/controller/driver": "queues",
    "devices/disk": "",
    "devices/disk/driver": "cache io discard detect_zeroes error_policy rerror_policy queues",
    "devices/disk/target": "dev bus rotation_rate",
    "devices/disk/boot": "order",
    "devices/disk/serial": "#",
    "devices/disk/iotune": "",
    "devices/disk/iotune/total_bytes_sec|read_bytes_sec|write_bytes_sec": "#",
    "devices/disk/iotune/total_iops_sec|read_iops_sec|write_iops_sec|size_iops_sec": "#",
    "devices/disk/iotune/total_bytes_sec_max|read_bytes_sec_max|write_bytes_sec_max": "#",
    "devices/disk/iotune/total_iops_sec_max|read_iops_sec_max|write_iops_sec_max": "#",
    "devices/interface": "",
    "devices/interface/model": "type",
    "devices/interface/driver": "name queues rx_queue_size tx_queue_size",
    "devices/interface/boot": "order",
    "devices/interface/mtu": "size",
    "devices/interface/port": "isolated",
    "devices/interface/filterref": "filter",
    "devices/interface/filterref/parameter": "* name value",
    "devices/interface/bandwidth": "",
    "devices/interface/bandwidth/inbound|outbound": "average peak burst floor",
    "devices/interface/virtualport": "type",
    "devices/interface/vlan": "trunk",
    "devices/interface/vlan/tag": "* id nativeMode",
    "devices/rng": "model",
    "devices/rng/rate": "bytes period",
    "devices/rng/backend": "model",
    "devices/panic": "model",
    "devices/watchdog": "model action",
    "devices/iommu": "model",
    "devices/iommu/driver": "intremap caching_mode eim iotlb aw_bits",
}


def _expanded(table: dict[str, str]) -> Iterator[tuple[str, frozenset[str]]]:
    for paths, attributes in table.items():
        folder, slash, first = paths.split("|")[0].rpartition("/")
        for name in (first, *paths.split("|")[1:]):
            path = name if "/" in name else folder + slash + name
            yield path, frozenset(attributes.split())


ALLOWED = dict(_expanded(_TABLE))
"""Path of an element below ``<domain>`` → its attributes that are taken over. ``#`` means that its
text is too, ``*`` that there may be several of it; of all others only the first is looked at. What
is at none of these paths does not survive."""

# A VM has one of each, and it is ours; more of them would be files and networks beside it.
_LENT = ("devices/disk", "devices/interface")
# What a VM's own parts say in any case is no loss, and telling of it would hide what is one.
_OURS = frozenset(
    """
    @type name uuid metadata memory currentMemory vcpu cputune numatune resource on_poweroff
    os/type/text() cpu/topology devices/emulator devices/disk@type devices/disk@device
    devices/disk/source devices/disk/driver@name devices/disk/driver@type devices/disk/alias
    devices/interface@type devices/interface/mac devices/interface/source devices/interface/alias
    devices/serial devices/console devices/channel devices/memballoon
    """.split()
)
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Template:
    """What is left of an operator's domain."""

    domain: ET.Element
    """Not to be changed."""
    left_out: tuple[str, ...]
    """Paths of what was there and is not taken over (``a@b`` an attribute, ``a/text()`` a text),
    each once; what a VM's own parts replace anyway is not among them."""


def read_template(path: Path) -> Template:
    """The template in the file *path*; raises ConfigError with a sentence."""
    try:
        if path.exists() and not path.is_file():
            raise _wrong(path, "is not a regular file")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as problem:
        raise _wrong(path, f"cannot be read: {problem.strerror}") from problem
    return parse_template(content, path)


def parse_template(content: bytes, path: Path) -> Template:
    """The template that *content*, found at *path*, holds; raises ConfigError with a sentence."""
    if len(content) > _MOST_BYTES:
        raise _wrong(path, f"is larger than {_MOST_BYTES} bytes, which no domain is")
    parser = ET.XMLParser(target=_NoDoctype())  # a DOCTYPE ends it
    try:
        parser.feed(content.decode("utf-8-sig"))
        root = parser.close()
    except _DoctypeFound:
        raise _wrong(path, "has a DOCTYPE, which is not read: it could name other files") from None
    except UnicodeDecodeError:
        raise _wrong(path, "is not UTF-8") from None
    except ET.ParseError as problem:
        raise _wrong(path, f"is not XML ({problem})") from None
    if root.tag != "domain":
        raise _wrong(path, f"holds a <{root.tag[:40]}> and no <domain>")
    if root.find("devices") is None:
        raise _wrong(path, "has no <devices>")
    left_out: dict[str, None] = {}
    domain = _kept(root, "", left_out)
    return Template(domain, tuple([each for each in left_out if each not in _OURS]))


class _DoctypeFound(Exception):
    pass


class _NoDoctype(ET.TreeBuilder):
    def doctype(self, _name: str, _public: str | None, _system: str | None) -> None:
        raise _DoctypeFound


def _kept(element: ET.Element, path: str, left_out: dict[str, None]) -> ET.Element:
    """What is allowed of *element*, which is; the path of all else goes to *left_out*."""
    attributes = ALLOWED.get(path, frozenset())
    kept = ET.Element(element.tag)
    for name, value in element.items():
        if name in attributes:
            kept.set(name, value)
        else:
            left_out[f"{path}@{name}"] = None
    if "#" in attributes:
        kept.text = element.text
    elif element.text and element.text.strip():
        left_out[f"{path}/text()"] = None
    for child in element:
        below = f"{path}/{child.tag}".lstrip("/")
        first = _lent(element, child.tag) if below in _LENT else element.find(child.tag)
        if below in ALLOWED and (child is first or "*" in ALLOWED[below]):
            kept.append(_kept(child, below, left_out))
        else:
            left_out[below] = None
    return kept


def _lent(devices: ET.Element, tag: str) -> ET.Element | None:
    """Of the *devices* called *tag* the one that becomes the VM's: the marked or the first."""
    those = [each for each in devices.findall(tag) if each.get("device", "disk") == "disk"]
    marked = [each for each in those if each.find(f"alias[@name='{MARK}']") is not None]
    return next(iter(marked or those), None)


def _wrong(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"QEMU_TEMPLATE {path} {what}; mend the file, or leave the setting empty for the domain"
        " built in"
    )
