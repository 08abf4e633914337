"""The hypervisor is the truth: what happens behind our back, and what dies under our hands."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from schedulerlocal.core.cpulist import format_cpulist
from tests.hypervisorlab import Lab, libvirt, thread_pins
from tests.realhost import Driver, RealHost, real_host, refusal
from tests.servers import eventually, run_local

CPUS = tuple(sorted(os.sched_getaffinity(0)))
AT_ONCE_S = 2.0
BACK_S = 12.0  # reconnecting waits longer and longer, up to 5 s and some chance
pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="levels need two CPUs")


@pytest.fixture
def host(lab: Lab, tmp_path: Path) -> RealHost:
    return real_host(lab, tmp_path)


def test_what_virsh_does_shows_at_once(host: RealHost) -> None:
    with host.service() as driver:
        name, stranger = host.lab.name(), host.lab.name("stranger")
        driver.deployed(name)
        for act, state in [
            (libvirt.virDomain.suspend, "suspended"),
            (libvirt.virDomain.resume, "running"),
            (libvirt.virDomain.destroy, "down"),
            (libvirt.virDomain.create, "running"),
        ]:
            with host.domain(name) as domain:
                act(domain)
            eventually(lambda state=state: driver.vm(name)["state"] == state, AT_ONCE_S)
        connection = host.lab.connect()
        foreign = connection.defineXML(host.lab.domain_xml(stranger))
        eventually(lambda: driver.states().get(stranger) == "down", AT_ONCE_S)
        foreign.create()
        eventually(lambda: driver.states()[stranger] == "running", AT_ONCE_S)
        assert driver.service.get("/v1/host")["foreign"] == [stranger]
        foreign.destroy()
        foreign.undefine()
        connection.close()
        eventually(lambda: driver.vms() == [name], AT_ONCE_S)
        with host.domain(name) as domain:
            domain.destroy()
            domain.undefine()
        eventually(lambda: driver.vms() == [], AT_ONCE_S)
        assert host.overlays == [name]  # whoever undefined it may want its disk


@pytest.mark.parametrize("where", ["live", "config"])
def test_pins_changed_behind_our_back_are_set_right(host: RealHost, where: str) -> None:
    with host.service() as driver:
        name = host.lab.name()
        driver.deployed(name, max_vcpus=2)
        flags = {
            "live": libvirt.VIR_DOMAIN_AFFECT_LIVE,
            "config": libvirt.VIR_DOMAIN_AFFECT_CONFIG,
        }[where]
        with host.domain(name) as domain, driver.service.listening() as events:
            domain.pinVcpuFlags(1, (True, *[False] * max(CPUS)), flags)
            if where == "config":
                domain.setMetadata(  # of which libvirt tells, as it does not of the pin
                    libvirt.VIR_DOMAIN_METADATA_TITLE, "web", None, None, flags
                )
            events.wait_for("repair", vm=name)
            shown = 0 if where == "live" else libvirt.VIR_DOMAIN_XML_INACTIVE

            def pins() -> list[str | None]:
                tune = ET.fromstring(domain.XMLDesc(shown)).findall("cputune/vcpupin")
                return [each.get("cpuset") for each in tune]

            eventually(lambda: pins() == [format_cpulist(CPUS)] * 2, AT_ONCE_S)


def test_a_stranger_is_counted_and_left_alone_until_adopted(host: RealHost) -> None:
    stranger, ours = host.lab.name("stranger"), host.lab.name()
    with host.service() as driver:
        connection = host.lab.connect()
        domain = connection.defineXML(host.lab.domain_xml(stranger, pins=(CPUS[:1],)))
        domain.create()
        eventually(lambda: stranger in driver.vms(), AT_ONCE_S)
        before = domain.XMLDesc(0)
        driver.deployed(ours, level="1")
        assert set(thread_pins(host.lab.pid(ours)).values()) == {CPUS}  # what level 1 owns
        assert refusal(driver.remove(stranger)) == (409, "wrong-state")
        assert refusal(driver.do(stranger, "shutdown")) == (409, "wrong-state")
        assert refusal(driver.do(stranger, "resize", {"vcpus": 2})) == (409, "wrong-state")
        assert domain.XMLDesc(0) == before
        driver.removed(ours)

        driver.done(stranger, "adopt", {"level": "2"})
        pins = thread_pins(host.lab.pid(stranger))
        assert set(pins.values()) == {CPUS}, pins
    with host.service() as driver:  # what was noted outlives us
        assert driver.vm(stranger)["level"] == "2.0"
        assert driver.service.get("/v1/host")["foreign"] == []
        driver.removed(stranger)
        assert host.domains() == {}
        connection.close()


def test_everything_survives_restarts(host: RealHost) -> None:
    name, other = host.lab.name(), host.lab.name()
    with host.service() as driver:
        before = driver.deployed(name, labels={"owner": "ü"}, max_vcpus=2)
        driver.deployed(other, start=False)
        pid = host.lab.pid(name)
        host.lab.restart()
        eventually(lambda: driver.do(name, "suspend").status == 200, BACK_S)
        driver.done(name, "resume")
        assert driver.vm(name) == before
        assert driver.service.stop() == 0
    with host.service() as driver:
        assert driver.vm(name) == before
        assert driver.ok(driver.deploy(name)) == before  # the same request again
        assert refusal(driver.deploy(name, vcpus=2)) == (409, "name-taken")
        assert driver.states() == {name: "running", other: "down"}
        driver.service.stop(signal.SIGKILL)
    with host.service() as driver:
        assert driver.vm(name) == before
        assert host.lab.pid(name) == pid
        assert host.overlays == sorted([name, other])


def test_after_a_reboot_what_is_wanted_running_runs(host: RealHost) -> None:
    name, off = host.lab.name(), host.lab.name()
    with host.service() as driver:
        driver.deployed(name)
        driver.deployed(off, start=False)
        driver.service.stop()
    with host.domain(name) as domain:
        domain.destroy()
    with host.service() as driver:
        assert driver.states() == {name: "down", off: "down"}  # somebody stopped it
        driver.service.stop()
    journal = host.directory / "journal" / "journal.jsonl"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot_id in journal.read_text()
    journal.write_text(journal.read_text().replace(boot_id, "another"))
    with host.service() as driver:
        assert driver.states() == {name: "running", off: "down"}
        assert host.domains() == {name: True, off: False}


def test_libvirtd_away_refuses_changes_and_comes_back(host: RealHost) -> None:
    with host.service() as driver:
        name = host.lab.name()
        driver.deployed(name)
        host.lab.stop()
        eventually(lambda: driver.service.get("/v1/host")["warnings"], AT_ONCE_S)
        assert "is away since" in driver.service.get("/v1/host")["warnings"][0]
        for refused in (
            driver.deploy(host.lab.name()),
            driver.do(name, "suspend"),
            driver.do(name, "resize", {"vcpus": 2}),
            driver.remove(name),
        ):
            assert refusal(refused) == (502, "hypervisor-failed")
            assert "is away since" in refused.json["reason"]
        assert driver.vm(name)["state"] == "running"
        assert driver.service.get("/status")["cpu"]["subset"]["2.0"]["palloc"] == 1
        os.kill(host.lab.pid(name), signal.SIGKILL)  # of which nobody will tell
        host.lab.start()
        eventually(lambda: driver.vm(name)["state"] == "down", BACK_S)
        eventually(lambda: not driver.service.get("/v1/host")["warnings"], AT_ONCE_S)
        driver.done(name, "start")
        assert host.overlays == [name]
        assert "Traceback" not in driver.service.heard()


def test_a_libvirtd_that_hangs_fails_the_request_only(host: RealHost) -> None:
    with host.service(SCL_CALL_TIMEOUT="1") as driver:
        name, hung = host.lab.name(), host.lab.name()
        driver.deployed(name)
        os.kill(host.lab.daemon_pid, signal.SIGSTOP)
        try:
            refused = driver.deploy(hung)
            assert refusal(refused) == (502, "hypervisor-failed")
            assert "did not answer" in refused.json["reason"]
            assert driver.vms() == [name]
        finally:
            os.kill(host.lab.daemon_pid, signal.SIGCONT)
        # libvirtd heard it after all, or did not: nothing is left of it in either case
        eventually(lambda: host.domains() == {name: True} and host.overlays == [name], BACK_S)
        assert driver.vms() == [name]
        eventually(lambda: driver.deploy(hung).status == 201, BACK_S)
        os.kill(host.lab.daemon_pid, signal.SIGSTOP)
        try:
            assert refusal(driver.do(name, "suspend")) == (502, "hypervisor-failed")
            assert driver.service.stop() == 0  # what hangs does not keep it from ending
        finally:
            os.kill(host.lab.daemon_pid, signal.SIGCONT)


def test_an_emulator_that_hangs_holds_up_its_own_vm_only(host: RealHost) -> None:
    with host.service(SCL_CALL_TIMEOUT="2") as driver:
        hung, other, third = host.lab.name(), host.lab.name(), host.lab.name()
        driver.deployed(hung)
        driver.deployed(other)
        os.kill(host.lab.pid(hung), signal.SIGSTOP)
        try:
            assert refusal(driver.do(hung, "suspend")) == (502, "hypervisor-failed")
            driver.done(other, "suspend")
            driver.deployed(third, start=False)
            with host.domain(third) as domain:
                domain.undefine()
            eventually(lambda: third not in driver.vms(), AT_ONCE_S)
            assert driver.service.get("/v1/host")["warnings"] == []
        finally:
            os.kill(host.lab.pid(hung), signal.SIGCONT)
        eventually(lambda: driver.vm(hung)["state"] == "suspended", AT_ONCE_S)  # after all


def overlay_begun(host: RealHost, _: str) -> bool:
    return any(host.disks.iterdir())


def defined(host: RealHost, name: str) -> bool:
    return name in host.domains()


def running(host: RealHost, name: str) -> bool:
    return host.domains().get(name, False)


def stopped(host: RealHost, name: str) -> bool:
    return host.domains().get(name) is not True


def gone(host: RealHost, name: str) -> bool:
    return name not in host.domains()


def killed_when(driver: Driver, request: Callable[[], object], moment: Callable[[], bool]) -> None:
    """Send *request* and kill the service once *moment* has come."""

    def send() -> None:
        with suppress(OSError, HTTPException):
            request()

    sending = threading.Thread(target=send)
    sending.start()
    eventually(moment)
    assert driver.service.stop(signal.SIGKILL) == -signal.SIGKILL
    sending.join()


@pytest.mark.parametrize("moment", [overlay_begun, defined, running])
def test_a_deploy_that_is_killed_is_finished_or_undone(
    host: RealHost, moment: Callable[[RealHost, str], bool]
) -> None:
    name = host.lab.name()
    with host.service() as driver:
        killed_when(driver, lambda: driver.deploy(name), lambda: moment(host, name))
    with host.service() as driver:
        agreed(host, driver)
        assert driver.deploy(name).status in (200, 201)
        assert host.domains() == {name: True}
        agreed(host, driver)
        driver.removed(name)
        assert host.overlays == []
        assert host.domains() == {}


@pytest.mark.parametrize("moment", [stopped, gone])
def test_a_removal_that_is_killed_is_carried_through(
    host: RealHost, moment: Callable[[RealHost, str], bool]
) -> None:
    name = host.lab.name()
    with host.service() as driver:
        driver.deployed(name)
        killed_when(driver, lambda: driver.remove(name), lambda: moment(host, name))
    with host.service() as driver:
        assert driver.vms() == []
        assert host.domains() == {}
        assert host.overlays == []
        assert host.notes == []


def test_a_deploy_killed_while_libvirtd_hangs(host: RealHost) -> None:
    name = host.lab.name()
    with host.service() as driver:
        os.kill(host.lab.daemon_pid, signal.SIGSTOP)

        def asked() -> bool:
            journal = host.directory / "journal" / "journal.jsonl"
            return '"begin"' in journal.read_text() or name in journal.read_text()

        killed_when(driver, lambda: driver.deploy(name), asked)
        os.kill(host.lab.daemon_pid, signal.SIGCONT)
    with host.service() as driver:
        time.sleep(0.5)  # it may have been defined after we looked
        agreed(host, driver)
        assert driver.deploy(name).status in (200, 201)
        agreed(host, driver)


def agreed(host: RealHost, driver: Driver) -> None:
    """Service and hypervisor have the same VMs, and there is no disk beside theirs."""

    def agree() -> bool:
        domains = sorted(host.domains())
        return domains == driver.vms() == host.overlays and not host.notes

    eventually(agree, 5.0)


def test_without_libvirtd_it_says_how_to_go_on(tmp_path: Path) -> None:
    settings = {"SCL_HYPERVISOR": "libvirt", "QEMU_URL": f"qemu:///system?socket={tmp_path}/none"}
    ended = run_local(tmp_path, settings=settings)
    assert ended.returncode == 1
    (told,) = [line for line in ended.stderr.splitlines() if " INFO " not in line]
    assert "--topology" in told
    assert "systemctl start libvirtd" in told
