from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from clustersim.cellfile import open_cells
from clustersim.cells import COLUMN_GENERATION, AtPeak, Cell, Row, Setting
from clustersim.published import PUBLISHED, percents
from clustersim.report import mix_table
from clustersim.summary import summarise
from clustersim.workload import HostSize
from tests.simulations import done, refused
from tests.sweeps import ROOT

SETTING = Setting(HostSize(32, 131_072), vms=500, days=7.0, turnover=0.4, correlation=0.8)
HALVES = (Fraction(1, 2), Fraction(0), Fraction(1, 2))
THIRDS = (Fraction(333, 1000), Fraction(333, 1000), Fraction(334, 1000))
FIGURES = [f"{name}.{kind}" for name in ("hosts", "free", "fullness") for kind in ("png", "svg")]


def row(
    policy: str, seed: int, hosts: int, bound: float = 19.5, mix: tuple[Fraction, ...] = HALVES
) -> Row:
    cell = Cell("azure2017", mix, seed, policy)
    if policy == COLUMN_GENERATION:
        return Row(cell, SETTING, hosts, bound)
    # half of the hosts full, the others at a half of their memory, with 8 CPUs free each
    full, half = hosts - hosts // 2, hosts // 2
    there = AtPeak(8 * half, 65_536 * half, ((75, half), (100, full)))
    moves = 3 if "+" in policy else 0
    return Row(cell, SETTING, hosts, bound, moves, moves * 2048, there)


ROWS = [
    row("dedicated", 0, 25),
    row("dedicated", 1, 30),
    row("tight", 0, 22),
    row("tight", 1, 30),
    row("tight+on-refusal", 0, 20),
    row("tight+on-refusal", 1, 24),
    row(COLUMN_GENERATION, 0, 21),
    row(COLUMN_GENERATION, 1, 20),
    row("random", 0, 40, 1.0, THIRDS),
]


def written(folder: Path, rows: Iterable[Row]) -> Path:
    with open_cells(folder, SETTING) as file:
        for each in rows:
            file.add(each)
        file.sort()
    return folder


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    return written(tmp_path / "swept", ROWS)


def test_the_figures_as_json(swept: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    found = json.loads(done("report", swept, "--json", f"--output={out}"))
    assert found["figures"] == [str(out / name) for name in FIGURES]
    assert found["seeds"] == [0, 1]
    assert found["setting"]["host"] == {"cpus": 32, "memory_mib": 131_072}
    assert list(found["policies"]) == ["dedicated", "tight", "tight+on-refusal", "random"]
    tight, moving = found["policies"]["tight"], found["policies"]["tight+on-refusal"]
    assert tight["above_bound"] == pytest.approx((22 / 20 + 30 / 20) / 2 - 1)
    assert tight["above_column_bound"] == pytest.approx((22 / 21 + 30 / 20) / 2 - 1)
    assert tight["saving"] == pytest.approx((3 / 25 + 0) / 2)
    assert (tight["moves"], moving["moves"], moving["moved_gb"]) == (0, 3, 6)
    assert tight["free_cpus"] == pytest.approx(8 * 26 / (52 * 32))
    assert tight["free_memory"] == pytest.approx(0.25)
    assert tight["cdf"][74:76] == [0, 0.5]
    assert tight["cdf"][99:] == [0.5, 1]
    assert found["policies"]["random"]["saving"] is None
    halves, thirds = found["mixes"]
    assert (halves["mix"], thirds["mix"]) == ([50, 0, 50], [33.3, 33.3, 33.4])
    assert halves["bound"] == {"mean": 19.5, "least": 19.5, "most": 19.5}
    assert halves["whole_bound"]["mean"] == 20
    assert halves["column_bound"] == {"mean": 20.5, "least": 20, "most": 21}
    assert halves["hosts"]["tight"] == {"mean": 26, "least": 22, "most": 30}
    assert halves["saving"]["tight"] == {"mean": 0.06, "least": 0, "most": 0.12}
    assert halves["published"]["dedicated"] == 53
    assert halves["published"]["shared"] == 51
    assert halves["reached"] == {"tight": "yes", "tight+on-refusal": "yes"}
    assert (thirds["published"], thirds["column_bound"]) == (None, None)


@pytest.mark.parametrize(
    ("shared", "reached"),
    [((48, 48), "yes"), ((48, 50), "within the spread"), ((49, 50), "no")],
    ids=["on average", "with one seed", "with none"],
)
def test_savings_beside_the_published(shared: tuple[int, int], reached: str) -> None:
    rows = [row("dedicated", seed, 50) for seed in (0, 1)]  # published: 2 of 53, or 3.8 %
    rows += [row("tight", seed, hosts) for seed, hosts in enumerate(shared)]
    (columns, cells) = mix_table(summarise(rows), "tight")[1:]
    assert dict(zip(columns, cells[0], strict=True))["published reached"] == reached


def test_tables_as_text_and_as_markdown(swept: Path) -> None:
    text = done("report", swept)
    lines = [line.split() for line in text.splitlines()]
    assert ["azure2017", "50,0,50", "20.0", "20.5", "27.5", "26.0", "22.0"] in (
        line[:7] for line in lines
    )
    assert "53 → 51" in text
    assert text.splitlines()[-1].startswith(f"written: {swept}/hosts.png, ")
    table = done("report", swept, "--markdown")
    widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert len(widths) == 2, "two tables, each with as many cells in every row"
    assert "| tight | 2 | 30.00% | 27.38% | 6.0% | 0.0 | 0 | 12.5% | 25.0% |" in table
    other = done("report", swept, "--markdown", "--policy=tight+on-refusal")
    assert "saved: by tight+on-refusal" in other


def test_figures_are_there_and_the_same_every_time(swept: Path, tmp_path: Path) -> None:
    for folder in ("one", "other"):
        done("report", swept, f"--output={tmp_path / folder}")
    for name in FIGURES:
        one = (tmp_path / "one" / name).read_bytes()
        assert one == (tmp_path / "other" / name).read_bytes()
        assert len(one) > 5_000
        if name.endswith(".png"):
            assert one.startswith(b"\x89PNG")
        else:
            assert ET.fromstring(one).tag.endswith("svg")


def test_tables_go_into_a_page_anew(swept: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    names = ("policies", "end of policies", "mixes", "end of mixes")
    marks = [f"<!-- {name} -->" for name in names]
    page.write_text("# Before\n{}\nold\n{}\nbetween\n{}\n{}\nafter\n".format(*marks))
    for _ in range(2):  # the second time changes nothing
        done("report", swept, f"--into={page}")
        lines = page.read_text().splitlines()
        assert [line for line in lines if line in marks] == marks
        assert (lines[0], lines[-1], lines.count("between"), "old" in lines) == (
            *("# Before", "after"),
            *(1, False),
        )
        assert sum(line.startswith("| tight |") for line in lines) == 1
        assert sum(line.startswith("| azure2017 |") for line in lines) == 2


def test_the_page_on_packing_has_a_place_for_them() -> None:
    page = (ROOT / "docs/packing.md").read_text()
    places = [page.index(f"<!-- {name} -->\n") for name in ("policies", "end of policies", "mixes")]
    assert places == sorted(places)
    assert page.count("<!-- end of mixes -->\n") == 1


BAD = {
    "no such folder": (("nowhere",), 1, "cannot read nowhere/cells.csv: No such file or directory"),
    "unknown policy": (("{swept}", "--policy=best"), 2, "no 'best'; choose of dedicated, tight,"),
    "two formats": (("{swept}", "--json", "--markdown"), 2, "--json and --markdown exclude"),
    "no page": (("{swept}", "--into=nowhere.md"), 1, "cannot read nowhere.md: No such file"),
    "no marks": (("{swept}", "--into={swept}/cells.csv"), 1, "has no place for the table; add"),
    "output a file": (("{swept}", "--output={swept}/cells.csv"), 1, "cannot write the figures"),
}


@pytest.mark.parametrize(("arguments", "code", "said"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said(
    arguments: tuple[str, ...], code: int, said: str, swept: Path
) -> None:
    found = refused("report", *(each.format(swept=swept) for each in arguments))
    assert found[0] == code
    assert said in found[1]


def test_nothing_finished(tmp_path: Path) -> None:
    for rows in ([], [row(COLUMN_GENERATION, 0, 20)]):
        code, said = refused("report", written(tmp_path, rows))
        assert (code, "is finished; run the sweep" in said) == (1, True)


def test_a_damaged_file_is_told(swept: Path) -> None:
    path = swept / "cells.csv"
    path.write_text(path.read_text().replace("19.5", "x", 1))
    code, said = refused("report", swept)
    assert code == 1
    assert f"{path}, line 3, is damaged: could not convert" in said


def test_the_published_table() -> None:
    assert len({(each.workload, each.mix) for each in PUBLISHED}) == len(PUBLISHED) == 30
    assert all(sum(each.mix) == 1 and each.shared <= each.dedicated for each in PUBLISHED)
    assert sum(each.dedicated for each in PUBLISHED) == 1864
    assert sum(each.shared for each in PUBLISHED) == 1794
    (found,) = [each for each in PUBLISHED if each.dedicated == 83]
    assert (found.workload, percents(found.mix), found.shared) == ("ovhcloud2023", "50,0,50", 75)
    assert found.saving == pytest.approx(8 / 83)


def test_nothing_heavy_is_loaded_to_ask_for_help() -> None:
    script = (
        "import sys\nfrom clustersim.__main__ import main\n"
        "try: main(['sweep', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'scipy', 'matplotlib', 'pandas', 'rich', 'distributed'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "--published" in found.stdout
    assert found.stdout.splitlines()[-1] == ""
