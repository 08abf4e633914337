"""Reading qcow2 headers: what QEMU writes is understood, what may mean two things is refused."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulerlocal.adapters.qcow2 import Header, read_header
from tests.qcow2files import (
    BACKING_FORMAT,
    CLUSTER,
    DATA_FILE_NAME,
    UNKNOWN,
    extension,
    header,
    make_image,
    on,
    qemu_img,
)

MIB_64 = 1 << 26


def read(content: bytes) -> Header:
    return read_header(lambda count: content[:count])


@pytest.mark.parametrize("cluster", ["512", "65536", "2M"])
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_what_qemu_writes_is_understood(tmp_path: Path, compat: str, cluster: str) -> None:
    options = ("-o", f"compat={compat},cluster_size={cluster}")
    base = make_image(tmp_path / "base.qcow2", *options)
    assert read(base.read_bytes()) == Header(MIB_64)
    top = tmp_path / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", *options, "-F", "qcow2", "-b", "base.qcow2", top)
    assert read(top.read_bytes()) == Header(MIB_64, "base.qcow2", "qcow2")
    qemu_img("rebase", "-u", "-F", "raw", "-b", "nbd:localhost:10809", top)
    assert read(top.read_bytes()) == Header(MIB_64, "nbd:localhost:10809", "raw")
    qemu_img("rebase", "-u", "-b", "", top)
    assert read(top.read_bytes()).backing == ""


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (("-o", "data_file={}/data"), "another file"),
        (("-o", "data_file={}/data,data_file_raw=on"), "another file"),
        (
            (
                "--object",
                "secret,id=s,data=x",
                "-o",
                "encrypt.format=aes,encrypt.key-secret=s",
            ),
            "enc",
        ),
    ],
    ids=["data file", "raw data file", "encrypted"],
)
def test_what_qemu_writes_and_we_refuse(
    tmp_path: Path, options: tuple[str, ...], wrong: str
) -> None:
    image = make_image(tmp_path / "x.qcow2", *(option.format(tmp_path) for option in options))
    with pytest.raises(ValueError, match=wrong):
        read(image.read_bytes())


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "not a qcow2"),
        (b"QFI", "not a qcow2"),
        (b"\0" * CLUSTER, "not a qcow2"),
        (b"root:x:0:0:root:/root:/bin/bash\n" * 9, "not a qcow2"),
        (header()[:50], "damaged"),
        (header(version=1), "version 1"),
        (header(version=4), "version 4"),
        (header(cluster_bits=8), "damaged"),
        (header(cluster_bits=63), "damaged"),
        (header(encryption=1), "encrypted"),
        (header(encryption=2), "encrypted"),
        (header(disk_bytes=1 << 63), "more than there can be"),
        (header(features=1 << 1), "marked as damaged"),
        (header(features=1 << 2), "another file"),
        (header(features=1 << 40), "not known here"),
        (header(header_bytes=96), "damaged"),
        (header(backing_at=CLUSTER - 3, backing_bytes=9), "damaged"),
        (header(backing_at=1 << 63, backing_bytes=9), "damaged"),
        (header(backing_at=8, backing_bytes=9), "damaged"),
        (header(backing=b"x" * 1024), "damaged"),
        (header(backing=b"/ok\0/etc/shadow"), "damaged"),
        (header(extensions=extension(DATA_FILE_NAME, b"/etc/shadow")), "another file"),
        (header(version=2, extensions=extension(DATA_FILE_NAME, b"x")), "another file"),
        (header(extensions=extension(UNKNOWN, b"", length=1 << 31)), "damaged"),
        (
            header(
                backing=b"b",
                extensions=extension(BACKING_FORMAT, b"raw") + extension(BACKING_FORMAT, b"qcow2"),
            ),
            "damaged",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(content: bytes, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        read(content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (header(), Header(MIB_64)),
        (header(version=2), Header(MIB_64)),
        (header(version=2, backing=b"b", extensions=b""), Header(MIB_64, "b")),
        (header(features=1), Header(MIB_64)),
        (header(features=0b11000), Header(MIB_64)),
        (on("b", None), Header(MIB_64, "b")),
        (on("b", b"raw"), Header(MIB_64, "b", "raw")),
        (on('json:{"driver":"nbd"}'), Header(MIB_64, 'json:{"driver":"nbd"}', "qcow2")),
        (on(b"\xff\xfe"), Header(MIB_64, "\udcff\udcfe", "qcow2")),
        (
            header(backing=b"b", extensions=extension(UNKNOWN, b"abc") + extension(0, b"")),
            Header(MIB_64, "b"),
        ),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else repr(value),
)
def test_what_is_understood(content: bytes, expected: Header) -> None:
    assert read(content) == expected


@given(
    at=st.integers(4, 140),
    garbage=st.binary(min_size=1, max_size=40),
    keep=st.integers(0, CLUSTER),
)
def test_no_header_breaks_the_reader(at: int, garbage: bytes, keep: int) -> None:
    content = on("base.qcow2")
    content = (content[:at] + garbage + content[at + len(garbage) :])[:keep]
    with suppress(ValueError):  # anything else it raises fails
        assert len(read(content).backing) < 1024
