"""Workloads in a few words, and the simulator's command line in this process."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from math import inf
from pathlib import Path

from hypothesis import strategies as st

from clustersim.__main__ import main
from clustersim.workload import Demand, HostSize, Workload
from schedulercommon.levels import parse_level
from schedulerglobal.core.view import Shape
from schedulerprocess.options import exit_code

HEADER = "arrival_s,departure_s,vcpus,memory_mib,level\n"
SMALL = HostSize(8, 64)
"""Hosts on which little fits."""


def workload(*rows: str) -> Workload:
    """Rows like ``0 10 2 1024 3/2``, with ``-`` for no departure."""
    demands = []
    for row in rows:
        arrival, departure, vcpus, memory_mib, level = row.split()
        demands.append(
            Demand(
                float(arrival),
                inf if departure == "-" else float(departure),
                Shape(int(vcpus), int(memory_mib), parse_level(level)),
            )
        )
    return tuple(demands)


def simulate(*arguments: str | Path) -> tuple[int, str, str]:
    """``python -m clustersim``: exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(main, [str(each) for each in arguments])
    return code, out.getvalue(), err.getvalue()


def done(*arguments: str | Path) -> str:
    """What a command that succeeds prints."""
    code, out, err = simulate(*arguments)
    assert (code, err) == (0, "")
    return out


def refused(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and sentence of a command that fails."""
    code, out, err = simulate(*arguments)
    assert not out
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert len(err) < 1_000
    assert code in (1, 2)
    return code, err


@st.composite
def _demands(draw: st.DrawFn) -> Demand:
    arrival_s = draw(st.integers(0, 12))
    stays_s = draw(st.none() | st.integers(1, 12))
    shape = Shape(
        draw(st.integers(1, SMALL.cpus)),
        draw(st.integers(1, SMALL.memory_mib)),
        parse_level(draw(st.sampled_from(["1", "4/3", "1.5", "2", "3", "64"]))),
    )
    return Demand(float(arrival_s), inf if stays_s is None else float(arrival_s + stays_s), shape)


WORKLOADS = st.lists(_demands(), min_size=1, max_size=25).map(tuple)
"""For SMALL hosts, in any order of arrival."""
