"""What an operator or a user of a real host gets wrong: a sentence and a code, and nothing else
comes of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.hypervisorlab import Lab
from tests.qcow2files import make_image
from tests.realhost import RealHost, refusal
from tests.realtarget import Target
from tests.servers import ROOT, Answer, Service, eventually, local_service, run_local

FAILED = (502, "hypervisor-failed")
NO_ROOM = (409, "no-capacity")
ON_PAPER = {
    "SCL_HYPERVISOR": "libvirt",
    "QEMU_URL": "test:///default",
    "QEMU_TYPE": "qemu",
    "QEMU_NETWORK": "none",
}
"""libvirt's own driver for tests: it keeps domains for as long as we are connected, runs none."""

Making = Callable[[Path], object]


def ended_with(code: int, directory: Path, settings: dict[str, str]) -> str:
    """What a start that has to fail says last; the rest is what it did before."""
    ended = run_local(directory, settings={**ON_PAPER, **settings})
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    (told,) = [line for line in ended.stderr.splitlines() if " INFO " not in line]
    assert "; " in told, "it says how to mend it"
    return told


# --- a template -----------------------------------------------------------------------------------


def written(content: str | bytes) -> Making:
    encoded = content.encode() if isinstance(content, str) else content
    return lambda path: path.write_bytes(encoded)


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
TEMPLATES: dict[str, tuple[Making, str]] = {
    "none": (lambda _: None, "cannot be read: No such file or directory"),
    "a folder": (Path.mkdir, "is not a regular file"),
    "a FIFO": (os.mkfifo, "is not a regular file"),
    "empty": (written(""), "is not XML (no element found"),
    "cut off": (written("<domain><devices/>"), "is not XML (no element found"),
    "DOCTYPE": (
        written('<!DOCTYPE domain SYSTEM "/etc/passwd"><domain><devices/></domain>'),
        "has a DOCTYPE",
    ),
    "a billion laughs": (
        written(f"<!DOCTYPE d [<!ENTITY l0 'ha'>{LAUGHS}]><domain>&l9;<devices/></domain>"),
        "has a DOCTYPE",
    ),
    "UTF-16": (written("<domain><devices/></domain>".encode("utf-16")), "is not UTF-8"),
    "no devices": (written("<domain><name>x</name></domain>"), "has no <devices>"),
    "huge": (written(f"<domain>{' ' * (1 << 20)}</domain>"), "is larger than 1048576 bytes"),
}


@pytest.mark.parametrize(("make", "wrong"), TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_template_that_is_none_ends_the_start(tmp_path: Path, make: Making, wrong: str) -> None:
    path = tmp_path / "template.xml"
    make(path)
    told = ended_with(2, tmp_path, {"QEMU_TEMPLATE": str(path)})
    assert told.startswith(f"QEMU_TEMPLATE {path} {wrong}"), told
    assert not (tmp_path / "journal").exists()


# --- libvirtd -------------------------------------------------------------------------------------


@contextmanager
def listener(path: Path, greeting: bytes | None) -> Iterator[None]:
    """Somebody at a socket who hangs up after *greeting*, or who never answers."""

    def hang_up() -> None:
        with suppress(OSError):
            while True:
                with plug.accept()[0] as caller:
                    caller.sendall(greeting or b"")

    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind(str(path))
        plug.listen(50)
        if greeting is None:
            yield
            return
        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            yield
        finally:
            plug.shutdown(socket.SHUT_RDWR)
            thread.join()


NO_LIBVIRTD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no socket": (lambda _: ExitStack(), "cannot be reached (Failed to connect socket"),
    "no socket but a file": (
        lambda path: ExitStack() if path.write_text("") == 0 else None,
        "cannot be reached (Failed to connect socket",
    ),
    "it hangs": (lambda path: listener(path, None), "did not answer within 0.75 s"),
    "it hangs up": (lambda path: listener(path, b""), "cannot be reached ("),
    "not libvirtd": (lambda path: listener(path, b"HTTP/1.1 400\r\n"), "cannot be reached ("),
}


@pytest.mark.parametrize(("somebody", "wrong"), NO_LIBVIRTD.values(), ids=NO_LIBVIRTD.keys())
def test_without_a_libvirtd_it_says_how_to_simulate(
    somebody: Callable[[Path], Any], wrong: str
) -> None:
    with tempfile.TemporaryDirectory() as short:  # a socket's path is at most 107 characters
        directory = Path(short)
        url = f"qemu:///system?socket={directory}/sock"
        with somebody(directory / "sock"):
            told = ended_with(1, directory, {"QEMU_URL": url, "SCL_CALL_TIMEOUT": "1"})
    assert told.startswith(f"libvirtd at {url} {wrong}"), told
    assert re.search(r"start libvirtd\), or simulate a host with --topology=\S+\.json$", told)


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (written("x"), "Not a directory"),
        (os.mkfifo, "Not a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["a file", "a FIFO", "a loop"],
)
def test_a_folder_of_disks_that_is_none_ends_the_start(
    tmp_path: Path, make: Making, wrong: str
) -> None:
    path = tmp_path / "disks"
    make(path)
    told = ended_with(2, tmp_path, {"SCL_DISK_DIR": str(path)})
    assert told.startswith(f"SCL_DISK_DIR: {path}, where the disks of VMs belong, cannot be listed")
    assert f"({wrong})" in told


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[str]]]:
    """A folder of somebody whom file modes keep out, which root is not, and how to be that one."""
    owner = ROOT.stat().st_uid if os.geteuid() == 0 else os.geteuid()
    by = []
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.fail("setpriv is missing; apt install util-linux", pytrace=False)
        by = [
            *("setpriv", f"--reuid={owner}", "--clear-groups", "--inh-caps=-all"),
            "--bounding-set=-dac_override,-dac_read_search",
        ]
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, owner, -1)
        yield Path(name), by


def test_what_the_service_may_not_read_or_write_is_told(
    strangers: tuple[Path, list[str]],
) -> None:
    directory, by = strangers
    images, disks, hidden = (directory / name for name in ("images", "disks", "images/hidden"))
    for folder in (images, disks, hidden):
        folder.mkdir()
    image, locked = make_image(images / "plain.qcow2"), make_image(images / "locked.qcow2")
    beneath = make_image(hidden / "beneath.qcow2")
    for path in (images, disks, image, hidden):
        os.chown(path, directory.stat().st_uid, -1)
    locked.chmod(0)
    hidden.chmod(0)
    node = directory / "node.xml"
    node.write_text("<node><cpu><mhz>1</mhz><model>i686</model><nodes>1</nodes></cpu></node>")
    settings = {
        **ON_PAPER,
        "QEMU_URL": f"test://{node}",
        "SCL_IMAGE_DIRS": str(images),
        "SCL_DISK_DIR": str(disks),
    }
    with local_service(directory, "--debug=0", settings=settings, by=by) as service:
        for path in (locked, beneath):
            told = refused(service, (400, "bad-request"), path)
            assert f"'{path}' cannot be read (Permission denied); give the path of a" in told
        disks.chmod(0o500)
        told = refused(service, FAILED, image)
        assert f"no disk for VM 'new' can be made in {disks}: Permission denied; make that" in told
        disks.chmod(0o700)
        assert deploy(service, image).status == 201  # the same request, once that is mended


def refused(service: Service, expected: tuple[int, str], image: Path) -> str:
    answer = deploy(service, image)
    assert refusal(answer) == expected
    assert service.get("/listvm") == []
    assert list((service_directory(image) / "disks").iterdir()) == []
    assert not any((service_directory(image) / "journal" / "disks").glob("*"))
    assert "Traceback" not in service.heard()
    return str(answer.json["reason"])


def deploy(service: Service, image: Path) -> Answer:
    sizes = {"vcpus": 1, "memory_mib": 128, "level": "2"}
    return service.ask("POST", "/v1/vms", {"name": "new", **sizes, "image": str(image)})


def service_directory(image: Path) -> Path:
    return next(folder for folder in image.parents if (folder / "journal").exists())


# --- requests to a real host ----------------------------------------------------------------------


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
