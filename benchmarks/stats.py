"""What it costs to read the usage of a host with 300 VMs from libvirt's answer.

The answer is one recorded from a real libvirtd, told of 300 VMs of four vCPUs, each with the many
counters KVM adds to a vCPU's own. Reading goes all the way to what is shown: usage and waiting of
VMs and levels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import median
from time import process_time_ns
from typing import Any

from benchmarks import Figure, Progress
from schedulercommon.model import VmSpec, VmState
from schedulerlocal.adapters.libvirtstats import Stats, read_stats
from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.core.host import Host
from schedulerlocal.core.planner import plan_deploy
from schedulerlocal.core.state import HostState
from schedulerlocal.core.steps import Plan
from schedulerlocal.ports import HostUsage
from schedulerlocal.readings import read_usage

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "tests" / "golden" / "stats" / "burners.json"
TOPOLOGY = ROOT / "debug" / "topology_EPYC-7662.json"
VMS = 300
VCPUS = 4
LEVELS = (Fraction(6), Fraction(12))
DELAY_S = 15.0
ROUNDS = 21
BOUND_MS = 20

_OF_KVM = """
    directed_yield_attempted directed_yield_successful exits fpu_reload guest_mode
    halt_attempted_poll halt_exits halt_poll_fail_ns halt_poll_invalid halt_poll_success_ns
    halt_successful_poll halt_wait_ns halt_wakeup host_state_reload hypercalls insn_emulation
    insn_emulation_fail invlpg io_exits irq_exits irq_injections irq_window_exits l1d_flush
    mmio_exits nested_run nmi_injections nmi_window_exits pf_emulate pf_fast pf_fixed pf_guest
    pf_mmio_spte_created pf_spurious pf_taken preemption_other preemption_reported req_event
    request_irq_exits signal_exits tlb_flush
""".split()


def run(progress: Progress) -> list[Figure]:
    """Medians of CPU time."""
    progress("deploying 300 VMs")
    state = _state()
    states = dict.fromkeys([vm.name for vm in state.vms()], VmState.RUNNING)
    first, second = (_answer(each["domains"]) for each in json.loads(RECORDED.read_text()))
    before, now = _usage(0.0, first), _usage(DELAY_S, second)
    readings = read_usage(state, states, before, now)
    assert all(each.waiting for each in readings.vms.values())
    progress("reading")
    return [
        Figure(
            f"reading the statistics of {VMS} VMs",
            _median_ms(lambda: read_usage(state, states, before, _usage(DELAY_S, second))),
            "ms of CPU",
            BOUND_MS,
        ),
        Figure("of that, what libvirt tells", _median_ms(lambda: read_stats(second)), "ms of CPU"),
    ]


def _usage(at_s: float, told: list[Stats]) -> HostUsage:
    return HostUsage(at_s=at_s, cpu_share=None, memory_share=0.5, vms=read_stats(told))


def _answer(recorded: list[tuple[str, dict[str, Any]]]) -> list[Stats]:
    """What was told of a VM with one busy vCPU, told of all."""
    told = dict(recorded)["burner-a"]
    vcpu = {key: value for key, value in told.items() if key.startswith("vcpu.0.")}
    stats = {key: value for key, value in told.items() if key not in vcpu}
    stats |= {"vcpu.current": VCPUS, "vcpu.maximum": VCPUS}
    for number in range(VCPUS):
        own = {key.removeprefix("vcpu.0."): value for key, value in vcpu.items()}
        own |= {f"{name}.sum": 123_456 for name in _OF_KVM}
        stats |= {f"vcpu.{number}.{name}": value for name, value in own.items()}
    return [(f"vm{number}", dict(stats)) for number in range(VMS)]


def _state() -> HostState:
    state = HostState(Host(read_topology(TOPOLOGY)), {})
    for number in range(VMS):
        level = LEVELS[number % len(LEVELS)]
        spec = VmSpec(name=f"vm{number}", vcpus=VCPUS, memory_mib=2048, level=level)
        plan = plan_deploy(state, spec)
        if not isinstance(plan, Plan):
            raise TypeError(f"{spec.name} does not fit: {plan.sentence}")
        state = plan.after
    return state


def _median_ms(read: Callable[[], object]) -> float:
    took = []
    for _ in range(ROUNDS):
        began = process_time_ns()
        read()
        took.append(process_time_ns() - began)
    return median(took) / 1e6
