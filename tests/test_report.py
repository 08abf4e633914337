from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from schedulercommon.errors import TraceError
from schedulerlocal.adapters.monitoringcsv import REFUSAL_COLUMNS
from schedulerlocal.adapters.tracecsv import COLUMNS
from schedulerlocal.report import level_table, sentences, totals
from schedulerlocal.report_series import read_monitoring, read_rejections

ROOT = Path(__file__).parent.parent
HEADER = "\t".join(COLUMNS)
REFUSALS = "\t".join(REFUSAL_COLUMNS)


def report(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schedulerlocal.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def row(time: int, kind: str, val: object, config: int, *rest: object) -> str:
    record, resource = kind.split()
    cells = [time, record, resource, val, config, *rest]
    return "\t".join(map(str, [*cells, *["None"] * (len(COLUMNS) - len(cells))]))


def level_row(
    time: int, level: str, val: object, cpus: int, owned: str = "0-1", lent: str = ""
) -> str:
    about = json.dumps({"cpus": owned, "lent": lent, "vms": []}, separators=(",", ":"))
    return row(time, "subset cpu", val, cpus, f"subset-{level}", "None", "None", level, 0, about)


def vm_row(time: int, level: str, uuid: str, val: object, vcpus: int) -> str:
    return row(time, "vm cpu", val, vcpus, f"subset-{level}", uuid, f"n{uuid}", level)


def memory_rows(time: int, *sizes: int, share: object = 0.5) -> list[str]:
    """Host of 1000 MiB; VMs of *sizes* MiB, each using *share* of its own."""
    rows = [row(time, "global mem", 0.3, 1000)]
    if sizes:
        about = '{"nodes":{"0":1}}'
        rows.append(
            row(time, "subset mem", 0.3, sum(sizes), "subset-1", "None", "None", 1, 0, about)
        )
    for number, size in enumerate(sizes):
        rows.append(row(time, "vm mem", share, size, "subset-1", f"u{number}", f"n{number}", 1))
    return rows


REPLAYED = [
    row(0, "global cpu", "None", 8),
    level_row(0, "2.0", "None", 2, lent="4-7"),
    vm_row(0, "2.0", "a", "None", 2),
    vm_row(0, "2.0", "b", "None", 1),
    *memory_rows(0, 200, 100, share="None"),
    row(60, "global cpu", 1.5, 8),
    level_row(60, "2.0", 9, 2, lent="4-5"),
    vm_row(60, "2.0", "a", 1.0, 2),
    vm_row(60, "2.0", "b", 0.5, 1),
    level_row(60, "3.0", "None", 4, owned="2-5", lent="5-6"),
    vm_row(60, "3.0", "c", "None", 4),
    *memory_rows(60, 200, 100, 400),
    row(120, "global cpu", 0.5, 8),
    level_row(120, "3.0", 2, 4, owned="2-5", lent=""),
    vm_row(120, "3.0", "c", 2, 4),
    *memory_rows(120, 400),
]
REFUSED = [
    "60\tx\tnx\tdeploy\t8\t10\t1.0\tcpus\t8\t2",
    "60\ty\tny\tdeploy\t1\t900\t1.0\tmemory_mib\t900\t300",
    "120\tc\tnc\tresize\t9\t10\t4/3\tcpus\t5\t4",
]


def written(folder: Path, rows: list[str], header: str = HEADER, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def replayed(tmp_path: Path) -> Path:
    written(tmp_path, REFUSED, REFUSALS, "rejections.csv")
    return written(tmp_path, REPLAYED)


def test_series_of_a_replay(replayed: Path) -> None:
    found = read_monitoring(replayed)
    assert found.times_s.tolist() == [0, 60, 120]
    assert list(found.levels) == [Fraction(2), Fraction(3)]
    two, three = found.levels.values()
    assert two.cpus.tolist() == [2, 2, 0]
    assert two.vms.tolist() == [2, 2, 0]
    assert two.vcpus.tolist() == [3, 3, 0]
    assert str(two.usage.tolist()) == "[nan, 1.5, 0.0]", "the VMs' sum, not the row's own 9"
    assert str(three.usage.tolist()) == "[0.0, nan, 2.0]"
    assert found.free.tolist() == [6, 2, 4]
    assert found.lent.tolist() == [4, 3, 0], "CPU 5 is lent once, though two levels borrow it"
    assert found.memory_allocated_mib.tolist() == [300, 700, 400]
    assert found.memory_used_mib.tolist() == [300, 350, 200], "host's share where none is measured"
    assert found.vms_seen == 3


def test_totals_of_a_replay_as_json(replayed: Path, tmp_path: Path) -> None:
    done = report(replayed, "--json", "--output", tmp_path / "new" / "folder")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["duration_s"], found["samples"], found["vms_seen"]) == (120, 3, 3)
    assert found["capacity_cpus"] == 8
    assert found["allocated_cpus"] == {"peak": 6, "mean": 4}
    assert found["free_cpus"]["mean"] == 4
    assert found["lent_cpus"] == {"peak": 4, "mean": pytest.approx(7 / 3, abs=1e-3)}
    assert found["allocated_memory_mib"]["peak"] == 700
    three = found["levels"]["3.0"]
    assert three["vms"] == {"peak": 1, "mean": pytest.approx(2 / 3, abs=1e-3)}
    assert three["cpus"]["peak"] == three["vcpus"]["peak"] == 4
    assert three["used_cpus"] == {"peak": 2, "mean": 1}
    assert three["used_ratio"] == 0.5
    assert found["rejections"] == {"1.0": {"cpus": 1, "memory_mib": 1}, "4/3": {"cpus": 1}}
    assert [Path(each).name for each in found["figures"]] == ["report.png", "report.svg"]
    assert all(Path(each).is_file() for each in found["figures"])


def test_figures_are_beside_the_csv_and_the_same_again(replayed: Path) -> None:
    first = report(replayed)
    assert first.returncode == 0, first.stderr
    png, svg = replayed.with_name("report.png"), replayed.with_name("report.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    before = svg.read_bytes()
    assert ET.fromstring(before).tag.endswith("svg")
    assert report(replayed).stdout == first.stdout
    assert svg.read_bytes() == before
    assert "\x1b" not in first.stdout
    table = [line.split() for line in first.stdout.splitlines()]
    assert [line[0] for line in table[1:3]] == ["2.0", "3.0"]
    assert "rejections: 3" in first.stdout


def test_what_is_printed_of_a_replay(replayed: Path) -> None:
    refused = read_rejections(replayed.with_name("rejections.csv"))
    found = totals(read_monitoring(replayed), refused)
    names, rows = level_table(found)
    assert names == ("level", "VMs", "vCPUs sold", "CPUs owned", "CPUs used", "used/owned")
    assert rows == [
        ("2.0", "2 / 1.3", "3 / 2", "2 / 1.3", "1.5 / 0.8", "75%"),
        ("3.0", "1 / 0.7", "4 / 2.7", "4 / 2.7", "2 / 1", "50%"),
    ]
    assert sentences(found) == [
        "2.0 min, 3 samples, 3 VMs seen",
        "CPUs: at most 6 of 8 allocated; 4 free on average, 2.3 of them lent",
        "memory: at most 700 of 1000 MiB allocated",
        (
            "rejections: 3 (1 for want of CPUs at level 1.0, 1 for want of memory at level 1.0,"
            " 1 for want of CPUs at level 4/3)"
        ),
    ]


def test_a_recorded_trace_tells_less_and_works(tmp_path: Path) -> None:
    verbose = json.dumps({"res_list": [{"cpu_id": 0}, {"cpu_id": 4}], "consumer_list": []})
    rows = [
        row(0, "global cpu", "None", 8),
        row(0, "subset cpu", "None", 2, "subset-2.0", "None", "None", "2.0", 0, verbose),
        vm_row(0, "2.0", "a", "None", 2),
        vm_row(0, "3.0", "b", "None", 4),
        *memory_rows(0, 100, share="None"),
    ]
    found = totals(read_monitoring(written(tmp_path, rows)), None)
    assert found.lent_cpus.mean is None
    assert found.rejections is None
    assert found.allocated_cpus.peak == 6, "a level without its row owns what the rule asks for"
    assert found.levels["2.0"].used_ratio is None
    said = "\n".join(sentences(found))
    assert "lent" not in said
    assert "rejections" not in said
    assert report(tmp_path / "m.csv").returncode == 0, "one timestamp, nothing measured"


def test_an_idle_host_is_drawn_too(tmp_path: Path) -> None:
    rows = [row(0, "global cpu", 0, 8), *memory_rows(0)]
    path = written(tmp_path, rows)
    written(tmp_path, [], REFUSALS, "rejections.csv")
    found = read_monitoring(path)
    assert not found.levels
    assert found.memory_used_mib.tolist() == [0]
    done = report(path)
    assert done.returncode == 0, done.stderr
    assert "rejections: 0" in done.stdout


def test_long_and_many_levelled_traces_are_drawn_small(tmp_path: Path) -> None:
    rows = []
    for step in range(3000):
        rows.append(row(step, "global cpu", 1, 64))
        for level in (1 + step % 2, *range(3, 15)):
            rows.append(level_row(step, f"{level}.0", 1, 1, lent="60"))
            rows.append(vm_row(step, f"{level}.0", f"u{level}", 0.5, 1))
        rows += memory_rows(step, 10)
    done = report(written(tmp_path, rows), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["levels"]) == 14
    assert found["levels"]["1.0"]["vms"]["mean"] == 0.5
    assert (tmp_path / "report.svg").stat().st_size < 4_000_000


SHIPPED = ROOT / "results" / "monitoring.csv"
EPYC = ROOT / "debug" / "topology_EPYC-7662-exp.json"


def test_the_shipped_trace_as_recorded_and_as_replayed(tmp_path: Path) -> None:
    done = report(SHIPPED, "--json", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    recorded = json.loads(done.stdout)
    assert list(recorded["levels"]) == ["1.0", "2.0", "3.0"]
    assert recorded["samples"] == 96
    for each in recorded["levels"].values():
        assert each["vcpus"]["peak"] >= each["cpus"]["peak"] >= each["used_cpus"]["peak"] > 0

    options = [f"--load={SHIPPED}", f"--topology={EPYC}", "--debug=1", f"--output={tmp_path}"]
    replay = [sys.executable, "-m", "schedulerlocal", *options]
    subprocess.run(replay, cwd=ROOT, check=True, capture_output=True)
    done = report(tmp_path / "monitoring.csv", "--json")
    assert done.returncode == 0, done.stderr
    replayed = json.loads(done.stdout)
    refused = sum(sum(each.values()) for each in replayed["rejections"].values())
    assert 0 < refused < 10
    assert recorded["vms_seen"] == replayed["vms_seen"] + refused
    assert replayed["capacity_cpus"] == replayed["allocated_cpus"]["peak"] == 232
    assert 0 < replayed["lent_cpus"]["mean"] < replayed["free_cpus"]["mean"]


GOOD = [row(0, "global cpu", 0, 8), *memory_rows(0)]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("tmp,rec,res\n", "line 1"),
        (REFUSALS + "\n", "line 1"),
        (HEADER + "\n", "no rows"),
        ("\n".join([HEADER, GOOD[0], "0\tglobal"]), "line 3: it has 2 columns and needs 11"),
        ("\n".join([HEADER, *GOOD, ""]) + "\n", "line 4: it has 1 columns"),
        ("\n".join([HEADER, GOOD[0], "0\tvm\tcpu\t1\t2\tsubset-1.0"]), "line 3: it has 6 columns"),
        ("\n".join([HEADER, GOOD[0]]), "no global mem row"),
        ("\n".join([HEADER, *memory_rows(0, 5)]), "no global cpu row"),
        ("\n".join([HEADER, row(9, "global cpu", 0, 8), GOOD[0]]), "line 3: time '0' comes after"),
        ("\n".join([HEADER, GOOD[0].replace("0", "soon", 1)]), "line 2: tmp is 'soon'"),
        ("\n".join([HEADER, GOOD[0].replace("0", "nan", 1)]), "line 2: tmp is 'nan'"),
        ("\n".join([HEADER, GOOD[0].replace("cpu", "gpu")]), "line 2: res is 'gpu'"),
        ("\n".join([HEADER, GOOD[0].replace("global", "rack")]), "line 2: rec is 'rack'"),
        ("\n".join([HEADER, vm_row(0, "1.0", "a", "much", 1)]), "line 2: val is 'much'"),
        ("\n".join([HEADER, vm_row(0, "1.0", "a", "inf", 1)]), "line 2: val is 'inf'"),
        ("\n".join([HEADER, vm_row(0, "0.5", "a", 1, 1)]), "line 2: sb_oc"),
        ("\n".join([HEADER, vm_row(0, "1.0", "a", 1, -1)]), "line 2: config is '-1'"),
        ("\n".join([HEADER, level_row(0, "2.0", 1, 1, lent="3-1")]), "line 2: sb_dsc"),
    ],
)
def test_what_is_no_monitoring_csv_is_one_sentence(text: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TraceError) as problem:
        read_monitoring(path)
    assert hint in str(problem.value)
    assert str(path) in str(problem.value)


@pytest.mark.parametrize(
    "line", ["60\tx", REFUSED[0].replace("1.0", "0.1"), REFUSED[0].replace("60", "?")]
)
def test_rejections_that_cannot_be_read_name_their_line(line: str, tmp_path: Path) -> None:
    path = written(tmp_path, [REFUSED[1], line], REFUSALS, "rejections.csv")
    with pytest.raises(TraceError, match="line 3"):
        read_rejections(path)


def test_command_line_errors(replayed: Path, tmp_path: Path) -> None:
    broken = written(tmp_path, [*GOOD, "1\tvm"], name="broken.csv")
    for arguments, code, hint in (
        ([tmp_path / "absent.csv"], 1, "absent.csv"),
        ([tmp_path], 1, str(tmp_path)),
        ([broken], 1, "line 4"),
        ([replayed, "--output=/dev/null/figures"], 1, "/dev/null/figures"),
        ([], 2, "MONITORING.csv"),
        ([replayed, "--purple"], 2, "--purple"),
    ):
        done = report(*arguments)
        assert done.returncode == code, arguments
        assert hint in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert not done.stdout
