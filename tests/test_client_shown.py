"""What people see: what is wrong, when it happened, and tables that keep to their terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulerclient.answers import (
    Event,
    read_explanation,
    read_hosts,
    read_vm,
    read_vms,
)
from schedulerclient.eventlines import event_cells
from schedulerclient.layout import lines, plain_text, width_of
from schedulerclient.tables import Column, Table
from schedulerclient.troubles import few, trouble_parts
from schedulerclient.views import explanation_parts, host_parts, status_parts, vm_in_full, vm_parts
from tests.clientrig import STREAM, Ended, _nobodys_settings, ask, command, environment, run_process
from tests.scripted import Scripted, host_document, raw, says, scripted, vm_document
from tests.servers import START_S

__all__ = ["_nobodys_settings"]


def on_terminal(
    directory: Path, server: Scripted, *arguments: str, settings: Mapping[str, str] | None = None
) -> Ended:
    """As on a terminal, which shows standard output and error."""
    ours, theirs = pty.openpty()
    look = {"TERM": "xterm-256color", "COLUMNS": "80", "NO_COLOR": "", "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        command(f"--url={server.url}", *arguments),
        cwd=directory,
        env=environment({**look, **(settings or {})}),
        stdout=theirs,
        stderr=theirs,
    ) as running:
        os.close(theirs)
        shown = b""
        with os.fdopen(ours, "rb", buffering=0) as screen, suppress(OSError):  # its other end
            while piece := screen.read(1 << 16):
                shown += piece
        code = running.wait(START_S)
    return Ended(code, shown.decode().replace("\r\n", "\n"), "")


def told(hosts: Sequence[object], vms: Sequence[object]) -> list[str]:
    return [part.text for part in trouble_parts(read_hosts(list(hosts)), read_vms(list(vms)))]


LOST = [vm_document(f"w{number}", host="b", status="lost") for number in (1, 0)]
TROUBLES: dict[str, tuple[Sequence[object], Sequence[object], list[str]]] = {
    "none": ([host_document()], [vm_document()], []),
    "lost": ([host_document("b")], LOST, ["2 VMs of b are lost: w1, w0"]),
    "many": (
        [],
        [vm_document(f"w{number}", host="b", status="removing") for number in range(12)],
        ["12 VMs of b are being removed: w0, w1, w2, w3, w4 and 7 more"],
    ),
    "one of each, by host": (
        [
            host_document("a", state="down", problem="timed out"),
            host_document("b", conflicts=["d", "x"]),
        ],
        [
            vm_document("d", host="a", status="unknown", conflicts=["b"]),
            vm_document("c", host="b", status="removing"),
        ],
        [
            "a is down: timed out",
            "1 VM of a is unknown, there or not: d",
            "2 VMs on b are promised elsewhere or nowhere: d, x",
            "1 VM of b is being removed: c",
        ],
    ),
    "maintenance": (
        [host_document("b", state="maintenance", fenced=True, problem="timed out")],
        [],
        ["b is in maintenance and fenced: timed out"],
    ),
    "fenced": (
        [host_document("b", state="maintenance", fenced=True)],
        [],
        ["b is in maintenance and fenced"],
    ),
    "draining": (
        [host_document("b", state="draining", problem="slow")],
        [],
        ["b is draining: slow"],
    ),
}


@pytest.mark.parametrize(("hosts", "vms", "sentences"), TROUBLES.values(), ids=TROUBLES)
@pytest.mark.parametrize("name", ["status", "hosts"])
def test_what_is_wrong_is_told(
    name: str, hosts: Sequence[object], vms: Sequence[object], sentences: list[str]
) -> None:
    assert told(hosts, vms) == sentences
    with scripted(at={"/v1/hosts": says(hosts), "/v1/vms": says(vms)}) as server:
        ended = ask(server, name)
        assert ask(server, name, "--json").json == hosts
    assert ended.code == 0
    assert ended.out.splitlines()[len(ended.out.splitlines()) - len(sentences) :] == sentences


def test_scripts_wait_for_no_more_than_they_asked_for() -> None:
    with scripted(says([])) as server:
        assert ask(server, "status", "--json").json == []
        assert [asked.target for asked in server.asked] == ["/v1/hosts"]


def test_a_terminal_gets_what_is_wrong_in_colour(tmp_path: Path) -> None:
    with scripted(at={"/v1/hosts": says([host_document("b")]), "/v1/vms": says(LOST)}) as server:
        shown = on_terminal(tmp_path, server, "status").out
    assert "\x1b[31m2 VMs of b are lost: w1, w0\x1b[0m" in shown


@pytest.mark.parametrize(
    ("count", "text"), [(0, ""), (1, "0"), (5, "0, 1, 2, 3, 4"), (12, "0, 1, 2, 3, 4 and 7 more")]
)
def test_few(count: int, text: str) -> None:
    assert few([str(number) for number in range(count)]) == text


def test_vms_of_a_host() -> None:
    hosts = [host_document("laptop"), host_document("b")]
    with scripted(at={"/v1/hosts": says(hosts), "/v1/vms": says(LOST)}) as server:
        assert ask(server, "vms", "--host=laptop") == Ended(0, "there are no VMs on laptop\n", "")
        assert ask(server, "vms", "--host=laptop", "--json").json == []
        unknown = ask(server, "vms", "--host=nosuch")
        assert unknown == Ended(1, "", "there is no host named 'nosuch'; known are laptop, b\n")
        assert ask(server, "vms", "--host=nosuch", "--json").json == {
            "success": False,
            "reason": "there is no host named 'nosuch'; known are laptop, b",
            "code": "unknown-host",
        }
    with scripted(says([])) as server:
        assert ask(server, "vms") == Ended(0, "there are no VMs\n", "")
        assert ask(server, "vms", "--host=a").err.endswith("; there are no hosts yet\n")


NOON_S = datetime(2026, 3, 1, 12, 0, 0).astimezone().timestamp()


def event(after_s: float, kind: str = "deployed", **data: object) -> Event:
    return Event(7, kind, {"time_s": NOON_S + after_s, **data})


@pytest.mark.parametrize(
    ("now", "before", "ids", "line"),
    [
        (event(0, vm="a"), None, False, "2026-03-01 12:00:00 deployed vm=a"),
        (event(5.9, vm="a"), event(0), False, "12:00:05 deployed vm=a"),
        (event(86400), event(0), False, "2026-03-02 12:00:00 deployed"),
        (event(1, id="x", request_id="y", vm="a"), event(0), False, "12:00:01 deployed vm=a"),
        (event(1, id="x", vm="a"), event(0), True, "7 12:00:01 deployed id=x vm=a"),
        (event(1, a=None, b="", c=[], d={}, e=0), event(0), False, "12:00:01 deployed e=0"),
        (Event(7, "odd", {"vm": "a"}), event(0), False, "odd vm=a"),
        (Event(7, "odd", {"time_s": 1e300}), None, False, "odd"),
        (Event(7, "odd", {"time_s": "noon"}), None, False, "odd"),
        (event(1), Event(7, "odd", {}), False, "2026-03-01 12:00:01 deployed"),
    ],
    ids=["first", "same day", "next day", "no ids", "ids", "empty", "no time", "no such time",
         "no number", "after one without"],
)  # fmt: skip
def test_event_lines(now: Event, before: Event | None, ids: bool, line: str) -> None:
    assert " ".join(cell.text for cell in event_cells(now, before, ids=ids)) == line


def happened(*times_s: float) -> bytes:
    return STREAM + b"".join(
        f'id: {place}\nevent: lost\ndata: {{"time_s": {time_s}, "vm": "a", "id": "x"}}\n\n'.encode()
        for place, time_s in enumerate(times_s, 7)
    )


def test_events_as_they_are_seen(tmp_path: Path) -> None:
    with scripted(raw(happened(NOON_S, NOON_S + 1))) as server:
        plain = ask(server, "events")
        assert plain.out == "2026-03-01 12:00:00 lost vm=a\n12:00:01 lost vm=a\n"
        assert "listening" not in plain.err
        assert "events --after=8'" in plain.err
        seen = on_terminal(tmp_path, server, "events", "--ids").out.splitlines()
    assert seen[0] == "listening… (Ctrl-C ends)"
    assert "\x1b[31mlost\x1b[0m vm=a id=x" in seen[1]
    assert seen[2].startswith("8 ")


def level(text: str, cpus: int, vcpus: int) -> dict[str, object]:
    return {"level": text, "cpus": cpus, "vcpus": vcpus}


HOSTS = read_hosts(
    [
        host_document(
            "epyc-rack12-node07",
            url="http://10.20.30.107:8099",
            levels=[level("1.0", 40, 40), level("1.5", 20, 30), level("4/3", 40, 120)],
            labels={"rack": "r1", "kind": "big", "owner": "somebody"},
        ),
        host_document("laptop", state="maintenance", url="https://laptop:8099", vms=12345),
    ]
)
VMS = read_vms([vm_document("a" * 40), vm_document("b", status="removing", memory_mib=123_456)])
EXPLANATION = read_explanation(
    {
        "host": "a",
        "policy": "progress",
        "hosts": [
            {"host": "a", "score": 12.25, "reason": None},
            {"host": "b", "score": -1.5, "reason": None},
            {"host": "c", "score": None, "reason": "no room: it needs 4 more CPUs and 2 are free"},
        ],
    }
)
PINNED = vm_in_full(read_vm(vm_document(pinned_cpus=[*range(130, 256), 2, *range(3, 128)])))
TABLES = {
    "status": status_parts(HOSTS)[0],
    "hosts": host_parts(HOSTS)[0],
    "vms": vm_parts(VMS)[0],
    "explain": explanation_parts(EXPLANATION)[0],
    "vm": PINNED,
}
WHOLE = re.compile(r"\d[\d./:]*\d")
"""Numbers, addresses and ratios."""


@pytest.mark.parametrize("width", [200, 100, 80, 64, 50])
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_tables_keep_to_their_terminal_and_break_nothing(table: Table, width: int) -> None:
    found = lines(table, width)
    assert max(width_of(line.text) for line in found) <= width
    assert len({sum(width_of(cell.text) for cell in line.cells) for line in found}) == 1
    known = set(WHOLE.findall(plain_text(table)))
    shown = WHOLE.findall("\n".join(line.text for line in found))
    assert {each for each in shown if each not in known} <= {"07"}  # of a name cut short
    assert len(shown) >= 2


def test_what_goes_first() -> None:
    def heads(width: int) -> str:
        titles = [line.text for line in lines(TABLES["status"], width) if line.kind == "title"]
        return " ".join(titles)

    assert "MEMORY" in heads(200)
    assert "MEMORY" not in heads(100)
    assert "LEVELS" in heads(80)
    assert "LEVELS" not in heads(50)
    assert "CPUS" in heads(50)
    items = [line.cells[-1].text.strip() for line in lines(TABLES["status"], 80)]
    assert "1.0: 40 on 40," in items
    assert "4/3: 120 on 40," in items


def test_a_narrow_column_stays_where_a_wide_one_went() -> None:
    columns = (Column("A"), Column("WIDE", spare=1), Column("N", spare=2))
    [head, _] = lines(Table(columns, [("aaaa", "w" * 30, "n")]), 20)
    assert head.text == "A     N"


def test_addresses_are_shown_without_what_goes_without_saying() -> None:
    assert "  10.20.30.107:8099  " in plain_text(TABLES["hosts"])
    assert "  https://laptop:8099  " in plain_text(TABLES["hosts"])


def test_pinned_cpus_are_ranges() -> None:
    assert "\npinned to     2-127,130-255\n" in plain_text(PINNED)


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        ([12.25, -1.5, 3.0], [" 12.25", "  3.00", " -1.50"]),
        ([4.0, 1.0], ["  4", "  1"]),
        ([1 / 3], ["0.333333"]),
        ([12345.678], ["12345.7"]),
        ([0.0], ["0"]),
        ([1e9, 1.0], ["1.00000e+09", "1.00000e+00"]),
        ([float("inf"), 1.5], ["inf", "1.5"]),
    ],
    ids=["decimals", "whole", "endless", "large", "nothing", "huge", "beyond"],
)
def test_scores_are_aligned(scores: list[float], shown: list[str]) -> None:
    hosts = [
        {"host": f"h{place}", "score": score, "reason": None} for place, score in enumerate(scores)
    ]
    parts = explanation_parts(read_explanation({"host": None, "policy": "", "hosts": hosts}))
    assert isinstance(parts[0], Table)
    told = [line.cells[1].text.strip() for line in lines(parts[0])[1:]]
    assert told == [text.strip() for text in shown]


cells = st.text(st.sampled_from("ab 1,é漢\x1b"), max_size=30)


@given(st.lists(st.tuples(cells, cells, cells), min_size=1), st.integers(1, 90))
def test_any_table_is_laid_out_at_any_width(rows: list[tuple[str, str, str]], width: int) -> None:
    columns = (
        Column("A B", shortens=True),
        Column("C", right=True, spare=1),
        Column("D", folds=", "),
    )
    found = lines(Table(columns, rows), width)
    assert all(line.text.isprintable() for line in found)
    last = "".join(line.cells[-1].text for line in found if line.kind == "row")
    whole = "".join(row[-1] for row in rows).replace("\x1b", r"\x1b")
    assert last.replace(" ", "") == whole.replace(" ", "")


def test_a_c_locale_gets_plain_ascii(tmp_path: Path) -> None:
    locale = {"LC_ALL": "C", "COLUMNS": "200", "NO_COLOR": "1"}
    hosts = [host_document(problem="aus für heute")]
    with scripted(
        at={"/v1/hosts": says(hosts), "/v1/vms": says([vm_document(level=None)])}
    ) as server:
        for name in ("status", "vms"):
            shown = on_terminal(tmp_path, server, name, settings=locale).out
            assert shown.isascii(), name
            assert "----" in shown
        assert "#..........." in on_terminal(tmp_path, server, "status", settings=locale).out
        assert r"aus f\xfcr heute" in on_terminal(tmp_path, server, "status", settings=locale).out
        piped = run_process(tmp_path, f"--url={server.url}", "vms", settings=locale)
    assert piped.out.isascii()
    assert " - " in piped.out
