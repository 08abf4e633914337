"""Whether guests run on this machine under KVM, found out by starting one.

What libvirt advertises does not tell: inside a virtual machine /dev/kvm may open and a guest never
get to its first instruction, or the emulator die of the CPU it is to show. So a domain without a
disk is started, with the CPU that VMs get, whose firmware greets on the serial console. The answer
is kept for as long as neither the machine nor the emulator changes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

from schedulercommon.errors import HypervisorError
from schedulerlocal.adapters.hypervisorlink import Link, LinkError, Why

Kind = Literal["kvm", "qemu"]

_MODES = ("host-model", "host-passthrough", "maximum")
_GREETING = b"SeaBIOS"
_GREETS_WITHIN_S = 5.0
_LOOK_S = 0.02
_MEMORY_MIB = 64

_log = logging.getLogger(__name__)


async def find_guest_kind(
    link: Link,
    *,
    emulator: str,
    cpu_model: str,
    directory: Path,
    boot_id: str,
    now_s: Callable[[], float],
) -> Kind:
    """What QEMU_TYPE=auto comes to; *directory* keeps the answer. Raises LinkError."""
    if "kvm" not in await link.guest_kinds():
        _log.info("libvirt has no KVM here: guests are emulated, which is slow")
        return "qemu"
    remembered = directory / "guest-kind.json"
    key = f"{boot_id} {await link.version()} {emulator} {cpu_model}".strip()
    kind = _read(remembered, key)
    if kind is None:
        greets = await guest_greets(
            link,
            "kvm",
            emulator=emulator,
            cpu_model=cpu_model or "host-model",
            directory=directory,
            now_s=now_s,
        )
        kind = "kvm" if greets else "qemu"
        _write(remembered, key, kind)
    if kind == "qemu":
        _log.warning(
            "KVM is there and boots no guest on this machine: guests are emulated, which is slow"
            " (QEMU_TYPE=kvm insists on it)"
        )
    return kind


async def guest_greets(
    link: Link,
    kind: Kind,
    *,
    emulator: str,
    cpu_model: str,
    directory: Path,
    now_s: Callable[[], float],
) -> bool:
    """Whether the firmware of a guest of this *kind* comes to say something."""
    name = f"vmstack-probe-{os.getpid()}"
    console = directory / "probe" / f"{name}.log"
    try:
        console.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        console.unlink(missing_ok=True)
    except OSError as problem:
        raise HypervisorError(
            f"cannot write to {console.parent} ({problem.strerror}); mend that (SCL_STATE_DIR),"
            " or say QEMU_TYPE=kvm or QEMU_TYPE=qemu"
        ) from problem
    try:
        xml = probe_xml(name, kind, emulator, cpu_model, str(console))
        await link.start_transient(name, xml)
        give_up_s = now_s() + _GREETS_WITHIN_S
        while now_s() < give_up_s:
            with suppress(OSError):
                if _GREETING in console.read_bytes():
                    return True
            await asyncio.sleep(_LOOK_S)
    except LinkError as problem:
        if problem.why is Why.AWAY:
            raise
        _log.info("%s", problem)
    finally:
        with suppress(LinkError):
            await link.destroy(name)
        with suppress(OSError):
            console.unlink()
    return False


def probe_xml(name: str, kind: Kind, emulator: str, cpu_model: str, console: str) -> str:
    """A domain with nothing but firmware that talks on the serial console."""
    domain = ET.Element("domain", type=kind)
    ET.SubElement(domain, "name").text = name
    ET.SubElement(domain, "memory", unit="MiB").text = str(_MEMORY_MIB)
    ET.SubElement(domain, "vcpu").text = "1"
    system = ET.SubElement(domain, "os")
    ET.SubElement(system, "type").text = "hvm"
    ET.SubElement(system, "bios", useserial="yes")
    ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    if cpu_model in _MODES:
        ET.SubElement(domain, "cpu", mode=cpu_model)
    else:
        cpu = ET.SubElement(domain, "cpu", mode="custom", match="exact")
        ET.SubElement(cpu, "model", fallback="forbid").text = cpu_model
    devices = ET.SubElement(domain, "devices")
    if emulator:
        ET.SubElement(devices, "emulator").text = emulator
    ET.SubElement(devices, "controller", type="usb", model="none")
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "log", file=console, append="off")
    ET.SubElement(devices, "memballoon", model="none")
    return ET.tostring(domain, encoding="unicode")


def _read(remembered: Path, key: str) -> Kind | None:
    try:
        content = json.loads(remembered.read_text())
    except (OSError, ValueError):
        return None
    if isinstance(content, dict) and content.get("for") == key:
        kind = content.get("kind")
        return "kvm" if kind == "kvm" else "qemu" if kind == "qemu" else None
    return None


def _write(remembered: Path, key: str, kind: Kind) -> None:
    try:
        remembered.write_text(json.dumps({"for": key, "kind": kind}) + "\n")
    except OSError as problem:
        _log.warning("what kind guests are is not kept: %s", problem.strerror)
