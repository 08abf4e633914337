"""The life of VMs on a real hypervisor: real guests, emulated, looked at from all sides."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from schedulerlocal.adapters.domainmetadata import METADATA_URI
from tests.hypervisorlab import Lab, libvirt, thread_pins, vcpu_threads, wait_for_line
from tests.realhost import RealHost, real_host, refusal
from tests.servers import eventually, run_local

CPUS = tuple(sorted(os.sched_getaffinity(0)))
pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="levels need two CPUs")


@pytest.fixture
def host(lab: Lab, tmp_path: Path) -> RealHost:
    return real_host(lab, tmp_path)


def pins(host: RealHost, name: str) -> set[tuple[int, ...]]:
    """Where all threads of a guest may run, vCPUs and emulator alike, as the kernel has it."""
    return set(thread_pins(host.lab.pid(name)).values())


def test_a_vm_lives(host: RealHost) -> None:
    """From its deploy to its removal; in between it is resized, as far as its guest goes along."""
    image = host.image.read_bytes()
    with host.service() as driver:
        name = host.lab.name()
        vm = driver.deployed(name, labels={"tier": "gold <&"}, max_vcpus=2, max_memory_mib=256)
        assert vm["state"] == "running"
        console = host.console(name)
        wait_for_line(console, "^guest up: cpus=1 ")
        with host.domain(name) as domain:
            assert domain.isPersistent()
            assert not domain.autostart()
            for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
                xml = ET.fromstring(domain.XMLDesc(flags))
                noted = xml.findtext(f"metadata/{{{METADATA_URI}}}vm") or ""
                assert '"tier":"gold <&"' in noted
                assert re.search(r'"machine":"pc-i440fx-[0-9.]+"', noted)
            disks = [each.get("file") for each in xml.findall("devices/disk/source")]
        assert [Path(disk or "").parent for disk in disks] == [host.disks]
        assert host.overlays == [name]
        assert host.notes == []

        driver.done(name, "suspend")
        with host.domain(name) as domain:
            assert domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
        assert driver.vm(name)["state"] == "suspended"
        said = console.read_text().count("guest tick")
        driver.done(name, "resume")
        wait_for_line(console, f"^guest tick {said + 1}$")

        memory = driver.service.get("/v1/host")["memory_mib"]
        assert memory["total"] - memory["free"] == 256 + 64  # at its boot maximum, and overhead
        grown = driver.done(name, "resize", {"vcpus": 2, "memory_mib": 224})
        assert grown["takes_effect"] == {"vcpus": "live", "memory_mib": "live"}
        assert {each.cpus for each in vcpu_threads(host.lab.pid(name)).values()} == {CPUS}
        wait_for_line(console, "^guest has: cpus=2 ")
        shrunk = driver.done(name, "resize", {"vcpus": 1, "memory_mib": 160})
        assert shrunk["takes_effect"] == {"vcpus": "next-boot", "memory_mib": "live"}
        assert len(vcpu_threads(host.lab.pid(name))) == 2
        beyond = driver.done(name, "resize", {"memory_mib": 320})
        assert beyond["takes_effect"]["memory_mib"] == "next-boot"
        emulator = host.lab.pid(name)
        driver.done(name, "reboot")
        assert "guest power button" in console.read_text()
        assert host.lab.pid(name) != emulator
        assert len(vcpu_threads(host.lab.pid(name))) == 1
        with host.domain(name) as domain:
            assert domain.info()[1:4] == [320 * 1024, 320 * 1024, 1]
        assert host.overlays == [name]

        wait_for_line(console, "^guest power button$(.|\n)*^guest tick 3$")  # it listens
        driver.done(name, "shutdown")
        assert console.read_text().count("guest power button") == 2
        assert host.domains() == {name: False}
        assert driver.states() == {name: "down"}
        assert host.overlays == [name]
        driver.done(name, "start")
        assert host.domains() == {name: True}

        beside = host.disks / "somebody-elses.qcow2"
        beside.touch()
        driver.removed(name)
        assert host.domains() == {}
        assert list(host.disks.iterdir()) == [beside]
        assert host.notes == []
    assert host.image.read_bytes() == image


def test_levels_keep_to_their_cpus(host: RealHost) -> None:
    with host.service() as driver:
        shared, premium = host.lab.name("shared"), host.lab.name("premium")
        driver.deployed(shared, max_vcpus=2)
        assert pins(host, shared) == {CPUS}  # it borrows what nobody owns
        driver.deployed(premium, level="1")
        (own,) = pins(host, premium)
        assert len(own) == 1
        assert pins(host, shared) == {tuple(cpu for cpu in CPUS if cpu not in own)}
        with host.domain(shared) as domain:
            xml = ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        tune = xml.findall("cputune/vcpupin") + xml.findall("cputune/emulatorpin")
        assert len(tune) == 3  # both vCPUs it may get, and the emulator
        assert {each.get("cpuset") for each in tune} == {str(next(iter({*CPUS} - {*own})))}
        driver.removed(premium)
        assert pins(host, shared) == {CPUS}


def test_a_guest_that_does_not_listen_is_stopped_by_force_only(host: RealHost) -> None:
    with host.service("lab.deaf", SCL_CALL_TIMEOUT="2") as driver:
        name = host.lab.name()
        driver.deployed(name)
        wait_for_line(host.console(name), "^guest up")
        refused = driver.do(name, "shutdown")
        assert refusal(refused) == (502, "hypervisor-failed")
        assert "force" in refused.json["reason"]
        assert driver.vm(name)["state"] == "running"
        driver.done(name, "suspend")
        assert refusal(driver.do(name, "shutdown")) == (409, "wrong-state")
        driver.done(name, "shutdown", {"force": True})
        assert host.domains() == {name: False}


def test_a_changed_base_is_not_started_on(host: RealHost) -> None:
    with host.service() as driver:
        name = host.lab.name()
        driver.deployed(name, start=False)
        assert host.domains() == {name: False}
        os.utime(host.image)
        refused = driver.do(name, "start")
        assert refusal(refused) == (409, "wrong-state")
        assert "base image" in refused.json["reason"]
        assert host.domains() == {name: False}
        driver.removed(name)
        assert host.overlays == []


def test_what_libvirt_refuses_to_start_leaves_nothing(host: RealHost) -> None:
    with host.service(QEMU_NETWORK="network:there-is-none") as driver:
        name = host.lab.name()
        refused = driver.deploy(name)
        assert refusal(refused) == (502, "hypervisor-failed")
        assert "there-is-none" in refused.json["reason"]
        assert "Traceback" not in driver.service.heard()
        eventually(lambda: not host.overlays and not host.domains())
        assert not list(host.console(name).parent.iterdir())
        assert driver.vms() == []
        assert host.notes == []


def test_one_image_in_place_is_for_one_vm(host: RealHost) -> None:
    with host.service() as driver:
        name, other = host.lab.name(), host.lab.name()
        driver.deployed(name, disk="in-place")
        refused = driver.deploy(other, disk="in-place")
        assert refusal(refused) == (409, "wrong-state")
        assert refusal(driver.deploy(other)) == (409, "wrong-state")
        driver.removed(name)
        assert host.image.exists()
        assert host.overlays == []


def test_the_kind_of_guest_is_tried_once(host: RealHost) -> None:
    """Whatever this machine can do: a guest of the kind that was found gets to its boot."""
    tried = host.directory / "journal" / "guest-kind.json"
    with host.service(QEMU_TYPE="auto") as driver:
        kind = json.loads(tried.read_text())["kind"]
        assert kind in ("kvm", "qemu")
        assert ("guests are emulated" in driver.service.heard()) is (kind == "qemu")
        assert host.domains() == {}
    first = tried.stat().st_mtime_ns
    with host.service(QEMU_TYPE="auto") as driver:
        name = host.lab.name()
        driver.deployed(name)
        with host.domain(name) as domain:
            assert ET.fromstring(domain.XMLDesc()).get("type") == kind
        wait_for_line(host.console(name), "^guest up")
    assert tried.stat().st_mtime_ns == first


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("no XML", "is not XML"),
        ('<!DOCTYPE domain SYSTEM "/etc/passwd"><domain><devices/></domain>', "DOCTYPE"),
        ("<domain/>", "no <devices>"),
        (None, "cannot be read|does not exist|No such file"),
    ],
    ids=["no XML", "DOCTYPE", "no devices", "no file"],
)
def test_a_template_that_cannot_be_used_ends_the_start(
    host: RealHost, template: str | None, said: str
) -> None:
    path = host.directory / "template.xml"
    if template is not None:
        path.write_text(template)
    settings = {**host.settings(), "QEMU_TEMPLATE": str(path)}
    ended = run_local(host.directory, settings=settings)
    assert ended.returncode == 2
    assert re.search(f"QEMU_TEMPLATE .*({said})", ended.stderr.splitlines()[-1]), ended.stderr
    assert "Traceback" not in ended.stderr
