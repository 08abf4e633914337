"""Whether one host that goes wrong slows the deploys that land elsewhere.

A steady load of deploys, each VM removed again later, goes to a global scheduler over 20 light
locals in turn, sent whether or not what went before was answered. Stretches in which one host is
faulty alternate with stretches in which all are well, another host each time; the deploys that
succeeded in a faulty stretch are compared with those of the well ones around it. A deploy that the
faulty host left without an outcome must not be tried elsewhere, so it fails, and is counted; any
other failure is one host's fault told to those who have nothing to do with it.

Last, the policy is the default one, which fills one host before the next, and that host hangs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import Figure, Progress
from benchmarks.load import Answered, Asked, Job, Load, begun_load, percentile, steady
from benchmarks.processes import LightLocals, NotMeasured, global_scheduler, light_locals

HOSTS = 20
RATE_PER_S = 80
HOLD_S = 2.0
SETTLE_S = 0.5
"""At the beginning of a stretch, left out of it."""
WELL_S, FAULTY_S = 3.0, 6.0
PATIENCE_S = 3.0
SLOWDOWN_BOUND = 2.0
FAULTS = ("hang", "reset", "trickle", "garbage", "lies")
SCOPES = {"changes": "changes only", "all": "all routes"}

UNKNOWN = ("host-unreachable", "unanswered")
"""How deploys end whose outcome the faulty host did not tell, and which wait for it still."""

_ROOMY = ("--cpus=256", "--memory=1048576")


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which nothing was set anew."""

    fault: str
    """Empty while all hosts were well."""
    scope: str
    begun_s: float
    ended_s: float

    def of(self, answers: Sequence[Answered]) -> list[Answered]:
        return [each for each in answers if self.begun_s <= each.sent_s < self.ended_s]


def run(progress: Progress) -> list[Figure]:
    return [*_in_turn(progress), *_all_on_one(progress)]


def _in_turn(progress: Progress) -> list[Figure]:
    faults = [(fault, scope) for fault in FAULTS for scope in SCOPES]
    duration_s = len(faults) * (WELL_S + FAULTY_S) + WELL_S
    stretches = []
    with _loaded("round-robin", duration_s) as (locals_, load):
        for number, (fault, scope) in enumerate(faults):
            progress(f"{number + 1} of {len(faults)}: {fault}, {SCOPES[scope]}")
            stretches.append(_lived_through("", "", WELL_S))
            locals_.fault(number % HOSTS, fault, scope)
            stretches.append(_lived_through(fault, scope, FAULTY_S))
            locals_.heal()
        stretches.append(_lived_through("", "", WELL_S))
        return _figures(stretches, load.deploys())


def _all_on_one(progress: Progress) -> list[Figure]:
    progress("the host in use hangs")
    with _loaded("progress", WELL_S + FAULTY_S) as (locals_, load):
        well = _lived_through("", "", WELL_S)
        vms = [len(vms) for vms in locals_.dump().values()]
        if not any(vms):
            raise NotMeasured(f"nothing was placed while all were well: {load.deploys()[:1]}")
        locals_.fault(vms.index(max(vms)), "hang", "changes")
        hung = _lived_through("hang", "changes", FAULTY_S)
        deploys = load.deploys()
    before, after = well.of(deploys), hung.of(deploys)
    title = f"the host with {max(vms) / sum(vms):.0%} of the VMs: hang, changes only"
    slower = _p99_ms(after) / _p99_ms(before)
    return [
        Figure(f"{title}: p99 elsewhere of that without", slower, "×"),
        *_failures(title, after),
    ]


class _Loaded:
    """A load under way, and what it asked."""

    def __init__(self, asked: Sequence[Asked], load: Load) -> None:
        self._asked = asked
        self._load = load

    def deploys(self) -> list[Answered]:
        """What became of the deploys, once all has been asked."""
        return [
            answer
            for each, answer in zip(self._asked, self._load.answers(), strict=True)
            if each.target.startswith("/deploy")
        ]


@contextmanager
def _loaded(policy: str, duration_s: float) -> Iterator[tuple[LightLocals, _Loaded]]:
    asked = steady("vm", RATE_PER_S, duration_s, HOLD_S)
    with (
        tempfile.TemporaryDirectory() as directory,
        light_locals(HOSTS, *_ROOMY) as locals_,
        global_scheduler(locals_.urls, Path(directory), {"SCG_POLICY": policy}) as scheduler,
        begun_load(Job(scheduler.port, asked, patience_s=PATIENCE_S)) as load,
    ):
        yield locals_, _Loaded(asked, load)


def _lived_through(fault: str, scope: str, duration_s: float) -> Stretch:
    begun_s = time.monotonic()
    time.sleep(duration_s)
    return Stretch(fault, scope, begun_s + SETTLE_S, time.monotonic())


def _figures(stretches: Sequence[Stretch], deploys: Sequence[Answered]) -> list[Figure]:
    well = [answer for each in stretches if not each.fault for answer in each.of(deploys)]
    figures = [
        Figure("all hosts well: p99", _p99_ms(well), "ms"),
        Figure("all hosts well: failed", sum(not each.success for each in well), f"of {len(well)}"),
    ]
    for place in range(1, len(stretches), 2):
        each = stretches[place]
        faulty = each.of(deploys)
        around = [*stretches[place - 1].of(deploys), *stretches[place + 1].of(deploys)]
        title = f"{each.fault}, {SCOPES[each.scope]}"
        slower = _p99_ms(faulty) / _p99_ms(around)
        figures += [
            Figure(f"{title}: p99 elsewhere of that without", slower, "×", SLOWDOWN_BOUND),
            *_failures(title, faulty),
        ]
    return figures


def _failures(title: str, faulty: Sequence[Answered]) -> list[Figure]:
    failed = [each for each in faulty if not each.success]
    unknown = sum(each.code in UNKNOWN for each in failed)
    return [
        Figure(f"{title}: left without an outcome", unknown, f"of {len(faulty)}"),
        Figure(f"{title}: refused otherwise", len(failed) - unknown, f"of {len(faulty)}", 0),
    ]


def _p99_ms(answers: Sequence[Answered]) -> float:
    """Of those that succeeded; as if the whole stretch had passed, where none did."""
    took_s = [answer.took_s for answer in answers if answer.success]
    return 1000 * (percentile(took_s, 99) if took_s else FAULTY_S)
