"""No domain has a device, a file or an argument that was not asked for, whoever tries, and how.

Every request is tried on a host without a template and on one whose operator took a hostile one
from somewhere. Unless it is about what runs, VMs are only defined.
"""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import pytest

from tests.badinput import BAD, NAMES
from tests.hypervisorlab import Lab
from tests.qcow2files import header, make_image, on
from tests.realhost import MEMORY_MIB, RealHost
from tests.realtarget import Target, paths, shape
from tests.servers import Answer, eventually

BREAKING_OUT = "\"'></source></disk>]]></metadata><hostdev/>&amp;&lt;<!-- -->"
MADE_OF = {"emulator": 1, "disk": 1, "serial": 1, "console": 1, "channel": 1, "memballoon": 1}
ADDED_BY_LIBVIRT = {"controller", "input", "audio", "watchdog"}

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
HOSTILE_TEMPLATE = Path(__file__).parent / "data" / "hostile-template.xml"


@pytest.fixture(scope="module", params=["no template", "a hostile template"])
def target(
    request: pytest.FixtureRequest, shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """Its folders have names that are markup, or options to QEMU, where they are not taken as
    names."""
    shared_lab.clear()
    directory = tmp_path_factory.mktemp("a,b=c&lt;<'x")
    (directory / "secret").mkdir()
    make_image(directory / "secret" / "key.qcow2")
    images = directory / "images,ro <&>"
    images.mkdir()
    host = RealHost(shared_lab, directory, make_image(images / "plain.qcow2"))
    host.disks.mkdir()
    template = ""
    if request.param != "no template":
        template = str(HOSTILE_TEMPLATE)
    with host.service(QEMU_TEMPLATE=template) as driver:
        yield Target(driver)
        assert driver.service.stop() == 0
    shared_lab.clear()


@pytest.fixture
def asked(target: Target) -> str:
    """What a domain is that was asked for in plain words."""
    return made_shape(target, "plain")


def made_shape(target: Target, name: str, **more: Any) -> str:
    """What became of a request that has to succeed; it is removed again."""
    driver = target.driver
    driver.ok(target.define(name, **more), 201)
    domain, noted = target.config(name), target.noted(name)
    disk = noted["disk_path"]
    if more.get("disk") == "in-place":
        assert disk == more["image"]
    else:
        assert Path(disk).parent == driver.host.disks
    console = driver.host.console(name)
    not_ours = {domain.findtext("devices/emulator"), domain.findtext("devices/rng/backend")}
    assert paths(domain) - not_ours == {disk, str(console)}
    driver.removed(name)
    assert driver.host.overlays == []
    return shape(domain, name, noted, console)


def test_a_domain_is_made_of_this_and_nothing_else(asked: str) -> None:
    devices = Counter(each.tag for each in ET.fromstring(asked).findall("devices/*"))
    assert {tag: devices.pop(tag, 0) for tag in MADE_OF} == MADE_OF
    assert devices.pop("rng", 0) in (0, 1)  # the template's
    assert set(devices) <= ADDED_BY_LIBVIRT
    assert QEMU not in asked
    for word in ("shadow", "passwd", "/bin/sh", "evil", "cron", "golden", "11111111", "sda"):
        assert word not in asked


# --- what names may hold --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a" * 63, "007", "a--help", "a..", "x_-.qcow2", "domain"])
def test_a_name_is_a_name(target: Target, asked: str, name: str) -> None:
    assert made_shape(target, name) == asked


@pytest.mark.parametrize(
    "file",
    [
        BREAKING_OUT.replace("/", "") + ".qcow2",
        "a,b=c:d,readonly=off.qcow2",
        "json:{}",
        "nbd:unix:x",
        "$(id)`id`;id %s%n\\",
        "-hda ü😀.qcow2",
        "x" * 250,
    ],
)
@pytest.mark.parametrize("disk", ["overlay", "in-place"])
def test_an_image_is_a_file_whatever_it_is_called(
    target: Target, asked: str, file: str, disk: str
) -> None:
    image = make_image(target.images / file)
    assert made_shape(target, "odd", image=str(image), disk=disk) == asked
    image.unlink()


def test_an_overlay_builds_on_its_image_alone(target: Target) -> None:
    image = make_image(target.images / 'json:{"file.filename":"a,b"} ]]>.qcow2')
    target.driver.ok(target.define("odd", image=str(image)), 201)
    disk = target.noted("odd")["disk_path"]
    with open(disk, "rb") as file:
        assert str(image).encode() in file.read(4096)
    target.driver.removed("odd")
    image.unlink()


@pytest.mark.parametrize(
    "more",
    [
        {"labels": {"a/b": BREAKING_OUT, "c": "${x} %s", "d": "</vmstack:vm>😀"}},
        {"request_id": "a:b.c-d_e"},
        {"max_vcpus": 1, "max_memory_mib": MEMORY_MIB},
    ],
    ids=["labels", "request id", "maxima"],
)
def test_what_is_noted_is_only_noted(target: Target, asked: str, more: dict[str, Any]) -> None:
    assert made_shape(target, "noted", **more) == asked
    # an id makes one VM
    again = {field: value for field, value in more.items() if field != "request_id"}
    target.driver.ok(target.define("noted", **again), 201)
    assert target.driver.vm("noted")["labels"] == more.get("labels", {})
    target.driver.removed("noted")


def test_what_an_adopted_vm_is_given_is_only_noted(target: Target) -> None:
    driver = target.driver
    foreign = "<b>&\"' a,b]]>"
    connection = driver.host.lab.connect()
    connection.defineXML(driver.host.lab.domain_xml(foreign))
    connection.close()
    eventually(lambda: driver.vms() == [foreign])
    before = target.config(foreign)
    body = {"level": "2", "owner": BREAKING_OUT, "labels": {"x": BREAKING_OUT}}
    vm = driver.ok(driver.service.ask("POST", f"/v1/vms/{quote(foreign)}/adopt", body))
    assert (vm["owner"], vm["labels"]) == (BREAKING_OUT, {"x": BREAKING_OUT})
    assert driver.service.get("/v1/host")["foreign"] == []
    after = target.config(foreign)
    for tag in ("devices", "os", "features"):
        assert ET.tostring(after.find(tag)) == ET.tostring(before.find(tag))  # type: ignore[arg-type]
    assert {each.tag for each in after} - {each.tag for each in before} <= {"metadata", "cputune"}
    driver.removed(quote(foreign))
    assert driver.host.domains() == {}


# --- what is refused ------------------------------------------------------------------------------

REFUSED: dict[str, dict[str, Any]] = {
    **{f"name: {id_}": {"name": name} for id_, name in NAMES.items()},
    "name: breaking out": {"name": f"a{BREAKING_OUT}"},
    "name: entity": {"name": "a&lt;"},
    "disk: an option": {"disk": "in-place,readonly=off"},
    "disk: markup": {"disk": "in-place'/><hostdev/>"},
    "disk: a path": {"disk": "/etc/shadow"},
    "image: newline": {"image": "{images}/a\n.qcow2"},
    "image: NUL": {"image": "{images}/plain.qcow2\0"},
    "image: ESC": {"image": "{images}/\x1b[2J"},
    "image: climbing": {"image": "{images}/../secret/key.qcow2"},
    "image: in a folder beside": {"image": "{images}-not/key.qcow2"},
    "image: a file of ours": {"image": "{images}/../journal/journal.jsonl"},
    "image: a protocol": {"image": "nbd://127.0.0.1/x"},
    "image: json": {"image": 'json:{"driver":"file","filename":"/etc/shadow"}'},
    "image: the image and more": {"image": "{images}/plain.qcow2,file=/etc/shadow"},
    "image: surrogate": {"image": "{images}/\udcff"},
    "image: long": {"image": "{images}/" + "x" * 4096},
    "image: long name": {"image": "{images}/" + "x" * 256},
    "label: newline": {"labels": {"a": "b\n<hostdev/>"}},
    "label: NUL": {"labels": {"a": "b\0"}},
    "label: name": {"labels": {"<hostdev/>": ""}},
    "request id: markup": {"request_id": "<a>"},
    "level: markup": {"level": "2</vcpu>"},
    "another host": {"host": "<x>"},
    "a policy": {"policy": "first-fit"},
    **{
        f"field {field}": {field: "/etc/shadow"}
        for field in ("template", "xml", "devices", "qemu:commandline", "kernel", "disk_path")
    },
}


@pytest.mark.parametrize("more", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_such_thing_is_refused(target: Target, more: dict[str, Any]) -> None:
    filled = {
        field: value.replace("{images}", str(target.images)) if isinstance(value, str) else value
        for field, value in more.items()
    }
    body = {"name": "new", **filled}
    target.refused(BAD, lambda: target.define(**body))
    if "name" in more or "image" in more:
        image = filled.get("image", str(target.driver.host.image))
        target.refused(BAD, lambda: target.published(body["name"], image))


Making = Callable[[Path, Path], object]
"""Puts something at the first path; the second is a folder images may not come from."""


def written(content: bytes) -> Making:
    return lambda path, _: path.write_bytes(content)


def leading_to(*parts: str) -> Making:
    return lambda path, secret: path.symlink_to(secret.joinpath(*parts))


def _hard_link(path: Path, secret: Path) -> None:
    (secret / "text").write_text("secret")
    os.link(secret / "text", path)


def _through_a_folder(path: Path, secret: Path) -> None:
    path.with_name("away").symlink_to(secret)
    path.write_bytes(on("away/key.qcow2"))


HOSTILE_IMAGES: dict[str, tuple[Making, str]] = {
    "nothing": (lambda *_: None, "does not exist"),
    "empty": (written(b""), "is not a qcow2 image"),
    "raw": (written(bytes(65536)), "is not a qcow2 image"),
    "a folder": (lambda path, _: path.mkdir(), "is a folder"),
    "a FIFO": (lambda path, _: os.mkfifo(path), "is no regular file"),
    "a device": (
        lambda path, _: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5)),
        "is no regular file",
    ),
    "a link out": (leading_to("key.qcow2"), "is in none of the folders"),
    "a link to a folder": (leading_to(), "is in none of the folders"),
    "a link to a device": (leading_to("/dev/zero"), "is in none of the folders"),
    "a link to a secret": (leading_to("/etc/shadow"), "is in none of the folders"),
    "a link to memory": (leading_to("/proc/self/mem"), "is in none of the folders"),
    "a hard link out": (_hard_link, "is not a qcow2 image"),
    "built on a secret": (written(on("/etc/shadow", b"raw")), "'/etc/shadow', which is in none"),
    "climbing": (written(on("../secret/key.qcow2")), "which is in none of the folders"),
    "through a linked folder": (_through_a_folder, "which is in none of the folders"),
    "built on json": (
        written(on('json:{"driver":"file","filename":"/etc/shadow"}', b"raw")),
        "which is no plain file",
    ),
    "built on nbd": (written(on("nbd://127.0.0.1:1/x", b"raw")), "which is no plain file"),
    "built on a file:": (written(on("file:/etc/shadow", b"raw")), "which is no plain file"),
    "built on who knows what": (written(on("plain.qcow2", None)), "does not say that this is"),
    "built on itself": (lambda path, _: path.write_bytes(on(path.name)), "leads back to itself"),
    "with a data file": (written(header(features=4)), "keeps its data in another file"),
}


@pytest.mark.parametrize(("make", "wrong"), HOSTILE_IMAGES.values(), ids=HOSTILE_IMAGES.keys())
@pytest.mark.parametrize("disk", ["overlay", "in-place"])
def test_what_is_no_image_is_refused(target: Target, make: Making, wrong: str, disk: str) -> None:
    path = target.images / "hostile.qcow2"
    make(path, target.driver.host.directory / "secret")
    try:
        told = target.refused(BAD, lambda: target.define("new", image=str(path), disk=disk))
        assert f"the image (qcow2) '{path}'"[:60] in told.replace('"', "'")
        assert wrong in told
        assert "; " in told, "it says how to mend it"
        if disk == "overlay":
            assert target.refused(BAD, lambda: target.published("new", str(path))) == told
    finally:
        cleared(target.images)


# --- what is swapped after it was looked at -------------------------------------------------------


def swap(path: Path, make: Making, secret: Path) -> None:
    """Put something else at *path*, in one go, that is as long and as old."""
    facts = path.stat()
    beside = path.with_name("beside")
    make(beside, secret)
    if not beside.is_symlink():
        os.truncate(beside, facts.st_size)
        os.utime(beside, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    beside.replace(path)


SWAPPED: dict[str, Making] = {
    "a link out": leading_to("/etc/shadow"),
    "built on a secret": written(on("/etc/shadow", b"raw")),
    "built on json": written(on('json:{"driver":"file","filename":"/etc/shadow"}')),
    "with a data file": written(header(features=4)),
}


@pytest.mark.parametrize("make", SWAPPED.values(), ids=SWAPPED.keys())
@pytest.mark.parametrize("which", ["image", "overlay", "image in place"])
def test_what_was_swapped_is_not_started_on(target: Target, make: Making, which: str) -> None:
    driver, secret = target.driver, target.driver.host.directory / "secret"
    image = make_image(target.images / "swapped.qcow2")
    disk = "in-place" if which == "image in place" else "overlay"
    driver.ok(target.define("swapped", image=str(image), disk=disk), 201)
    swap(Path(target.noted("swapped")["disk_path"]) if which == "overlay" else image, make, secret)
    told = target.refused((409, "wrong-state"), lambda: driver.do("swapped", "start"))
    assert "VM 'swapped' cannot start: its " in told
    assert told.endswith(", or remove the VM and deploy it again")
    assert driver.host.domains() == {"swapped": False}
    driver.removed("swapped")
    assert driver.host.overlays == []
    cleared(target.images)


def test_what_is_swapped_while_the_vm_is_made_is_not_started_on(target: Target) -> None:
    driver, host = target.driver, target.driver.host
    image = make_image(target.images / "swapped.qcow2")
    answers: dict[str, Answer] = {}

    def ask(name: str, **more: Any) -> threading.Thread:
        thread = threading.Thread(
            target=lambda: answers.update({name: driver.deploy(name, **more)})
        )
        thread.start()
        return thread

    os.kill(host.lab.daemon_pid, SIGSTOP)
    try:
        first = ask("first", start=False)
        eventually(lambda: b"first" in target.journal)  # which has its turn, and libvirtd hangs
        second = ask("second", image=str(image))
        eventually(lambda: any(each.name.endswith(".qcow2") for each in disks_of(host, "second")))
        swap(image, SWAPPED["built on a secret"], host.directory / "secret")
    finally:
        os.kill(host.lab.daemon_pid, SIGCONT)
    first.join()
    second.join()
    assert answers["first"].status == 201
    assert (answers["second"].status, answers["second"].json["code"]) == (502, "hypervisor-failed")
    assert "'/etc/shadow', which is in none of the folders" in answers["second"].json["reason"]
    eventually(lambda: host.domains() == {"first": False} and host.overlays == ["first"])
    driver.removed("first")
    cleared(target.images)


def disks_of(host: RealHost, name: str) -> list[Path]:
    return [path for path in host.disks.iterdir() if path.name.startswith(f"{name}@")]


def cleared(images: Path) -> None:
    for path in images.iterdir():
        if path.name != "plain.qcow2":
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


# --- what runs ------------------------------------------------------------------------------------


def test_an_emulator_has_these_files_open_and_no_others(target: Target) -> None:
    driver, host = target.driver, target.driver.host
    base = make_image(target.images / "base,ro=on.qcow2")
    image = target.images / "top <&>.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, image], check=True
    )
    name = host.lab.name()
    driver.deployed(name, image=str(image))
    pid = host.lab.pid(name)
    disk = target.noted(name)["disk_path"]
    opened = {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_file()}
    # libvirt's own, under whatever the laboratory mounts them
    opened = {each for each in opened if Path(each).name not in (f"{name}.log", f"{name}.pid")}
    assert opened == {disk, str(image), str(base)}
    assert host.console(name).exists()
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"shadow" not in arguments
    assert b"LD_PRELOAD" not in Path(f"/proc/{pid}/environ").read_bytes()
    driver.removed(name)
    cleared(target.images)
