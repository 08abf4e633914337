"""A recorded host replayed: the shipped traces, what is written, and the settings obeyed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.core.cpulist import parse_cpulist
from schedulerlocal.core.host import Host
from tests.oracle import resized, size_of
from tests.traces import (
    EPYC,
    HEADER,
    LAPTOP,
    ROOT,
    SAMPLE,
    SHIPPED,
    Levels,
    Row,
    Seen,
    level_rows,
    levels_of,
    names_of,
    replay,
    replayed,
    rows_of,
    sample,
    samples_of,
    written,
)

# --- the shipped traces -------------------------------------------------------------------------


def test_the_shipped_command_works_as_written_and_adds_up() -> None:
    before = sorted(each.name for each in (ROOT / "debug").iterdir())
    done = replay("results/monitoring.csv", topology="debug/topology_EPYC-7662-exp.json")
    assert (done.returncode, done.stderr) == (0, "")
    samples = samples_of(SHIPPED)
    came = left = 0
    there: set[str] = set()
    for _, rows in samples:
        shown = {vm for vms in levels_of(rows).values() for vm in vms}
        came += len(shown - there)
        left += len(there - shown)
        there = shown
    refused = re.findall(r"^([0-9]+) s: deploy of (vm[0-9]+) refused \(", done.stdout, re.MULTILINE)
    of_refused = [vm for vm in refused if vm[1] not in names_of(samples[-1][1], "vm", "cpu")]
    assert 0 < len(refused) < 10
    totals = (
        f"{len(samples)} timestamps; {came - len(refused)} deploys,"
        f" {left - len(of_refused)} removes, 0 resizes, {len(refused)} refused"
    )
    assert totals in done.stdout
    assert "of 232 CPUs and" in done.stdout
    assert "of 1031742 MiB allocated" in done.stdout
    assert "written" not in done.stdout
    assert "\x1b" not in done.stdout, "no colours where nobody watches"
    assert sorted(each.name for each in (ROOT / "debug").iterdir()) == before


def test_the_live_sample_gives_the_recorded_decisions(tmp_path: Path) -> None:
    output = samples_of(replayed(SAMPLE, tmp_path))
    recorded = samples_of(SAMPLE)
    assert [time for time, _ in output] == [time for time, _ in recorded]
    compared = 0
    for (_, was), (_, now) in zip(recorded, output, strict=True):
        ours = level_rows(now)
        for level, old in level_rows(was).items():
            about = json.loads(old["sb_dsc"])
            if not about["consumer_list"]:
                assert level not in ours, "a level without VMs is gone"
                continue
            assert ours[level]["config"] == old["config"]
            described = json.loads(ours[level]["sb_dsc"])
            assert parse_cpulist(described["cpus"]) == tuple(
                sorted(cpu["cpu_id"] for cpu in about["res_list"])
            )
            assert described["vms"] == [vm["name"] for vm in about["consumer_list"]]
            compared += 1
        assert levels_of(now) == levels_of(was)
    assert compared == 30


def test_cpus_are_picked_and_given_back_by_the_rule(tmp_path: Path) -> None:
    """On the laptop, filled and emptied all day long."""
    options = ["--vms=7", "--churn=12", "--host-cpus=8", "--host-memory-mib=31776"]
    made = [sys.executable, "-m", "schedulerlocal.synth", *options, f"--output={tmp_path}/t.csv"]
    subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
    replayed(tmp_path / "t.csv", tmp_path)
    host = Host(read_topology(LAPTOP))
    held: dict[str, tuple[int, ...]] = {}
    vms: Levels = {}
    given_back = 0
    for time, rows in samples_of(tmp_path / "monitoring.csv"):
        shown = levels_of(rows)
        changes = [
            (level, name, False)
            for level, here in vms.items()
            for name in here
            if name not in shown.get(level, {})
        ]
        given_back += len(changes)
        changes += [
            (level, name, True)
            for level, here in shown.items()
            for name in here
            if name not in vms.get(level, {})
        ]
        for level, name, comes in changes:
            of_level = vms.setdefault(level, {})
            if comes:
                of_level[name] = shown[level][name]
            else:
                del of_level[name]
            others = [cpu for other, cpus in held.items() if other != level for cpu in cpus]
            size = size_of(Fraction(level), list(of_level.values()))
            cpus = resized(host, held.get(level, ()), others, size)
            assert cpus is not None
            held[level] = cpus
        expected = {level: tuple(sorted(cpus)) for level, cpus in held.items() if vms[level]}
        found = {
            level: parse_cpulist(json.loads(row["sb_dsc"])["cpus"])
            for level, row in level_rows(rows).items()
        }
        assert found == expected, f"at {time} s"
    assert given_back > 10


# --- what is written ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replayed(SHIPPED, tmp_path_factory.mktemp("shipped"), EPYC)


def test_what_was_measured_is_echoed(shipped_again: Path) -> None:
    assert shipped_again.read_text().partition("\n")[0] == HEADER
    keys = ("tmp", "rec", "res", "subset", "vm_uuid")
    measured = {tuple(row[key] for key in keys): row["val"] for row in rows_of(SHIPPED)}
    values = {tuple(row[key] for key in keys): row["val"] for row in rows_of(shipped_again)}
    assert values.items() <= measured.items()
    refused = {row["vm_uuid"] for row in rows_of(shipped_again.with_name("rejections.csv"))}
    assert len(refused) == 3
    assert {key[-1] for key in measured.keys() - values.keys()} == refused


def test_what_was_decided_is_written_by_the_rules(shipped_again: Path) -> None:
    for time, rows in samples_of(shipped_again):
        owned: list[int] = []
        lent: set[int] = set()
        vms, about = levels_of(rows), level_rows(rows)
        assert vms.keys() == about.keys()
        for level, row in about.items():
            size = size_of(Fraction(level), list(vms[level].values()))
            assert (int(row["config"]), row["sb_unused"], row["sb_oc"]) == (size, "0", level), time
            described = json.loads(row["sb_dsc"])
            assert row["sb_dsc"] == json.dumps(described, separators=(",", ":"))
            assert list(described) == ["cpus", "lent", "vms"]
            assert len(parse_cpulist(described["cpus"])) == size
            owned += parse_cpulist(described["cpus"])
            lent |= {*parse_cpulist(described["lent"])}
        assert len(owned) == len(set(owned))
        assert not lent & {*owned}
        check_memory_rows(rows)
        totals = {row["res"]: row["config"] for row in rows if row["rec"] == "global"}
        assert totals == {"cpu": "232", "mem": "1031742"}, "the topology's, not the recorded 240"


def check_memory_rows(rows: list[Row]) -> None:
    of_vms = {row["vm_uuid"]: row for row in rows if (row["rec"], row["res"]) == ("vm", "mem")}
    assert {uuid for vms in levels_of(rows).values() for uuid in vms} == of_vms.keys()
    assert {(row["subset"], row["sb_oc"]) for row in of_vms.values()} == {("subset-1", "1")}
    [total] = [row for row in rows if (row["rec"], row["res"]) == ("subset", "mem")]
    assert (total["subset"], total["sb_oc"], total["sb_unused"]) == ("subset-1", "1", "0")
    assert int(total["config"]) == sum(int(row["config"]) for row in of_vms.values())
    by_node = json.loads(total["sb_dsc"])["nodes"]
    assert sum(by_node.values()) == int(total["config"])


def test_its_own_output_replays_to_itself(shipped_again: Path, tmp_path: Path) -> None:
    again = replayed(shipped_again, tmp_path, EPYC)
    assert again.read_bytes() == shipped_again.read_bytes()
    assert len(rows_of(tmp_path / "rejections.csv")) == 0


def test_the_topology_is_written_as_used(tmp_path: Path) -> None:
    replayed(SAMPLE, tmp_path, TOPO_EXCLUDE="0,4")
    assert read_topology(tmp_path / "topology_local.json").ids == (1, 2, 3, 5, 6, 7)


def test_times_and_values_are_written_as_read(tmp_path: Path) -> None:
    vm = Seen("a", 1)
    trace = written(
        tmp_path / "t.csv",
        sample("0.50", vm, usage="None"),
        sample("1e1", vm, usage="-0.10"),
        sample("010.25", vm, usage="1e-7"),
    )
    rows = rows_of(replayed(trace, tmp_path))
    assert [(row["tmp"], row["val"]) for row in rows] == (
        [("0.50", "None")] * 6 + [("1e1", "-0.10")] * 6 + [("010.25", "1e-7")] * 6
    )


def test_a_time_may_be_spelled_in_several_ways(tmp_path: Path) -> None:
    lines = sample(5, Seen("a", 1), Seen("b", 2), Seen("c", 1))
    times = ("5", "5.0", "5", "05", "5.", "5.0", "5", "5e0", "5.", "5")
    spelled = [line.replace("5", time, 1) for line, time in zip(lines, times, strict=True)]
    done = replay(written(tmp_path / "t.csv", spelled))
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 timestamps; 3 deploys" in done.stdout


# --- settings -----------------------------------------------------------------------------------

THREE = sample(0, Seen("a", 1), Seen("b", 3, level="2.0"), Seen("c", 1, level="3.0"))


def test_whole_cores_where_tenants_must_not_share_one(tmp_path: Path) -> None:
    trace = written(tmp_path / "t.csv", THREE)
    [(_, rows)] = samples_of(replayed(trace, tmp_path, SCL_SMT_ISOLATION="1"))
    found = {level: json.loads(row["sb_dsc"]) for level, row in level_rows(rows).items()}
    for level, size in (("1.0", 2), ("2.0", 4), ("3.0", 2)):
        cpus = parse_cpulist(found[level]["cpus"])
        assert len(cpus) == size
        assert {cpu % 4 for cpu in cpus} == {cpu % 4 for cpu in cpus if cpu < 4}
        assert found[level]["lent"] == ""
    assert [row["sb_unused"] for row in level_rows(rows).values()] == ["1", "1", "1"]
    assert [row["config"] for row in level_rows(rows).values()] == ["2", "4", "2"]


def lent_of(path: Path) -> set[str]:
    return {json.loads(row["sb_dsc"])["lent"] for row in level_rows(rows_of(path)).values()}


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_settings_from_either_place(place: str, tmp_path: Path) -> None:
    wanted = {
        "TOPO_EXCLUDE": "1,5",
        "SCL_HOST_CPUS": "0",
        "OVSB_CRITICAL_SIZE": "0",
        "SCL_RESERVED_MEMORY_MIB": "1776",
        "SCL_VM_OVERHEAD_MIB": "28",
    }
    env = wanted
    if place == ".env":
        env = {}
        lines = [f"{name}={text}" for name, text in wanted.items()]
        (tmp_path / ".env").write_text("\n".join(lines) + "\n", encoding="utf-8")
    trace = written(tmp_path / "t.csv", sample(1, Seen("b", 4, 100, "2.0")))
    assert lent_of(replayed(trace, tmp_path / "bare")) != {""}
    done = replay(trace, "--debug=1", f"--output={tmp_path}", cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    rows = rows_of(tmp_path / "monitoring.csv")
    totals = {row["res"]: row["config"] for row in rows if row["rec"] == "global"}
    assert totals == {"cpu": "5", "mem": "30000"}
    assert lent_of(tmp_path / "monitoring.csv") == {""}
    [memory] = [row for row in rows if (row["rec"], row["res"]) == ("subset", "mem")]
    assert memory["config"] == "128", "with overhead"


def test_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TOPO_EXCLUDE=0-3\nSOMETHING_ELSE=1\n", encoding="utf-8")
    trace = written(tmp_path / "t.csv", sample(0))
    done = replay(trace, cwd=tmp_path, env={"TOPO_EXCLUDE": "7"})
    assert "of 7 CPUs" in done.stdout
    assert "of 4 CPUs" in replay(trace, cwd=tmp_path).stdout


def test_a_name_in_a_trace_commands_no_terminal(tmp_path: Path) -> None:
    trace = written(tmp_path / "trace.csv", sample(0, Seen("\x1b[2Jwiped", 99)))
    done = replay(trace, topology=LAPTOP)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert r"deploy of 'n\x1b[2Jwiped' refused" in done.stdout
