"""The journal: what it remembers over restarts, crashes and full disks."""

from __future__ import annotations

import json
import resource
from fractions import Fraction
from pathlib import Path

import pytest

from schedulercommon.errors import ConfigError, StoreUnavailable
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.ports import Remembered

TWO, THREE = Fraction(2), Fraction(3)


def spec(name: str = "a", **more: object) -> VmSpec:
    sizes = {"vcpus": 2, "memory_mib": 1024, "level": TWO, "request_id": f"id-{name}"}
    return VmSpec(name=name, **{**sizes, **more})  # type: ignore[arg-type]


def started(directory: Path) -> FileJournal:
    journal = FileJournal(directory, boot_id="boot-1")
    journal.read()
    return journal


def read_again(directory: Path) -> Remembered:
    journal = FileJournal(directory)
    try:
        return journal.read()
    finally:
        journal.close()


def test_what_was_committed_is_remembered(tmp_path: Path) -> None:
    journal = started(tmp_path)
    journal.begin("deploy", spec())
    journal.end(spec(), "deployed", 7, {TWO: (4, 0), THREE: (1,)})
    journal.begin("remove", spec())
    journal.end(spec(), "removed", 9, {THREE: ()})
    journal.booted()
    journal.close()
    again = FileJournal(tmp_path, boot_id="boot-2")
    remembered = again.read()
    assert remembered.generation == 9
    assert dict(remembered.owned) == {TWO: (4, 0)}
    assert remembered.begun == ()
    assert remembered.boot_id == "boot-1"
    assert again.outcome("id-a") == "removed"
    assert again.outcome("id-b") is None
    again.close()


def test_a_boot_counts_once_what_it_asks_for_is_done(tmp_path: Path) -> None:
    started(tmp_path).close()
    assert read_again(tmp_path).boot_id == ""
    journal = started(tmp_path)
    journal.booted()
    journal.close()
    assert read_again(tmp_path).boot_id == "boot-1"


def test_what_was_begun_is_told_whole(tmp_path: Path) -> None:
    there = spec(labels=(("rack", "r1"),), owner="me", start=False, max_vcpus=4, image="/i.qcow2")
    journal = started(tmp_path)
    journal.begin("deploy", there)
    journal.close()
    (begun,) = read_again(tmp_path).begun
    assert (begun.action, begun.name, begun.request_id) == ("deploy", "a", "id-a")
    assert begun.spec == there


async def test_a_cancelled_request_stays_cancelled(tmp_path: Path) -> None:
    journal = started(tmp_path)
    await journal.cancel("id-x")
    journal.close()
    for _ in range(2):
        again = FileJournal(tmp_path)
        again.read()
        assert again.cancelled("id-x")
        assert not again.cancelled("id-y")
        again.close()


@pytest.mark.parametrize("cut", [1, 5, 20], ids=lambda cut: f"{cut} bytes short")
def test_a_record_cut_off_by_a_crash_is_ignored(tmp_path: Path, cut: int) -> None:
    journal = started(tmp_path)
    journal.note(5, {TWO: (0, 1)})
    journal.begin("deploy", spec())
    journal.close()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    remembered = read_again(tmp_path)
    assert (remembered.generation, dict(remembered.owned)) == (5, {TWO: (0, 1)})


def test_a_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    journal = started(tmp_path)
    journal.note(5, {TWO: (0, 1)})
    journal.close()
    path = tmp_path / "journal.jsonl"
    damage = b'{"end": 3}\n[1]\n\x00\xff\n{"begin": "deploy", "vm": {}}\n'
    path.write_bytes(path.read_bytes() + damage + b'{"note": true, "generation": 6}\n')
    remembered = read_again(tmp_path)
    assert (remembered.generation, dict(remembered.owned)) == (6, {TWO: (0, 1)})
    assert remembered.begun == ()


def test_two_schedulers_never_share_a_journal(tmp_path: Path) -> None:
    journal = started(tmp_path)
    with pytest.raises(ConfigError, match=r"another local scheduler .* SCL_STATE_DIR"):
        FileJournal(tmp_path)
    journal.close()
    started(tmp_path).close()


@pytest.mark.parametrize("place", ["file/journal", "/proc/none"], ids=["in a file", "in /proc"])
def test_a_place_that_cannot_be_used_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="SCL_STATE_DIR"):
        FileJournal(tmp_path / place)


@pytest.mark.parametrize("room", [0, 10], ids=["no room", "room for a part"])
def test_a_full_disk_is_told_and_costs_no_later_record(tmp_path: Path, room: int) -> None:
    journal = started(tmp_path)
    size = (tmp_path / "journal.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
    try:
        with pytest.raises(StoreUnavailable, match=r"journal\.jsonl.*make room"):
            journal.note(5, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.note(6, {TWO: (3,)})
    journal.close()
    remembered = read_again(tmp_path)
    assert (remembered.generation, dict(remembered.owned)) == (6, {TWO: (3,)})


def test_the_file_is_rewritten_before_it_grows_without_end(tmp_path: Path) -> None:
    journal = started(tmp_path)
    path = tmp_path / "journal.jsonl"
    wide = {TWO: tuple(range(2000))}
    most = 0
    for generation in range(1100):
        journal.note(generation, wide)
        most = max(most, path.stat().st_size)
    assert most < 9 << 20
    assert path.stat().st_size < most
    journal.close()
    first = json.loads(path.read_text().splitlines()[0])
    assert "snapshot" in first
    assert read_again(tmp_path).generation == 1099
