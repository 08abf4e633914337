"""A trace is a stream: it may be long, come slowly, and be broken off."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.traces import (
    HEADER,
    LAPTOP,
    ROOT,
    SAMPLE,
    Seen,
    bare_environment,
    replay,
    replayed,
    rows_of,
    sample,
    written,
)


def test_line_ends_do_not_matter(tmp_path: Path) -> None:
    lines = [sample(time, Seen("a", 2 + time), Seen("b", 1, level="2.0")) for time in range(3)]
    plain = replayed(written(tmp_path / "lf.csv", *lines), tmp_path / "lf").read_bytes()
    crlf = written(tmp_path / "crlf.csv", *lines, end="\r\n")
    assert replayed(crlf, tmp_path / "crlf").read_bytes() == plain
    for name, length in (("lf", 1), ("crlf", 1), ("crlf", 2)):
        cut = tmp_path / f"{name}-cut.csv"
        cut.write_bytes((tmp_path / f"{name}.csv").read_bytes()[:-length])
        assert replayed(cut, tmp_path / "cut").read_bytes() == plain
    marked = tmp_path / "bom.csv"
    marked.write_bytes(b"\xef\xbb\xbf" + (tmp_path / "lf.csv").read_bytes())
    assert replayed(marked, tmp_path / "bom").read_bytes() == plain


def test_a_trace_may_come_through_a_pipe(tmp_path: Path) -> None:
    command = "--load=/dev/stdin", f"--topology={LAPTOP}", "--debug=1", f"--output={tmp_path}"
    subprocess.run(
        [sys.executable, "-m", "schedulerlocal", *command],
        input=SAMPLE.read_bytes(),
        cwd=ROOT,
        env=bare_environment(),
        capture_output=True,
        check=True,
    )
    assert (tmp_path / "monitoring.csv").read_bytes() == replayed(
        SAMPLE, tmp_path / "file"
    ).read_bytes()


# Peak memory of this process image alone, which getrusage does not tell after a fork.
MEASURED = """
import sys
from schedulerlocal.__main__ import main
main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""


def long_trace(path: Path, ticks: int) -> Path:
    """Every VM is new at every fourth timestamp, and some are refused."""
    with path.open("w", encoding="utf-8") as file:
        file.write(HEADER + "\n")
        for time in range(ticks):
            vms = [Seen(f"{time // 4}-{n}", 1 + n % 2, level=f"{1 + n % 3}.0") for n in range(9)]
            lines = sample(time, *vms, usage=f"0.{time}")
            file.write("\n".join(lines) + "\n")
    return path


def peak_kib(trace: Path, output: Path) -> int:
    options = [f"--load={trace}", f"--topology={LAPTOP}", "--debug=1", f"--output={output}"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *options],
        cwd=ROOT,
        env=bare_environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stderr.split()[-2])


def test_memory_does_not_grow_with_the_trace(tmp_path: Path) -> None:
    short, long = (long_trace(tmp_path / f"{ticks}.csv", ticks) for ticks in (2_000, 8_000))
    added_kib = (long.stat().st_size - short.stat().st_size) // 1024
    assert added_kib > 8_000
    grown_kib = peak_kib(long, tmp_path) - peak_kib(short, tmp_path)
    assert grown_kib < added_kib / 4


def interrupted_replay(trace: Path, output: Path) -> tuple[int, str]:
    """Feed *trace* through a pipe that stays open; interrupt when a refusal is told."""
    begin, refusal, rest = trace.read_bytes().partition(b"\tb\tnb\t")
    options = ["--load=/dev/stdin", f"--topology={LAPTOP}", "--debug=1", f"--output={output}"]
    with subprocess.Popen(
        [sys.executable, "-m", "schedulerlocal", *options],
        cwd=ROOT,
        env=bare_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a shell may have started the tests with interrupts ignored, which is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(begin + refusal + rest[: len(rest) // 2])
        process.stdin.flush()
        assert b"refused" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        # in case it was about to wait for more and heard nothing
        with suppress(BrokenPipeError):
            process.stdin.write(rest[len(rest) // 2 :])
            process.stdin.flush()
        said = process.stderr.read().decode()
        return process.wait(), said


def test_an_interrupt_leaves_whole_timestamps(tmp_path: Path) -> None:
    quiet = [sample(time, Seen("a", 2), usage=f"0.{time}") for time in range(6_000)]
    refused = sample(6_000, Seen("a", 2), Seen("b", 7))
    rest = [sample(time, Seen("a", 2), Seen("b", 7)) for time in range(6_001, 9_000)]
    trace = written(tmp_path / "t.csv", *quiet, refused, *rest)
    assert trace.stat().st_size > 3 << 20, "more than is read at once"
    code, said = interrupted_replay(trace, tmp_path / "part")
    assert code == 130
    found = re.fullmatch(
        rf"interrupted at ([0-9]+) s of the trace; {tmp_path}/part/ holds everything up to there\n",
        said,
    )
    assert found, said
    part = (tmp_path / "part" / "monitoring.csv").read_bytes()
    done = replay(trace, "--debug=1", f"--output={tmp_path / 'whole'}")
    assert done.returncode == 0, done.stderr
    whole = (tmp_path / "whole" / "monitoring.csv").read_bytes()
    assert part.endswith(b"\n")
    assert len(HEADER) + 1 < len(part) < len(whole)
    assert whole.startswith(part)
    reached = part.splitlines()[-1].split(b"\t")[0]
    assert reached in (found[1].encode(), b"%d" % (int(found[1]) + 1))
    assert not whole[len(part) :].startswith(reached + b"\t"), "its last timestamp is whole"
    assert len(rows_of(tmp_path / "part" / "rejections.csv")) == 1
