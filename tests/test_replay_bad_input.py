"""Whatever is wrong with a trace: one sentence, the right exit code, no traceback."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schedulerlocal.adapters.tracecsv import COLUMNS
from tests.traces import (
    HEADER,
    LAPTOP,
    Seen,
    refused,
    rows_of,
    run_here,
    sample,
    samples_of,
    written,
)

A, B = Seen("a", 2, level="2.0"), Seen("b", 1)
GOOD = [HEADER, *sample(0, A, B), *sample(60, A, B)]
"""Line 4 is the vm cpu row of b, line 9 its vm mem row; 60 s begin at line 11."""
VM_CPU, VM_MEM, NEXT_TIME = 4, 9, 11


def with_line(number: int, *lines: str) -> bytes:
    """The good trace with other *lines* in place of one."""
    text = [*GOOD[: number - 1], *lines, *GOOD[number:]]
    return "".join(line + "\n" for line in text).encode()


def with_cell(number: int, column: str, text: str) -> bytes:
    cells = GOOD[number - 1].split("\t")
    cells[COLUMNS.index(column)] = text
    return with_line(number, "\t".join(cells))


WHOLE = with_line(1, HEADER)

BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the trace is empty"),
    "a header only": ((HEADER + "\n").encode(), "no rows"),
    "a header without its end": (HEADER.encode(), "no rows"),
    "a column missing": (with_line(1, HEADER.replace("\tsb_unused", "")), "header lacks sb_unus"),
    "another order": (with_line(1, "\t".join(sorted(COLUMNS))), "1: the header has other columns"),
    "a column too many": (with_line(1, HEADER + "\tmore"), "1: the header has other columns"),
    "commas": (WHOLE.replace(b"\t", b","), "1: the header lacks tmp, rec"),
    "no header": (with_line(1, GOOD[1]), "1: the header lacks tmp, rec"),
    "UTF-16": (WHOLE.decode().encode("utf-16"), "1: the header lacks tmp, rec"),
    "binary": (bytes(range(256)) * 4_096, "1: the header lacks tmp, rec"),
    "old line ends": (WHOLE.replace(b"\n", b"\r"), "1: the header"),
    "cut short": (WHOLE[:-40], "line 19: it has"),
    "cut in a time": (WHOLE + b"12", "line 20: it has 1 columns and needs 11"),
    "a short line": (with_line(VM_CPU, "0\tvm\tcpu\t0.5\t1\tsubset-1.0"), "4: it has 6 columns"),
    "a short vm line": (with_line(6, "0\tvm\tcpu"), "line 6: it has 3 columns and needs 11"),
    "a line of a word": (with_line(6, "garbage"), "line 6: it has 1 columns and needs 11"),
    "a short subset line": (with_line(3, "0\tsubset\tcpu\t1\t1"), "line 3: it has 5 columns"),
    "a long line": (with_line(VM_CPU, GOOD[VM_CPU - 1] + "\tmore"), "line 4: it has 12 columns"),
    "a blank line": (with_line(VM_CPU, ""), "line 4: it is blank; remove it"),
    "a blank last line": (WHOLE + b"\n", "line 20: it is blank; remove it"),
    "spaces only": (with_line(VM_CPU, "  "), "line 4: it is blank; remove it"),
    "time goes back": (
        with_line(NEXT_TIME - 1, GOOD[NEXT_TIME - 2], *sample(120, A, B)),
        "line 20: time '60' comes after '120'; sort the trace by tmp",
    ),
    "a row of the time before": (
        with_line(NEXT_TIME, GOOD[NEXT_TIME - 1], GOOD[VM_CPU - 1]),
        "line 12: time '0' comes after '60'; sort the trace by tmp",
    ),
    "not UTF-8": (WHOLE.replace(b"\tnb\t", b"\tn\xff\t"), "line 4: it is not UTF-8 text"),
    "not UTF-8 in a value": (WHOLE.replace(b"0.5", b"\x80", 1), "line 2: it is not UTF-8 text"),
    "a carriage return": (WHOLE.replace(b"\tnb\t", b"\tn\rb\t"), "line 4: a carriage return"),
    "another record": (with_cell(2, "rec", "rack"), "line 2: rec is 'rack'; it must be"),
    "another resource": (with_cell(2, "res", "gpu"), "line 2: res is 'gpu'; it must be"),
    "another resource of a VM": (with_cell(VM_CPU, "res", "gpu"), "line 4: res is 'gpu'"),
    "a subset of no level": (with_cell(3, "subset", "subset-x"), "line 3: subset is 'subset-x'"),
    "a subset below 1": (with_cell(3, "subset", "subset-0.5"), "line 3: subset is 'subset-0.5'"),
    "no memory row": (with_line(VM_MEM), "line 4: VM nb appears at 0 s without a vm mem row"),
    "a cell of 10 MB": (with_cell(VM_CPU, "config", "9" * 10_000_000), "line 4: config is '999"),
    "a line without end": (WHOLE + b"x" * (66 << 20), "line 20: it is longer than 64 MiB"),
}  # fmt: skip


@pytest.mark.parametrize(("trace", "hint"), BROKEN.values(), ids=BROKEN)
def test_a_trace_that_cannot_be_read(trace: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(trace)
    code, said = refused(f"--load={path}", f"--topology={LAPTOP}")
    assert code == 1
    assert hint in said
    assert str(path) in said
    assert ";" in said, "and how to mend it"


NO_TIMES = ["soon", "", "nan", "inf", "-inf", "1e999", "9" * 400, "1_0", "0x1", " 1", "٢", "1,5"]
NO_SIZES = ["0", "-1", "1.5", "nan", "inf", "1e3", "", "1_0", "٢", "+1", "many", "9" * 50]
NO_LEVELS = ["0", "0.5", "0.999", "64.01", "65", "-2", "nan", "inf", "1e1", "", "4/0", "1002/1001",
             "٢", "2,0", "9" * 50, "1/" + "9" * 50]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "column", "text"),
    [
        *((number, "tmp", text) for number in (2, VM_CPU) for text in NO_TIMES),
        *((number, "config", text) for number in (VM_CPU, VM_MEM) for text in NO_SIZES),
        (VM_CPU, "config", "4097"),
        (VM_MEM, "config", str((1 << 30) + 1)),
        *((VM_CPU, "sb_oc", text) for text in NO_LEVELS),
    ],
)
def test_a_number_that_is_none(line: int, column: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(with_cell(line, column, text))
    code, said = refused(f"--load={path}", f"--topology={LAPTOP}")
    assert code == 1
    assert f"{path}, line {line}: {column}" in said
    assert ";" in said


ALL = {"tmp", "rec", "res"}
NEEDED = {
    2: ALL,
    3: ALL | {"subset"},
    VM_CPU: ALL | {"config", "vm_uuid", "sb_oc"},
    VM_MEM: ALL | {"config", "vm_uuid"},
}


@pytest.mark.parametrize("line", [2, 3, VM_CPU, VM_MEM], ids=["global", "subset", "cpu", "mem"])
@pytest.mark.parametrize("column", COLUMNS)
def test_none_in_every_column(line: int, column: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(with_cell(line, column, "None"))
    if column in NEEDED[line]:
        code, said = refused(f"--load={path}", f"--topology={LAPTOP}")
        assert code == 1
        assert f"{path}, line {line}: {column}" in said
        assert "None" in said
    else:
        code, out, err = run_here(f"--load={path}", f"--topology={LAPTOP}")
        assert (code, err) == (0, "")
        assert "2 timestamps; 2 deploys, 0 removes, 0 resizes, 0 refused" in out


@pytest.mark.parametrize(
    ("trace", "hint", "totals"),
    [
        (with_line(3), "line 2: the timestamp 0 has no subset-1.0 cpu row;", "2 deploys, 0 rem"),
        (WHOLE + WHOLE[len(HEADER) + 1 :].split(b"60\tglobal", 1)[1].join([b"60\tglobal", b""]),
         "4 vm rows repeat another of the same timestamp;", "2 deploys, 0 removes, 0 resizes"),
        (with_line(VM_CPU, GOOD[VM_CPU - 1], GOOD[VM_CPU - 1]), "1 vm rows repeat", "2 deploys"),
        (with_line(VM_CPU, GOOD[VM_CPU - 1], GOOD[VM_CPU - 1].replace("\t1\t", "\t3\t")),
         "the timestamp 0 shows a VM in two sizes;", "2 deploys, 0 removes, 1 resizes"),
        (with_line(VM_CPU), "line 8: VM nb has no vm cpu row at 0 s", "2 deploys, 0 removes"),
    ],
    ids=["no subset row", "a timestamp again", "a row again", "two sizes", "no cpu row"],
)  # fmt: skip
def test_what_can_be_read_around_is_a_warning(
    trace: bytes, hint: str, totals: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(trace)
    code, out, err = run_here(f"--load={path}", f"--topology={LAPTOP}")
    assert code == 0
    assert err.startswith("warning: ")
    assert err.count("\n") == 1, err
    assert hint in err
    assert totals in out


def test_a_vm_larger_than_the_host_is_a_result(tmp_path: Path) -> None:
    trace = written(tmp_path / "t.csv", sample(0, Seen("a", 9), Seen("b", 1, 99_999)))
    code, out, err = run_here(f"--load={trace}", f"--topology={LAPTOP}")
    assert (code, err) == (0, "")
    assert "deploy of na refused (9 vCPUs at 1.0, 100 MiB)" in out
    assert "deploy of nb refused (1 vCPUs at 1.0, 99999 MiB)" in out
    assert "0 deploys, 0 removes, 0 resizes, 2 refused" in out


def test_long_descriptions_are_read_over(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(with_cell(3, "sb_dsc", json.dumps({"x": "y" * 10_000_000})))
    code, out, err = run_here(f"--load={path}", f"--topology={LAPTOP}")
    assert (code, err) == (0, "")
    assert "2 deploys" in out


def test_what_was_replayed_before_a_broken_line_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(with_line(len(GOOD), "60\tvm"))
    options = ["--debug=1", f"--output={tmp_path}"]
    code, said = refused(f"--load={path}", f"--topology={LAPTOP}", *options)
    assert (code, "line 19" in said) == (1, True)
    [(time, rows)] = samples_of(tmp_path / "monitoring.csv")
    assert (time, len(rows)) == ("0", 9)


def test_a_trace_that_is_none_leaves_older_outputs(tmp_path: Path) -> None:
    older = tmp_path / "monitoring.csv"
    older.write_text("precious", encoding="utf-8")
    for trace in (tmp_path, tmp_path / "absent.csv", LAPTOP.with_name("README.md")):
        options = ["--debug=1", f"--output={tmp_path}"]
        code, _ = refused(f"--load={trace}", f"--topology={LAPTOP}", *options)
        assert code == 1
    assert [each.name for each in tmp_path.iterdir()] == ["monitoring.csv"]
    assert older.read_text(encoding="utf-8") == "precious"


# --- anything at all ------------------------------------------------------------------------------

HISTORY = "".join(
    line + "\n"
    for line in [
        HEADER,
        *sample(0, A, B),
        *sample(60, A, B, Seen("c", 9)),
        *sample(120, Seen("a", 3, level="2.0"), Seen("d", 2, 300, "1.5")),
    ]
).encode()

mutations = st.lists(
    st.tuples(
        st.integers(0, len(HISTORY) - 1),
        st.integers(0, 12),
        st.one_of(
            st.binary(max_size=4),
            st.sampled_from([b"\t", b"\n", b"\r", b"\x00", b"None", b"nan", b"-1", b"\tvm\t"]),
        ),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300)
@given(mutations)
@example([(len(HEADER) + 1, 0, b"\n")])
@example([(len(HISTORY) - 1, 1, b"")])
def test_no_trace_gives_a_traceback(changes: list[tuple[int, int, bytes]]) -> None:
    text = bytearray(HISTORY)
    for place, length, new in changes:
        text[place : place + length] = new
    with TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        path.write_bytes(text)
        options = [f"--load={path}", f"--topology={LAPTOP}", "--debug=1", f"--output={folder}"]
        code, _, err = run_here(*options)
        assert code in (0, 1)
        if code == 1:
            assert err.count("\n") == 1
            assert str(path) in err
        else:
            assert all(line.startswith("warning: ") for line in err.splitlines())
            first = Path(folder, "monitoring.csv")
            assert rows_of(first)
            code, _, err = run_here(f"--load={first}", f"--topology={LAPTOP}")
            assert code == 0, f"its output is no trace: {err}"
