"""What a user of a real host gets wrong, or the host: a sentence and a code, and nothing else comes
of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from schedulerlocal.adapters.consolelog import console_log
from tests.hypervisorlab import Lab
from tests.qcow2files import make_image
from tests.realhost import RealHost, refusal
from tests.realtarget import Target
from tests.servers import Answer, eventually

FAILED = (502, "hypervisor-failed")
NO_ROOM = (409, "no-capacity")


@pytest.fixture(scope="module")
def target(shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Calls to libvirt take at most a second, and disks have little room."""
    shared_lab.clear()
    directory = tmp_path_factory.mktemp("host")
    (directory / "images").mkdir()
    host = RealHost(shared_lab, directory, make_image(directory / "images" / "plain.qcow2"))
    host.disks.mkdir()
    with (
        mounted(host.disks, "size=1m"),
        host.service(QEMU_TEMPLATE="", SCL_CALL_TIMEOUT="1") as driver,
    ):
        yield Target(driver)
        assert driver.service.stop() == 0
    shared_lab.clear()


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


BEYOND_THE_MACHINE = max(os.sched_getaffinity(0)) + 2


@pytest.mark.parametrize(
    ("more", "expected", "wrong"),
    [
        ({"vcpus": BEYOND_THE_MACHINE, "level": "64"}, NO_ROOM, "no room: it needs "),
        ({"vcpus": 4096, "level": "1"}, NO_ROOM, "no room: it needs 4096 more CPUs and "),
        ({"memory_mib": 1 << 30}, NO_ROOM, " more MiB of memory and "),
        ({"max_memory_mib": 1 << 30}, NO_ROOM, " more MiB of memory and "),
        ({"max_vcpus": 4096}, FAILED, "limit 255'; ask for a VM it can make, or correct"),
        ({"name": "."}, (400, "bad-request"), "name"),
        ({"name": ".."}, (400, "bad-request"), "name"),
        ({"name": "a/b"}, (400, "bad-request"), "name"),
        ({"name": "a\n"}, (400, "bad-request"), "name"),
    ],
    ids=lambda value: "" if isinstance(value, (str, tuple)) else str(value),
)
def test_what_neither_host_nor_libvirt_can_make(
    target: Target, more: dict[str, Any], expected: tuple[int, str], wrong: str
) -> None:
    body = {"name": "new", **more}
    told = target.refused(expected, lambda: target.define(**body), begun=expected == FAILED)
    assert wrong in told


@pytest.mark.parametrize(
    "size",
    [{"vcpus": 4096}, {"memory_mib": 1 << 30}, {"vcpus": BEYOND_THE_MACHINE, "memory_mib": 512}],
    ids=["vCPUs", "memory", "both"],
)
def test_no_vm_is_resized_beyond_the_machine(target: Target, size: dict[str, int]) -> None:
    driver = target.driver
    driver.ok(target.define("small", level="1"), 201)
    told = target.refused(NO_ROOM, lambda: driver.do("small", "resize", size))
    assert told.startswith("no room: it needs ")
    driver.removed("small")


@pytest.mark.parametrize(
    "name", ["%2e", "%2e%2e", "%2f", "a%2fb", "a%0a", "a%00b", "%ff", "nobody"]
)
def test_no_name_reaches_what_is_not_a_vm(target: Target, name: str) -> None:
    before = target.all_there_is()
    for answer in (
        target.driver.remove(name),
        target.driver.do(name, "start"),
        target.driver.do(name, "resize", {"vcpus": 1}),
        target.driver.do(name, "adopt", {"level": "2"}),
        target.driver.service.ask("GET", f"/v1/vms/{name}"),
        target.driver.service.ask("GET", f"/remove?name={name}"),
    ):
        status, code = refusal(answer)
        assert (status, code) in {
            (400, "bad-request"),
            (404, "unknown-vm"),
            (404, "not-found"),
        } or ((status, code) == (405, "method-not-allowed"))
    assert target.all_there_is() == before


def test_a_start_that_libvirt_refuses_says_where_to_look(target: Target) -> None:
    driver = target.driver
    driver.ok(target.define("new"), 201)
    log = Path(console_log(driver.host.directory / "journal" / "console", "new"))
    log.mkdir()  # which QEMU cannot write to
    before = ET.tostring(target.config("new"))
    answer = driver.do("new", "start")
    log.rmdir()
    assert refusal(answer) == FAILED
    told = answer.json["reason"]
    assert told.startswith("VM 'new' could not be started: libvirt says ")
    assert told.endswith("; look at libvirtd's log (journalctl -u libvirtd)")
    # a pass may have seen it begin
    eventually(lambda: driver.service.get("/v1/vms/new")["state"] == "down")
    assert ET.tostring(target.config("new")) == before
    driver.removed("new")


# --- a disk that is full --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ("size=64k", "No space left on device"),
        ("nr_inodes=1", "No space left on device"),
        ("ro", "Read-only file system"),
    ],
    ids=["no room", "no room for another file", "read only"],
)
@pytest.mark.parametrize("start", [True, False])
def test_no_disk_can_be_made(target: Target, options: str, wrong: str, start: bool) -> None:
    driver, disks = target.driver, target.driver.host.disks
    remount(disks, options)
    try:
        told = target.refused(FAILED, lambda: driver.deploy("new", start=start))
        assert told.startswith(f"no disk for VM 'new' can be made in {disks}: ")
        assert wrong in told
        assert re.search("; make room and try again$|; make that .SCL_DISK_DIR. a folder", told)
    finally:
        remount(disks, "rw,size=1m,nr_inodes=100")
    driver.ok(target.define("new"), 201)  # the same request, once there is room
    driver.removed("new")
    assert driver.host.overlays == driver.host.notes == []


def test_no_disk_can_be_noted(target: Target) -> None:
    """The overlay is not begun: a crash would leave it behind for good."""
    driver, notes = target.driver, target.driver.host.directory / "journal" / "disks"
    driver.ok(target.define("there"), 201)
    with mounted(notes, "size=4k,nr_inodes=1"):
        told = target.refused((503, "store-unavailable"), lambda: target.define("new"))
        assert f"cannot note the disk of VM 'new' in {notes}: No space left on device" in told
        assert told.endswith("; make room for it (SCL_STATE_DIR)")
        # room is made by removing things: that must not need any
        driver.removed("there")
        assert driver.host.overlays == []
    assert driver.vms() == []


# --- calls that hang ------------------------------------------------------------------------------


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


HANGING: dict[str, Callable[[Target], Answer]] = {
    "remove": lambda target: target.driver.remove("there"),
    "resize": lambda target: target.driver.do("there", "resize", {"memory_mib": 128}),
    "start": lambda target: target.driver.do("there", "start"),
    "deploy": lambda target: target.define("new"),
}


@pytest.mark.parametrize("ask", HANGING.values(), ids=HANGING.keys())
def test_a_libvirtd_that_hangs_fails_the_request_and_nothing_else(
    target: Target, ask: Callable[[Target], Answer]
) -> None:
    driver, host = target.driver, target.driver.host
    other = make_image(target.images / "other.qcow2")
    driver.ok(target.define("there", image=str(other)), 201)
    with stopped(host.lab.daemon_pid):
        answer = ask(target)
        assert refusal(answer) == FAILED
        assert re.search(
            r"^the hypervisor did not answer \S+( \S+)* within 1 s; look at its log and try again$",
            answer.json["reason"],
        )
        assert driver.vms() == ["there"]
        assert driver.service.ask("GET", "/healthz").status == 200
        assert driver.service.get("/status")["cpu"]["subset"]["2.0"]["palloc"] == 1

    def agreed() -> bool:
        """libvirtd heard the call after all, or did not: either will do, all over."""
        there, disks = sorted(host.domains()), [*host.overlays]
        return there == driver.vms() and disks == there and not host.notes

    eventually(agreed, 10.0)
    for name in driver.vms():
        eventually(lambda name=name: driver.remove(name).status in (200, 404))
    eventually(agreed)
    assert host.domains() == {}
    assert "Traceback" not in driver.service.heard()
    assert target.images.joinpath("plain.qcow2").exists()
    other.unlink()


def test_a_removal_that_a_libvirtd_took_with_it_leaves_the_vm_its_disk(target: Target) -> None:
    driver, host = target.driver, target.driver.host
    driver.ok(target.define("there"), 201)
    with stopped(host.lab.daemon_pid):
        assert refusal(driver.remove("there")) == FAILED
        host.lab.kill()
        host.lab.start()
    eventually(lambda: not host.notes)
    assert driver.vms() == host.overlays == ["there"]
    assert host.domains() == {"there": False}
    eventually(lambda: driver.remove("there").status == 200)  # once we are connected again
    assert host.overlays == host.notes == []
    assert host.domains() == {}
