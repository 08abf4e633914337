"""Twelve operations on a laptop, with what a host must answer after each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schedulercommon.levels import format_level, parse_level
from schedulercommon.model import Rejection, VmSpec
from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.planner import plan_deploy, plan_remove
from schedulerlocal.core.state import HostState, violations
from schedulerlocal.core.status import deploy_progress, published_status
from schedulerlocal.core.steps import Plan
from tests.oracle import reach

HERE = Path(__file__).resolve().parent
EXAMPLE: dict[str, Any] = json.loads((HERE / "data/worked-example-i7-1185G7.json").read_text())
OPERATIONS = list(zip(EXAMPLE["ops"], EXAMPLE["expected"], strict=True))
LACKING = {"Not enough space on res cpu": "cpus", "Not enough space on res mem": "memory_mib"}


def decide(state: HostState, operation: dict[str, Any]) -> Plan | Rejection:
    if operation["op"] == "remove":
        return plan_remove(state, operation["name"])
    spec = VmSpec(
        name=operation["name"],
        vcpus=operation["cpu"],
        memory_mib=operation["mem_mb"],
        level=parse_level(str(operation["oc"])),
    )
    return plan_deploy(state, spec)


def state_before(count: int) -> HostState:
    topology = read_topology(HERE.parent / EXAMPLE["topology"])
    assert topology.memory_allowed_mib == EXAMPLE["host"]["mem_mb"]
    rules = Rules(critical_size=EXAMPLE["env"]["OVSB_CRITICAL_SIZE"])
    state = HostState(Host(topology, rules), {})
    for operation, _ in OPERATIONS[:count]:
        outcome = decide(state, operation)
        state = outcome.after if isinstance(outcome, Plan) else state
    return state


@pytest.mark.parametrize(
    "place",
    range(len(OPERATIONS)),
    ids=[
        f"{place}-{operation['op']}-{operation['name']}"
        for place, (operation, _) in enumerate(OPERATIONS)
    ],
)
def test_the_host_answers_as_worked_out(place: int) -> None:
    operation, expected = OPERATIONS[place]
    state = state_before(place)
    outcome = decide(state, operation)
    if isinstance(outcome, Rejection):
        assert not expected["success"]
        assert outcome.resource == LACKING[expected["reason"]]
    else:
        assert expected["success"]
        state = outcome.after
    assert published_status(state) == expected["status"]
    levels = {format_level(level): subset for level, subset in state.subsets.items()}
    assert {
        label: {"cpus": list(subset.cpus), "vms": [vm.name for vm in subset.vms]}
        for label, subset in levels.items()
    } == {
        label: {"cpus": subset["cpus"], "vms": subset["vms"]}
        for label, subset in expected["subsets"].items()
    }
    assert {level: {*cpus} for level, cpus in state.reach.items()} == reach(state)
    assert violations(state) == []
    progress = [
        deploy_progress(state, vm["cpu"], vm["mem_mb"], parse_level(str(vm["oc"])))
        for vm in EXAMPLE["candidates"]
    ]
    assert progress == pytest.approx(expected["progress"], rel=1e-12, abs=1e-9)
