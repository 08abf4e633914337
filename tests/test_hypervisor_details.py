"""Smaller promises about VMs on a real hypervisor, each seen from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from schedulerlocal.adapters.domainmetadata import METADATA_URI
from schedulerlocal.adapters.topologyjson import write_topology
from schedulerlocal.core.cpulist import format_cpulist
from schedulerlocal.core.machine import Machine, machine_topology
from tests.hypervisorlab import BOOT_S, Lab, libvirt, thread_pins, wait_for_line
from tests.realhost import Driver, RealHost, real_host, refusal
from tests.servers import eventually, local_service

CPUS = tuple(sorted(os.sched_getaffinity(0)))


@pytest.fixture
def host(lab: Lab, tmp_path: Path) -> RealHost:
    return real_host(lab, tmp_path)


def starts_by_itself(host: RealHost, name: str) -> bool:
    with host.domain(name) as domain:
        return bool(domain.autostart())


def define(host: RealHost, name: str, *, autostart: bool) -> None:
    """A VM of somebody else's."""
    connection = host.lab.connect()
    connection.defineXML(host.lab.domain_xml(name)).setAutostart(int(autostart))
    connection.close()


def test_an_adopted_vm_no_longer_starts_by_itself(host: RealHost) -> None:
    stranger, other = host.lab.name("stranger"), host.lab.name("other")
    for name in (stranger, other):
        define(host, name, autostart=True)
    with host.service(OVSB_CRITICAL_SIZE="0") as driver:
        driver.done(stranger, "adopt", {"level": "2"})
        assert not starts_by_itself(host, stranger)
        assert starts_by_itself(host, other)  # which is nobody's business


@pytest.mark.parametrize("repair", ["on", "report"])
def test_autostart_that_was_switched_on_is_repaired(host: RealHost, repair: str) -> None:
    name = host.lab.name()
    with host.service() as driver:
        driver.deployed(name, start=False)
        assert not starts_by_itself(host, name)
        driver.service.stop()
    with host.domain(name) as domain:
        domain.setAutostart(1)
    with host.service(SCL_REPAIR=repair) as driver:
        with driver.service.listening(after=0) as events:
            told = events.wait_for("repair", vm=name)
        assert (told["before"], told["after"]) == ("autostart on", "autostart off")
        assert told["done"] is (repair == "on")
        assert starts_by_itself(host, name) is (repair == "report")


def test_a_console_is_shown_and_goes_with_its_vm(host: RealHost) -> None:
    name, stranger = host.lab.name(), host.lab.name("stranger")
    define(host, stranger, autostart=False)
    with host.service() as driver:
        driver.deployed(name)
        wait_for_line(host.console(name), "^guest up")
        shown = driver.service.ask("GET", f"/v1/vms/{name}/console?lines=400")
        assert shown.status == 200
        assert "guest up: cpus=1" in shown.body.decode()
        last = driver.service.ask("GET", f"/v1/vms/{name}/console?lines=1&bytes=10").body
        assert len(last) <= 10
        # as virtlogd would, in whose place QEMU writes the log here
        host.console(name).with_name(f"{name}.log.0").write_text("older\n")
        shown = driver.service.ask("GET", f"/v1/vms/{name}/console")
        assert shown.body.startswith(b"older\n")

        assert refusal(driver.service.ask("GET", f"/v1/vms/{stranger}/console")) == (
            409,
            "wrong-state",
        )
        driver.done(stranger, "adopt", {"level": "2"})
        assert refusal(driver.service.ask("GET", f"/v1/vms/{stranger}/console")) == (
            409,
            "wrong-state",
        )
        driver.removed(name)
        refused = driver.service.ask("GET", f"/v1/vms/{name}/console")
        assert refusal(refused) == (404, "unknown-vm")
        eventually(lambda: not list(host.console(name).parent.glob(f"{name}.log*")))


@pytest.fixture
def bridge(host: RealHost) -> str:
    """A bridge in the laboratory's network, which leads nowhere."""
    add = "import fcntl, socket; fcntl.ioctl(socket.socket(), 0x89a0, b'lab0\\0')"  # SIOCBRADDBR
    inside = ("nsenter", f"--target={host.lab.warden}", "--net", "--")
    subprocess.run([*inside, sys.executable, "-c", add], check=True)
    return "lab0"


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no network cards for guests")
def test_a_domain_is_made_as_promised(host: RealHost, bridge: str) -> None:
    sizes = {"max_vcpus": 3, "max_memory_mib": 256}
    with host.service(QEMU_NETWORK=f"bridge:{bridge}", OVSB_CRITICAL_SIZE="0") as driver:
        premium, shared = host.lab.name("premium"), host.lab.name("shared")
        driver.deployed(premium, level="1")
        driver.deployed(shared, level="2", **sizes)
        wait_for_line(host.console(shared), "^guest up: cpus=1 ")
        xmls = {}
        for name in (premium, shared):
            with host.domain(name) as domain:
                xmls[name] = [
                    ET.fromstring(domain.XMLDesc(flags))
                    for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE)
                ]
        with host.domain(shared) as domain:
            said = eventually(lambda: "unused" in domain.memoryStats() and domain.memoryStats())
            assert said["unused"] < said["available"] < 256 * 1024
    for name, both in xmls.items():
        for xml in both:
            noted = json.loads(xml.findtext(f"metadata/{{{METADATA_URI}}}vm", ""))
            assert noted["mac"] == attribute(xml, "devices/interface/mac", "address")
            assert attribute(xml, "devices/interface/model", "type") == "virtio"
            assert attribute(xml, "devices/interface/source", "bridge") == bridge
            assert attribute(xml, "devices/disk/target", "bus") == "virtio"
            assert noted["disk_path"] == attribute(xml, "devices/disk/source", "file")
            assert noted["machine"] == attribute(xml, "os/type", "machine")
            assert noted["cpu_model"] == cpu_model(both[0])
            log = attribute(xml, "devices/serial/log", "file")
            assert Path(log) == host.console(name)
            channel = attribute(xml, "devices/channel/target", "name")
            assert channel == "org.qemu.guest_agent.0"
            assert attribute(xml, "devices/memballoon/stats", "period") == "5"
            premium_only = xml.find("memoryBacking/nosharepages") is not None
            assert premium_only is (name == premium)
            cores = {premium: "1", shared: "3"}[name]
            assert xml.findtext("vcpu") == cores
            assert attribute(xml, "cpu/topology", "cores") == cores
            assert attribute(xml, "cpu/topology", "sockets") == "1"
            places = {each.get("cpuset") for each in xml.findall("cputune/*[@cpuset]")}
            assert len(xml.findall("cputune/vcpupin")) == int(cores)
            assert len(xml.findall("cputune/emulatorpin")) == 1
            assert len(places) == 1
            assert xml.findtext("cputune/shares") == {premium: "100", shared: "50"}[name]
    macs = {attribute(both[0], "devices/interface/mac", "address") for both in xmls.values()}
    assert len(macs) == 2


def attribute(xml: ET.Element, path: str, name: str) -> str:
    element = xml.find(path)
    assert element is not None, f"no {path}"
    return element.get(name, "")


def cpu_model(xml: ET.Element) -> str:
    return xml.findtext("cpu/model") or attribute(xml, "cpu", "mode")


def test_memory_is_asked_of_the_nodes_of_the_plan(host: RealHost) -> None:
    """This machine has one node; on paper it has two, the second without CPUs."""
    machine = Machine(cores=len(CPUS), memory_mib=4096)
    topology = replace(
        machine_topology(machine),
        numa_distances={0: (10, 20), 1: (20, 10)},
        node_memory_mib={0: 2048, 1: 2048},
    )
    path = host.directory / "topology.json"
    write_topology(path, topology)
    name = host.lab.name()
    with local_service(host.directory, f"--topology={path}", settings=host.settings()) as service:
        assert Driver(service, host).deployed(name)["memory_nodes"] == [0]
        with host.domain(name) as domain:
            xml = ET.fromstring(domain.XMLDesc())
        assert attribute(xml, "numatune/memory", "mode") == "restrictive"
        assert attribute(xml, "numatune/memory", "nodeset") == "0"


def test_a_guest_that_does_not_listen_is_given_its_time_first(host: RealHost) -> None:
    with host.service("lab.deaf", SCL_CALL_TIMEOUT="4") as driver:
        name = host.lab.name()
        driver.deployed(name)
        wait_for_line(host.console(name), "^guest up")
        begun_s = time.monotonic()
        driver.done(name, "shutdown", {"force": True})
        assert time.monotonic() - begun_s > 2.5  # three quarters of a call's time, then the plug
        assert host.domains() == {name: False}


def test_a_guest_reboots_by_itself(host: RealHost) -> None:
    with host.service() as driver:
        name = host.lab.name()
        driver.deployed(name)
        console = host.console(name)
        wait_for_line(console, "^guest tick 1$")  # before that it would miss the button
        pid = host.lab.pid(name)
        assert driver.done(name, "reboot")["state"] == "running"
        eventually(lambda: console.read_text(errors="replace").count("guest up") == 2, BOOT_S)
        assert "guest power button" in console.read_text(errors="replace")
        assert host.lab.pid(name) == pid


@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU has to be lost")
def test_more_vms_than_fit_are_told_and_left_alone(host: RealHost) -> None:
    def room(cpus: int) -> dict[str, str]:
        return {"TOPO_EXCLUDE": format_cpulist(CPUS[cpus:]), "SCL_DELAY": "1"}

    with host.service(**room(2)) as driver:
        names = [host.lab.name() for _ in range(2)]
        for name in names:
            driver.deployed(name, level="1")
        places = {name: thread_pins(host.lab.pid(name)) for name in names}
        driver.service.stop()
    with host.service(**room(1)) as driver:
        (warning,) = driver.service.get("/v1/host")["warnings"]
        assert warning.startswith("over-committed: level 1.0 owns 1 CPUs and needs 2")
        assert "ERROR" in driver.service.heard()
        with driver.service.listening(after=0) as events:
            assert events.wait_for("over-committed")["reasons"]
        assert driver.vms() == sorted(names)
        with host.domain(names[0]) as domain, driver.service.listening() as events:
            domain.suspend()
            events.wait_for("state", vm=names[0])  # it has looked, and touched nothing
        assert {name: thread_pins(host.lab.pid(name)) for name in names} == places
        assert refusal(driver.deploy(host.lab.name(), level="1")) == (409, "no-capacity")
        driver.removed(names[0])
        eventually(lambda: driver.service.get("/v1/host")["warnings"] == [])
