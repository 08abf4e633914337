"""What an operator gets wrong before the first VM of a real host: one sentence, and no start."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.qcow2files import make_image
from tests.realhost import refusal
from tests.servers import ROOT, Answer, Service, local_service, run_local

FAILED = (502, "hypervisor-failed")
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
