"""Which images a VM may be made from: the whole chain, whatever it is made of."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from schedulercommon.errors import BadRequest
from schedulerlocal.adapters.imagechain import ImageReader
from tests.qcow2files import header, make_image, on

Making = Callable[[Path, Path], None]


@pytest.fixture(name="images")
def _images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.qcow2").write_bytes(header())
    return folder


def refusal(images: Path, name: str = "x.qcow2") -> str:
    with pytest.raises(BadRequest) as caught:
        ImageReader([images]).check(f"{images}/{name}")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 800
    assert "; " in sentence, "it says how to mend it"
    return sentence


def _chain(*contents: bytes) -> Making:
    """x.qcow2, b1, b2, … with these contents."""

    def make(images: Path, _: Path) -> None:
        for number, content in enumerate(contents):
            (images / (f"b{number}" if number else "x.qcow2")).write_bytes(content)

    return make


def _linked(target: str) -> Making:
    return lambda images, _: (images / "x.qcow2").symlink_to(target)


def _backing_link(images: Path, outside: Path) -> None:
    (images / "x.qcow2").write_bytes(on("b1"))
    (images / "b1").symlink_to(outside / "secret.qcow2")


def _folder_link(images: Path, outside: Path) -> None:
    (images / "away").symlink_to(outside)
    (images / "x.qcow2").write_bytes(on("away/secret.qcow2"))


def _socket(images: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as plug:
        here = os.open(images, os.O_RDONLY)
        plug.bind(f"/proc/self/fd/{here}/x.qcow2")  # its own path may be too long
        os.close(here)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda *_: None, "does not exist"),
        (lambda images, _: (images / "x.qcow2").mkdir(), "is a folder"),
        (lambda images, _: os.mkfifo(images / "x.qcow2"), "is no regular file"),
        (_socket, "is no regular file"),
        (_linked("nowhere"), "does not exist"),
        (_linked("x.qcow2"), "cannot be read (Too many levels"),
        (_linked("../outside/secret.qcow2"), "is in none of the folders"),
        (_linked("/etc/passwd"), "is in none of the folders"),
        (_linked("/dev/zero"), "is in none of the folders"),
        (_chain(b""), "is not a qcow2 image"),
        (_chain(b"\x7fELF" + b"\0" * 9999), "is not a qcow2 image"),
        (_chain(header(encryption=2)), "is encrypted"),
        (_chain(header(features=4)), "keeps its data in another file"),
        (_chain(on("/etc/shadow")), "builds on '/etc/shadow', which is in none of the folders"),
        (_chain(on("/etc/shadow", b"raw")), "'/etc/shadow', which is in none of the folders"),
        (_chain(on("../outside/secret.qcow2")), "which is in none of the folders"),
        (_chain(on("/proc/self/environ", b"raw")), "which is in none of the folders"),
        (_backing_link, "builds on 'b1', which is in none of the folders"),
        (_folder_link, "which is in none of the folders"),
        (_chain(on("gone")), "builds on 'gone', which does not exist"),
        (_chain(on(".")), "builds on '.', which is in none of the folders"),
        (_chain(on("b1")), "builds on 'b1', which does not exist"),
        (_chain(on("b1"), b"raw"), "builds on 'b1', which is not a qcow2 image"),
        (_chain(on("b1", None), header()), "does not say that this is qcow2 or raw"),
        (_chain(on("b1", b""), header()), "does not say that this is qcow2 or raw"),
        (_chain(on("b1", b"vmdk"), b"# Disk DescriptorFile"), "does not say that this is"),
        (_chain(on("b1", b"qcow2\0"), header()), "does not say that this is qcow2 or raw"),
        (_chain(on("nbd:unix:/run/x.sock")), "which is no plain file"),
        (_chain(on("nbd+unix:///x?socket=/run/x")), "which is no plain file"),
        (_chain(on("https://example.org/x.qcow2")), "which is no plain file"),
        (_chain(on("file:/etc/shadow", b"raw")), "which is no plain file"),
        (_chain(on("fat:rw:/etc", b"raw")), "which is no plain file"),
        (_chain(on('json:{"driver":"file","filename":"/etc/shadow"}')), "is no plain file"),
        (_chain(on("json:{}", b"raw")), "which is no plain file"),
        (_chain(on("b1"), on("b2"), on("/etc/shadow", b"raw")), "'/etc/shadow', which is in"),
        (_chain(on("b1"), header(features=4)), "'b1', which keeps its data in another file"),
        (_chain(on("x.qcow2")), "leads back to itself"),
        (_chain(on("b1"), on("x.qcow2")), "leads back to itself"),
        (_chain(*(on(f"b{number}") for number in range(1, 50))), "itself or too far"),
        (_chain(on(b"\xff\n" + b"x" * 900)), "builds on '\\udcff\\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(images: Path, make: Making, wrong: str) -> None:
    make(images, images.parent / "outside")
    assert wrong in refusal(images)


def test_a_device_is_refused_unread() -> None:
    with pytest.raises(BadRequest, match="is no regular file"):
        ImageReader([Path("/dev")]).check("/dev/zero")


@pytest.mark.parametrize("name", ["../outside/secret.qcow2", "./x.qcow2", "a//x.qcow2", ""])
def test_the_path_itself_is_checked_first(images: Path, name: str) -> None:
    assert "image (qcow2)" in refusal(images, name)


def test_an_unreadable_image_is_refused(images: Path) -> None:
    (images / "x.qcow2").write_bytes(header())
    (images / "x.qcow2").chmod(0o000)
    was_root = os.geteuid() == 0
    if was_root:  # whom no mode keeps out
        for folder in (images, images.parent, images.parent.parent, images.parent.parent.parent):
            folder.chmod(0o755)
        os.seteuid(65_534)
    try:
        assert "x.qcow2' cannot be read (Permission denied)" in refusal(images)
    finally:
        if was_root:
            os.seteuid(0)


def test_the_disk_of_a_vm_is_no_image(images: Path) -> None:
    disk = f"web@host1.{'0' * 32}.qcow2"
    (images / disk).write_bytes(header())
    (images / "x.qcow2").symlink_to(disk)
    assert "is the disk of a VM" in refusal(images)
    assert "is the disk of a VM" in refusal(images, disk)


def test_a_path_too_long_to_build_on_is_refused(images: Path) -> None:
    deep = images
    for _ in range(5):
        deep /= "d" * 220
        deep.mkdir()
    (deep / "x.qcow2").write_bytes(header())
    assert "too long a path" in refusal(images, str(deep / "x.qcow2").removeprefix(f"{images}/"))


def test_a_good_chain_is_followed(images: Path) -> None:
    (images / "sub").mkdir()
    (images / "sub" / "raw").write_bytes(b"QFI\xfb, a guest wrote here")
    (images / "sub" / "b1").write_bytes(on("raw", b"raw"))
    (images / "x,y:z.qcow2").write_bytes(on("sub/b1"))
    (images / "sub" / "link.qcow2").symlink_to("../x,y:z.qcow2")
    image = ImageReader([images]).check(f"{images}/sub/link.qcow2")
    facts = (images / "x,y:z.qcow2").stat()
    assert image.path == os.path.realpath(images / "x,y:z.qcow2")
    assert (image.file_bytes, image.mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    assert image.disk_bytes == 1 << 26
    assert [image.file, *image.reads] == [
        (facts.st_dev, (images / name).stat().st_ino)
        for name in ("x,y:z.qcow2", "sub/b1", "sub/raw")
    ]


def test_names_are_relative_to_where_qemu_takes_them(images: Path) -> None:
    """To the path a file is opened by: a link among them moves what follows."""
    for folder in ("one", "two"):
        (images / folder).mkdir()
    (images / "two" / "b1").write_bytes(on("b2"))
    (images / "two" / "b2").write_bytes(header())
    (images / "one" / "b1").symlink_to("../two/b1")
    (images / "x.qcow2").write_bytes(on("one/b1"))
    assert "builds on 'b2', which does not exist" in refusal(images)
    (images / "one" / "b2").write_bytes(header())
    assert len(ImageReader([images]).check(f"{images}/x.qcow2").reads) == 2


def test_the_folders_may_be_links_themselves(images: Path) -> None:
    make_image(images / "x.qcow2")
    linked = images.parent / "linked"
    linked.symlink_to(images)
    image = ImageReader([linked]).check(f"{linked}/x.qcow2")
    assert image.path == f"{images}/x.qcow2"


def test_a_link_to_another_of_the_folders_is_fine(images: Path) -> None:
    other = images.parent / "other"
    other.mkdir()
    (other / "x.qcow2").write_bytes(header())
    (images / "x.qcow2").symlink_to(other / "x.qcow2")
    assert "in none of the folders" in refusal(images)
    image = ImageReader([images, other]).check(f"{images}/x.qcow2")
    assert image.path == f"{other}/x.qcow2"


def test_what_is_known_of_an_image_ends_with_the_next_change(images: Path) -> None:
    reader, path = ImageReader([images]), images / "x.qcow2"
    path.write_bytes(header())
    reader.check(str(path))
    before = path.stat()
    path.write_bytes(on("/etc/shadow"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(BadRequest, match=re.escape("/etc/shadow")):
        reader.check(str(path))
    path.write_bytes(header())
    reader.check(str(path))


def test_a_known_image_is_not_read_again(images: Path) -> None:
    reader, path = ImageReader([images]), images / "x.qcow2"
    path.write_bytes(header())
    reader.check(str(path))
    read_before = _bytes_read()
    for _ in range(100):
        reader.check(str(path))
    assert _bytes_read() - read_before < 1_000
    path.write_bytes(header(features=1))
    reader.check(str(path))
    assert _bytes_read() - read_before > 1_000


def _bytes_read() -> int:
    """By this process, from files, up to the call before this one."""
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if "rchar" in line]
    return int(line.split()[1])
