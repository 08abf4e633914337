"""The laboratory itself: what other tests take for granted of a real hypervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lxml import etree

from tests.hypervisorlab import (
    Lab,
    hypervisor_lab,
    libvirt,
    thread_pins,
    vcpu_threads,
    wait_for_line,
)
from tests.lab.needs import SCHEMAS
from tests.servers import ROOT, eventually

pytestmark = pytest.mark.real  # the machine must let us mount and start a libvirtd

CPUS = sorted(os.sched_getaffinity(0))
FIRST, LAST = (CPUS[0],), (CPUS[-1],)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ran_s(pid: int) -> float:
    """What a guest's vCPUs have used."""
    counters = [f"/proc/{each.thread_id}/schedstat" for each in vcpu_threads(pid).values()]
    return sum(int(Path(each).read_text().split()[0]) for each in counters) / 1e9


def test_a_guest_boots_burns_outlives_libvirtd_and_hears_the_power_button(lab: Lab) -> None:
    name = lab.name()
    xml = lab.domain_xml(name, "lab.burn=1", pins=(FIRST, LAST), disk=lab.disk(name))
    connection = lab.connect()
    domain = connection.defineXML(xml)
    domain.create()
    pid = lab.pid(name)
    assert thread_pins(pid)["CPU 0/TCG"] == FIRST
    assert {vcpu: thread.cpus for vcpu, thread in vcpu_threads(pid).items()} == {0: FIRST, 1: LAST}
    booted = wait_for_line(lab.console(name), r"^guest up: cpus=(\d+) memory_kib=(\d+)$")
    assert int(booted[1]) == 2
    assert 100 * 1024 < int(booted[2]) < 192 * 1024

    wait_for_line(lab.console(name), "^guest burns$")
    before_s = ran_s(pid)
    eventually(lambda: ran_s(pid) > before_s + 0.3)

    domain.pinVcpuFlags(0, (True,) * (max(CPUS) + 1), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    assert vcpu_threads(pid)[0].cpus == tuple(CPUS)

    lab.restart()
    lab.kill()
    lab.start()
    said = lab.console(name).read_text().count("guest tick")
    wait_for_line(lab.console(name), rf"^guest tick {said + 1}$")
    assert lab.pid(name) == pid
    with pytest.raises(libvirt.libvirtError):
        connection.listAllDomains()
    connection = lab.connect()
    domain = connection.lookupByName(name)
    assert domain.isActive()
    domain.shutdown()
    eventually(lambda: not domain.isActive())
    assert "guest power button" in lab.console(name).read_text()
    assert not alive(pid)


def test_the_template_is_a_domain_libvirt_knows(lab: Lab) -> None:
    schema = etree.RelaxNG(etree.parse(SCHEMAS / "domain.rng"))
    template = etree.parse(lab.template("lab.burn=1"))
    schema.assertValid(template)
    assert template.findtext("os/cmdline").endswith(" lab.burn=1")
    for path in ("os/kernel", "os/initrd"):
        assert Path(template.findtext(path)).stat().st_size > 1_000_000


DYING = """
import sys
from pathlib import Path
from tests.hypervisorlab import hypervisor_lab
with hypervisor_lab(Path(sys.argv[1])) as lab:
    name = lab.name()
    lab.connect().createXML(lab.domain_xml(name))
    print(lab.warden, lab.daemon_pid, lab.pid(name), flush=True)
    sys.stdin.read()
"""


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DYING, tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout
        pids = [int(word) for word in run.stdout.readline().split()]
        assert [alive(pid) for pid in pids] == [True] * 3
        run.send_signal(signal.SIGKILL)
    eventually(lambda: not any(map(alive, pids)) and not tmp_path.exists())


def test_nothing_outlives_a_test_that_fails(tmp_path: Path) -> None:
    pids, cgroups, config = [], [], []

    def fail() -> None:
        with hypervisor_lab(tmp_path) as lab:
            config.append((tmp_path / "etc" / "qemu.conf").read_text())
            name = lab.name("orphan")
            lab.connect().createXML(lab.domain_xml(name))
            pids.extend([lab.warden, lab.daemon_pid, lab.pid(name)])
            cgroups.extend(Path("/sys/fs/cgroup").rglob(f"qemu-*-{name}.libvirt-qemu"))
            lab.kill()
            os.kill(pids.pop(), signal.SIGKILL)  # libvirt will never tidy up after it
            raise ValueError("a test's own fault")

    with pytest.raises(ValueError, match="a test's own fault"):
        fail()
    assert not any(map(alive, pids))
    assert len(pids) == 2
    assert "cgroup_controllers = []" in config[0] or cgroups
    assert not any(cgroup.exists() for cgroup in cgroups)


def test_the_machines_own_folders_are_not_touched(lab: Lab) -> None:
    name = lab.name("private")
    lab.connect().defineXML(lab.domain_xml(name))
    assert (lab.directory / "etc" / "qemu" / f"{name}.xml").exists()
    for folder in ("/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/log/libvirt"):
        assert not list(Path(folder).rglob(f"*{name}*"))
    assert "/etc/libvirt" not in Path("/proc/self/mountinfo").read_text()
