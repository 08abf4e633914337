"""What a trace asks of a host, and what the replay makes of it."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.adapters.tracecsv import TraceReader
from schedulerlocal.core.host import Host
from schedulerlocal.core.state import HostState, violations
from schedulerlocal.replay import Refusal, Replay, Totals
from schedulerlocal.replaycommand import ReplayFiles, run_replay
from tests.oracle import size_of
from tests.traces import (
    LAPTOP,
    Seen,
    level_rows,
    levels_of,
    replay,
    replayed,
    row,
    rows_of,
    sample,
    samples_of,
    written,
)


def decided(path: Path, topology: Path = LAPTOP) -> tuple[HostState, Totals, list[Refusal]]:
    """The host after the last timestamp of the trace at *path*, what it adds up to, who was
    refused."""
    taken_in = Replay(HostState(Host(read_topology(topology)), {}))
    refused = [refusal for tick in TraceReader(path).ticks() for refusal in taken_in.take_in(tick)]
    return taken_in.state, taken_in.totals, refused


BIG, SMALL = Seen("big", 8), Seen("small", 2)


@pytest.mark.parametrize(
    ("samples", "counts", "refused", "left"),
    [
        ([[BIG], [SMALL]], (2, 1, 0), [], {"small": 2}),
        ([[BIG, SMALL]], (1, 0, 0), [("0", "deploy", "small", "cpus", 2, 0)], {"big": 8}),
        (
            [[BIG, SMALL], [SMALL], [SMALL]],
            (1, 1, 0),
            [("0", "deploy", "small", "cpus", 2, 0)],
            {},
        ),
        (
            [[BIG, SMALL], [BIG], [SMALL]],
            (2, 1, 0),
            [("0", "deploy", "small", "cpus", 2, 0)],
            {"small": 2},
        ),
        ([[BIG], [], [BIG]], (2, 1, 0), [], {"big": 8}),
        ([[SMALL], [Seen("small", 3)]], (1, 0, 1), [], {"small": 3}),
        (
            [[SMALL], [Seen("small", 9)], [Seen("small", 9), Seen("new", 6)]],
            (2, 0, 0),
            [("1", "resize", "small", "cpus", 7, 6)],
            {"small": 2, "new": 6},
        ),
        (
            [[SMALL], [Seen("small", 9)], [SMALL]],
            (1, 0, 0),
            [("1", "resize", "small", "cpus", 7, 6)],
            {"small": 2},
        ),
        (
            [[SMALL], [Seen("small", 2, 40_000)]],
            (1, 0, 0),
            [("1", "resize", "small", "memory_mib", 39_900, 31_676)],
            {"small": 2},
        ),
        ([[SMALL], [Seen("small", 2, 300)]], (1, 0, 1), [], {"small": 2}),
        (
            [[Seen("wide", 2, 40_000)]],
            (0, 0, 0),
            [("0", "deploy", "wide", "memory_mib", 40_000, 31_776)],
            {},
        ),
        ([[Seen("vast", 4_096)]], (0, 0, 0), [("0", "deploy", "vast", "cpus", 4_096, 8)], {}),
        ([[SMALL], [Seen("small", 2, level="2.0")]], (2, 1, 0), [], {"small": 2}),
        (
            [[BIG], [Seen("big", 6), Seen("more", 2)]],
            (2, 0, 1),
            [],
            {"big": 6, "more": 2},
        ),
    ],
    ids=[
        "removes come before deploys",
        "no room for the second",
        "a refusal is not retried",
        "coming back is a new deploy",
        "the same again",
        "grows",
        "a refused resize keeps the old size and is not retried",
        "a refused resize taken back",
        "memory refused",
        "memory grows",
        "more memory than the host",
        "more CPUs than the host",
        "another level is a new VM",
        "resizes come before deploys",
    ],
)
def test_what_a_trace_asks_for(
    samples: list[list[Seen]],
    counts: tuple[int, int, int],
    refused: list[tuple[str, str, str, str, int, int]],
    left: dict[str, int],
    tmp_path: Path,
) -> None:
    lines = [sample(time, *vms) for time, vms in enumerate(samples)]
    state, totals, refusals = decided(written(tmp_path / "t.csv", *lines))
    assert (totals.deploys, totals.removes, totals.resizes) == counts
    assert [
        (
            each.time,
            each.action,
            each.uuid,
            each.rejection.resource,
            each.rejection.asked,
            each.rejection.free,
        )
        for each in refusals
    ] == refused
    assert {vm.name: vm.vcpus for vm in state.vms()} == left
    assert not violations(state)


def test_a_refusal_is_told_kept_and_left_out(tmp_path: Path) -> None:
    trace = written(
        tmp_path / "t.csv",
        sample(0, Seen("a", 2, level="2.0")),
        sample(60, Seen("a", 20, level="2.0"), Seen("b", 8)),
        sample(120, Seen("a", 20, level="2.0"), Seen("b", 8)),
    )
    done = replay(trace, "--debug=1", f"--output={tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")
    told = [line for line in done.stdout.splitlines() if "refused (" in line]
    assert told == [
        f"60 s: {asked} MiB): no room: it needs {more} more CPUs and 6 are free"
        for asked, more in (
            ("resize of na refused (20 vCPUs at 2.0, 100", 18),
            ("deploy of nb refused (8 vCPUs at 1.0, 100", 8),
        )
    ]
    kept = rows_of(tmp_path / "rejections.csv")
    assert [(row["tmp"], row["action"], row["vm_uuid"], row["level"]) for row in kept] == [
        ("60", "resize", "a", "2.0"),
        ("60", "deploy", "b", "1.0"),
    ]
    for _, rows in samples_of(tmp_path / "monitoring.csv"):
        assert levels_of(rows) == {"2.0": {"a": 2}}, "its old size"


def test_a_vm_that_only_changes_its_name_is_not_tried_again(tmp_path: Path) -> None:
    refused = sample(1, Seen("a", 9))
    renamed = [line.replace("\tna\t", "\tother\t").replace("1\t", "2\t", 1) for line in refused]
    trace = written(tmp_path / "t.csv", sample(0, Seen("a", 2)), refused, renamed)
    _, totals, refusals = decided(trace)
    assert (totals.ticks, totals.refusals, len(refusals)) == (3, 1, 1)


def test_rows_of_both_resources_may_read_alike(tmp_path: Path) -> None:
    """As many vCPUs as MiB: what follows the value is the same text in both rows."""
    alike = (
        (4, "subset-1", "a", "1"),
        (2, "subset-2", "b", "2"),
    )
    of_cpu = [row(0, "subset", "cpu", 1, 9, "subset-2", sb_oc="2")]
    of_cpu += [row(0, "subset", "cpu", 1, 9, "subset-1", sb_oc="1")]
    of_cpu += [row(0, "vm", "cpu", 0.5, *each) for each in alike]
    of_mem = [row(0, "vm", "mem", 0.5, *each) for each in alike]
    trace = written(tmp_path / "t.csv", of_cpu, of_mem)
    usual = replayed(trace, tmp_path / "usual").read_bytes()
    trace = written(tmp_path / "t.csv", of_mem, of_cpu)
    output = replayed(trace, tmp_path / "memory-first")
    assert output.read_bytes() == usual
    [(_, rows)] = samples_of(output)
    assert levels_of(rows) == {"1.0": {"a": 4}, "2.0": {"b": 2}}
    memory = [each for each in rows if (each["rec"], each["res"]) == ("vm", "mem")]
    assert [(each["config"], each["subset"], each["sb_oc"]) for each in memory] == [
        ("4", "subset-1", "1"),
        ("2", "subset-1", "1"),
    ]


def test_brackets_in_names_are_letters_like_others(tmp_path: Path) -> None:
    trace = written(tmp_path / "[red] [x.csv", sample(0, Seen("[/i]", 9), Seen("é", 1)))
    done = replay(trace, "--debug=1", f"--output={tmp_path / '[/out]'}")
    assert (done.returncode, done.stderr) == (0, "")
    for shown in ("[red] [x.csv", "n[/i]", "[/out]"):
        assert shown in done.stdout


@st.composite
def histories(draw: st.DrawFn) -> list[list[Seen]]:
    """VMs that come, go, grow, shrink and change level, in any order."""
    ticks: list[list[Seen]] = []
    for _ in range(draw(st.integers(1, 6))):
        shown = draw(
            st.lists(
                st.builds(
                    Seen,
                    st.sampled_from("abcdef"),
                    st.integers(1, 5),
                    st.sampled_from([1, 100, 20_000]),
                    st.sampled_from(["1.0", "1.5", "2.0"]),
                ),
                max_size=6,
                unique_by=lambda vm: vm.uuid,
            )
        )
        ticks.append(shown)
    return ticks


@settings(max_examples=60)
@given(histories())
def test_any_history_is_decided_by_the_rules_and_replays_to_itself(
    history: list[list[Seen]],
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder)
        trace = written(path / "t.csv", *(sample(time, *vms) for time, vms in enumerate(history)))
        state, totals, refused = decided(trace)
        assert not violations(state)
        first = quietly(trace, path / "first")
        output = samples_of(first)
        assert len(output) == totals.ticks == len(history)
        for (_, rows), vms in zip(output, history, strict=True):
            about = level_rows(rows)
            for level, here in levels_of(rows).items():
                assert int(about[level]["config"]) == size_of(Fraction(level), list(here.values()))
                assert here.keys() <= {vm.uuid for vm in vms if vm.level == level}
        final = {vm.spec.name: vm.vcpus for vm in state.vms()}
        shown = {
            uuid: size for here in levels_of(output[-1][1]).values() for uuid, size in here.items()
        }
        assert shown == final
        if not refused:
            assert final == {vm.uuid: vm.vcpus for vm in history[-1]}
        assert quietly(first, path / "second").read_bytes() == first.read_bytes()


def quietly(trace: Path, output: Path) -> Path:
    """Replay in this process."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run_replay(Host(read_topology(LAPTOP)), ReplayFiles(trace, output, write=True))
    return output / "monitoring.csv"
