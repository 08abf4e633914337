from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedulercommon.levels import parse_level
from schedulercommon.sizing import cpus_needed
from schedulerlocal.adapters.tracecsv import COLUMNS
from schedulerlocal.synth import Tally, Workload, draw_size, trace

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "results" / "monitoring.csv"
Row = dict[str, str]


def synth(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schedulerlocal.synth", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def workload(**changes: object) -> Workload:
    usual: dict[str, object] = {
        "vms": 30,
        "hours": 6,
        "step_s": 900,
        "shares": (25, 40, 35),
        "churn": 2.0,
        "host_cpus": 232,
        "host_memory_mib": 1_031_742,
    }
    return Workload(**{**usual, **changes})  # type: ignore[arg-type]


def rows_of(lines: list[str]) -> list[Row]:
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def samples_of(rows: list[Row]) -> Iterator[tuple[int, list[Row]]]:
    for time, group in groupby(rows, key=lambda row: row["tmp"]):
        yield int(time), list(group)


def check_sample(sample: list[Row], host: Workload) -> None:
    """A timestamp is what a host would have written: its rows agree with each other."""
    kinds = [(row["rec"], row["res"]) for row in sample]
    assert kinds[0] == ("global", "cpu")
    split = kinds.index(("global", "mem"))
    cpu, mem = sample[1:split], sample[split + 1 :]
    assert {row["res"] for row in cpu} <= {"cpu"}
    assert {row["res"] for row in mem} <= {"mem"}
    vms: defaultdict[str, list[Row]] = defaultdict(list)
    subsets: dict[str, Row] = {}
    for row in cpu:
        if row["rec"] == "subset":
            subsets[row["subset"]] = row
        else:
            assert list(subsets)[-1] == row["subset"], "a level's VMs follow its row"
            vms[row["subset"]].append(row)
    assert list(subsets) == list(vms)
    owned = 0
    for label, subset in subsets.items():
        level = parse_level(label.removeprefix("subset-"))
        assert parse_level(subset["sb_oc"]) == level
        sizes = [int(row["config"]) for row in vms[label]]
        assert int(subset["config"]) == cpus_needed(sum(sizes), max(sizes), level)
        owned += int(subset["config"])
        assert json.loads(subset["sb_dsc"])["vms"] == [row["vm_cmn"] for row in vms[label]]
        used = [float(row["val"]) for row in vms[label] if row["val"] != "None"]
        assert sum(used) <= int(subset["config"]) + 0.1
        if subset["val"] != "None":
            assert float(subset["val"]) == pytest.approx(sum(used), abs=0.1)
    assert owned <= host.host_cpus == int(sample[0]["config"])
    memory = [row for row in mem if row["rec"] == "vm"]
    assert [row["vm_uuid"] for row in memory] == [
        row["vm_uuid"] for row in cpu if row["rec"] == "vm"
    ]
    assert all(0 <= float(row["val"]) <= 1 for row in memory)
    allocated = sum(int(row["config"]) for row in memory)
    assert allocated <= host.host_memory_mib == int(sample[split]["config"])
    assert [int(row["config"]) for row in mem if row["rec"] == "subset"] == [allocated] * bool(
        memory
    )


hosts = st.builds(
    workload,
    vms=st.integers(1, 60),
    hours=st.integers(1, 4),
    churn=st.sampled_from([0.0, 1.0, 30.0]),
    shares=st.sampled_from([(25, 40, 35), (100, 0, 0), (0, 0, 100)]),
    host_cpus=st.integers(1, 64),
    host_memory_mib=st.integers(600, 200_000),
)


@settings(max_examples=40, deadline=None)
@given(host=hosts, seed=st.integers(0, 1 << 32))
def test_every_sample_agrees_with_itself_and_fits_the_host(host: Workload, seed: int) -> None:
    tally = Tally()
    rows = rows_of("".join(trace(Random(seed), host, tally)).splitlines())
    assert len(rows) == tally.rows > 0
    for _, sample in samples_of(rows):
        check_sample(sample, host)
    assert len({row["vm_uuid"] for row in rows if row["rec"] == "vm"}) == tally.vms


def test_first_sight_of_a_vm_has_no_usage_and_later_ones_do() -> None:
    rows = rows_of("".join(trace(Random(1), workload(), Tally())).splitlines())
    seen: set[str] = set()
    late = 0
    for row in rows:
        if (row["rec"], row["res"]) == ("vm", "cpu"):
            assert (row["val"] == "None") == (row["vm_uuid"] not in seen)
            late += row["vm_uuid"] not in seen and row["tmp"] != "0"
            seen.add(row["vm_uuid"])
    assert late > 3, "VMs arrive during the trace"


def test_usage_and_vms_rise_by_day() -> None:
    host = workload(vms=150, hours=24, churn=3.0, host_cpus=1000)
    rows = rows_of("".join(trace(Random(3), host, Tally())).splitlines())
    usage = {
        int(row["tmp"]) // 3600: float(row["val"])
        for row in rows[1:]
        if row["rec"] == "global" and row["res"] == "cpu" and row["val"] != "None"
    }
    assert sum(usage[hour] for hour in (14, 15, 16)) > 1.3 * sum(usage[hour] for hour in (2, 3, 4))


def test_sizes_follow_the_published_shares_and_grow_together() -> None:
    rng = Random(5)
    sizes = [draw_size(rng) for _ in range(4000)]
    vcpus = [each for each, _ in sizes]
    for size, share in ((1, 0.51), (2, 0.25), (4, 0.17), (8, 0.07)):
        assert vcpus.count(size) / len(sizes) == pytest.approx(share, abs=0.03)
    assert {memory for _, memory in sizes} == {768, 1792, 3584, 7168, 14336, 57344}
    small = [memory for each, memory in sizes if each == 1]
    large = [memory for each, memory in sizes if each == 8]
    assert sum(large) / len(large) > 4 * sum(small) / len(small)


def test_levels_are_sold_in_the_shares_asked_for() -> None:
    host = workload(vms=400, shares=(10, 0, 90), host_cpus=2000, host_memory_mib=10**7, hours=1)
    rows = rows_of("".join(trace(Random(9), host, Tally())).splitlines())
    sold = [
        parse_level(row["sb_oc"])
        for row in rows
        if row["rec"] == "vm" and row["res"] == "cpu" and row["tmp"] == "0"
    ]
    assert Fraction(2) not in sold
    assert sold.count(Fraction(1)) / len(sold) == pytest.approx(0.1, abs=0.05)


def test_command_writes_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    options = ("--vms=20", "--hours=2", "--churn=5")
    texts = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        done = synth(*options, f"--seed={seed}", f"--output={tmp_path / 'new' / name}")
        assert done.returncode == 0, done.stderr
        texts.append((tmp_path / "new" / name).read_bytes())
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].splitlines()[0].decode().split("\t") == list(COLUMNS)
    rows = len(texts[0].splitlines()) - 1
    assert f"{rows} rows" in synth(*options, "--seed=3", f"--output={tmp_path / 'd'}").stdout


def test_shipped_trace_is_what_the_documented_command_makes(tmp_path: Path) -> None:
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8").replace("\\\n", "")
    command = next(
        line for line in text.splitlines() if line.endswith("--output=results/monitoring.csv")
    )
    made = tmp_path / "made.csv"
    arguments = command.split()[3:-1]
    assert synth(*arguments, f"--output={made}").returncode == 0
    assert made.read_bytes() == SHIPPED.read_bytes()


def test_a_long_trace_is_drawn_timestamp_by_timestamp() -> None:
    pieces = trace(Random(1), workload(hours=100_000, step_s=60), Tally())
    assert next(pieces).startswith("tmp\t")
    assert {line.split("\t")[0] for line in next(pieces).splitlines()} == {"0"}
    assert {line.split("\t")[0] for line in next(pieces).splitlines()} == {"60"}


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["--vms=0"], 2, "--vms"),
        (["--vms=many"], 2, "--vms"),
        (["--hours=nan"], 2, "--hours"),
        (["--step-s=0"], 2, "--step-s"),
        (["--churn=-1"], 2, "--churn"),
        (["--host-cpus=0"], 2, "--host-cpus"),
        (["--shares=50,50"], 2, "--shares"),
        (["--shares=50,60,-10"], 2, "--shares"),
        (["--shares=nan,50,50"], 2, "--shares"),
        (["--colour=red"], 2, "--colour"),
        (["--output=/dev/null/trace.csv"], 1, "/dev/null/trace.csv"),
    ],
)
def test_wrong_usage_is_one_sentence(
    arguments: list[str], code: int, hint: str, tmp_path: Path
) -> None:
    elsewhere = arguments[0].startswith("--output")
    output = [] if elsewhere else [f"--output={tmp_path / 't.csv'}"]
    done = synth(*output, *arguments)
    assert done.returncode == code
    assert hint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "t.csv").exists()
