"""What guests write to their consoles: read from its files, asked for, and shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schedulerclient.tables import screen_lines
from schedulercommon.levels import PREMIUM
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.consolelog import forget, read_end
from schedulerlocal.core.adoption import FoundVm
from schedulerweb.console import MOST_BYTES, MOST_LINES, Tail
from tests.webrig import Web, running


@pytest.mark.parametrize(
    ("files", "most", "read"),
    [
        ({}, 9, b""),
        ({"": b"young"}, 9, b"young"),
        ({"": b"young"}, 3, b"ung"),
        ({"": b"young", ".0": b"older"}, 5, b"young"),
        ({"": b"young", ".0": b"older"}, 7, b"eryoung"),
        ({"": b"c", ".0": b"bb", ".1": b"aaa", ".3": b"no"}, 99, b"aaabbc"),
        ({".0": b"just parted"}, 6, b"parted"),
    ],
    ids=["none", "one", "cut", "as much as there is", "over two", "over all", "being parted"],
)
def test_the_end_of_a_log_is_read_over_its_files(
    tmp_path: Path, files: dict[str, bytes], most: int, read: bytes
) -> None:
    log = tmp_path / "vm.log"
    for suffix, content in files.items():
        log.with_name(f"vm.log{suffix}").write_bytes(content)
    assert read_end(str(log), most) == read


def test_a_log_goes_with_its_older_files_and_no_others(tmp_path: Path) -> None:
    log = tmp_path / "vm.log"
    others = ["vm.log.d", "vm2.log", "vm.log2"]
    for name in ("vm.log", "vm.log.0", "vm.log.1", *others):
        (tmp_path / name).touch()
    forget(str(log))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    forget(str(log))


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root:x")
    log = tmp_path / "vm.log"
    log.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        read_end(str(log), 99)


@pytest.mark.parametrize(
    ("tail", "end"),
    [
        (Tail(99), b"one\r\ntwo\nlogin: "),
        (Tail(99, lines=1), b"login: "),
        (Tail(99, lines=2), b"two\nlogin: "),
        (Tail(99, lines=9), b"one\r\ntwo\nlogin: "),
        (Tail(9, lines=2), b"o\nlogin: "),
    ],
    ids=["all", "a line without an end", "lines", "more lines than there are", "both"],
)
def test_the_end_is_counted_in_lines_and_bytes(tail: Tail, end: bytes) -> None:
    assert tail.of(b"one\r\ntwo\nlogin: ") == end


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ()),
        ("\n", ("",)),
        ("one\r\ntwo\n", ("one", "two")),
        ("[\x1b[0;32m  OK  \x1b[0m] Started", ("[  OK  ] Started",)),
        ("\x1b]0;a title\x07\x1b(B\x1b[2J\x1bcroot", ("root",)),
        ("10%\r100%\r\n", ("100%",)),
        ("a\tb", ("a       b",)),
    ],
    ids=["nothing", "empty line", "lines", "colours", "orders", "written over", "tab"],
)
def test_a_screen_shows_what_is_said_and_obeys_nothing(text: str, lines: tuple[str, ...]) -> None:
    assert screen_lines(text) == lines


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with running(tmp_path) as running_web:
        yield running_web


async def test_a_console_is_text_or_a_document(web: Web) -> None:
    await web.deploy("one")
    text = await web.get("/v1/vms/one/console")
    assert text.status == 200
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.headers["x-content-type-options"] == "nosniff"
    assert "simulated" in text.body.decode()
    document = await web.get("/v1/vms/one/console", {"Accept": "application/json"})
    assert document.json == {"name": "one", "console": text.body.decode()}
    assert (await web.get("/v1/vms/one/console?bytes=4")).body == text.body[-4:]
    assert (await web.get("/v1/vms/one/console?lines=1&bytes=9")).body == text.body[-9:]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("lines=0", "lines"),
        (f"lines={MOST_LINES + 1}", "lines"),
        (f"bytes={MOST_BYTES + 1}", "bytes"),
        ("bytes=-1", "bytes"),
        ("lines=1.5", "lines"),
        ("lines=%D9%A3", "lines"),
        ("lines=1&lines=2", "twice"),
        ("follow=1", "follow"),
    ],
)
async def test_how_much_is_asked_for_is_checked(web: Web, query: str, said: str) -> None:
    await web.deploy("one")
    refused = await web.get(f"/v1/vms/one/console?{query}")
    assert refused.refusal == (400, "bad-request")
    assert said in refused.json["reason"]


async def test_only_vms_of_ours_have_a_console(web: Web) -> None:
    assert (await web.get("/v1/vms/none/console")).refusal == (404, "unknown-vm")
    spec = VmSpec(name="stranger", vcpus=1, memory_mib=64, level=PREMIUM)
    web.hypervisor.gain(FoundVm(spec=spec, vcpus=1, boot_memory_mib=64, foreign=True))
    async with web.keeper.lock:
        await web.keeper.settle()
    refused = await web.get("/v1/vms/stranger/console")
    assert refused.refusal == (409, "wrong-state")
    assert "virsh console" in refused.json["reason"]
