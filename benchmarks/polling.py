"""What polling 5 000 hosts costs the global scheduler, and whether each is read in time.

The hosts are light locals, well and without VMs. After the first look at all of them, two rounds
are watched: the hosts themselves note how long they were not asked for their status. The delay is
the default, 15 s, and no host may wait for longer.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks import Figure, Progress
from benchmarks.processes import global_scheduler, light_locals

HOSTS = 5_000
DELAY_S = 15.0
ROUNDS = 2
CORES_BOUND = 1.0


def run(progress: Progress) -> list[Figure]:
    return [
        figure
        for about, arguments in (("without ETag", ()), ("with ETag", ("--etag",)))
        for figure in _watched(about, arguments, progress)
    ]


def _watched(about: str, arguments: tuple[str, ...], progress: Progress) -> list[Figure]:
    with (
        tempfile.TemporaryDirectory() as directory,
        light_locals(HOSTS, *arguments) as locals_,
    ):
        progress(f"{HOSTS} hosts {about}: the first look at each")
        begun_s = time.monotonic()
        settings = {"SCG_DELAY": f"{DELAY_S:g}"}
        with global_scheduler(locals_.urls, Path(directory), settings) as scheduler:
            first_s = time.monotonic() - begun_s
            locals_.tell(ask="mark")
            scheduler_s, locals_s = scheduler.cpu_s, locals_.cpu_s
            begun_s = time.monotonic()
            progress(f"{HOSTS} hosts {about}: {ROUNDS} rounds")
            time.sleep(ROUNDS * DELAY_S)
            lasted_s = time.monotonic() - begun_s
            scheduler_s, locals_s = scheduler.cpu_s - scheduler_s, locals_.cpu_s - locals_s
            polls = locals_.tell(ask="polls")
            memory_mb = _resident_mb(scheduler.process.pid)
    gaps_s = [max(longest_gap_s, age_s) for _, longest_gap_s, age_s in polls]
    readings = sum(count for count, _, _ in polls)
    title = f"{HOSTS} hosts {about}:"
    return [
        Figure(f"{title} longest any waited for a poll", max(gaps_s), "s", DELAY_S),
        Figure(f"{title} cores of the scheduler", scheduler_s / lasted_s, "", CORES_BOUND),
        Figure(f"{title} CPU of the scheduler per poll", scheduler_s / readings * 1e6, "µs"),
        Figure(f"{title} CPU of the host per poll", locals_s / readings * 1e6, "µs"),
        Figure(f"{title} polls of a host in {lasted_s:.0f} s", readings / HOSTS, ""),
        Figure(f"{title} from start to ready", first_s, "s"),
        Figure(f"{title} resident memory of the scheduler", memory_mb, "MB"),
    ]


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
