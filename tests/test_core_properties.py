"""Whatever is deployed, resized and removed on whatever host, the promises hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schedulercommon.errors import NameTaken, UnknownVm
from schedulercommon.kept import kept
from schedulercommon.levels import Level, format_level
from schedulercommon.model import Rejection, VmSpec
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.planner import plan_deploy, plan_remove, plan_resize
from schedulerlocal.core.state import HostState, Subset, host_status, violations
from schedulerlocal.core.status import deploy_progress, published_status
from schedulerlocal.core.steps import Plan
from schedulerlocal.core.topology import Cpus, Topology, exclude
from tests import oracle, strategies
from tests.fakes import FakeHypervisor, broken_promises, perform_or_undo

_DERIVED = [name for name, value in vars(Subset).items() if isinstance(value, kept)]


class CheckedHost:
    """A host beside a ledger of what was accepted, kept without the code under test."""

    def __init__(self, host: Host) -> None:
        self.state = HostState(host, {}, generation=7)
        self.ledger: dict[str, VmSpec] = {}
        self.hypervisor = FakeHypervisor()
        self.answers = Counter[str]()

    def deploy(self, spec: VmSpec) -> None:
        if spec.name in self.ledger:
            with pytest.raises(NameTaken):
                plan_deploy(self.state, spec)
            return
        outcome = plan_deploy(self.state, spec)
        self.check_answer(outcome, spec.runs_at, {**self.ledger, spec.name: spec})
        if isinstance(outcome, Plan):
            self.ledger[spec.name] = spec
            self.carry_out(outcome, spec.runs_at)

    def remove(self, name: str) -> None:
        if name not in self.ledger:
            with pytest.raises(UnknownVm):
                plan_remove(self.state, name)
            return
        spec = self.ledger.pop(name)
        self.carry_out(plan_remove(self.state, name), spec.runs_at)

    def resize(self, name: str, vcpus: int | None, memory_mib: int | None) -> None:
        if name not in self.ledger:
            with pytest.raises(UnknownVm):
                plan_resize(self.state, name, vcpus, memory_mib)
            return
        spec = self.ledger[name]
        wanted = resized(spec, vcpus or spec.vcpus, memory_mib or spec.memory_mib)
        outcome = plan_resize(self.state, name, vcpus, memory_mib)
        self.check_answer(outcome, spec.runs_at, {**self.ledger, name: wanted})
        if isinstance(outcome, Plan):
            self.ledger[name] = wanted
            self.carry_out(outcome, spec.runs_at)

    def check_that_removing_undoes_deploying(self, spec: VmSpec) -> None:
        before = self.state
        outcome = plan_deploy(before, spec)
        if isinstance(outcome, Rejection):
            return
        after = plan_remove(outcome.after, spec.name).after
        assert after.free_memory_mib == before.free_memory_mib
        assert after.free_by_node == before.free_by_node
        assert after.subsets.keys() == before.subsets.keys()
        if even(before.host):
            assert published_status(after) == published_status(before)
        if spec.runs_at not in before.subsets:
            assert after.subsets == before.subsets
            assert after.reach == before.reach

    def check_progress(self, spec: VmSpec) -> None:
        state, level = self.state, spec.level
        own, used = self.cpus_of(level)
        size = oracle.size_of(level, [*self.vcpus_of(level), spec.vcpus])
        gained = max(size - len(own), 0)
        if gained:
            picked = oracle.resized(state.host, own, used, size)
            gained = gained if picked is None else len(picked) - len(own)
        memory_mib = spec.memory_mib + state.host.rules.vm_overhead_mib
        found = deploy_progress(state, spec.vcpus, spec.memory_mib, level)
        assert found == oracle.progress(state, gained, memory_mib)

    def vcpus_of(self, level: Level) -> list[int]:
        return [spec.vcpus for spec in self.ledger.values() if spec.runs_at == level]

    def cpus_of(self, level: Level) -> tuple[Cpus, list[int]]:
        """What the level owns, and what the others own."""
        subsets = self.state.subsets
        own = subsets[level].cpus if level in subsets else ()
        return own, [c for other, each in subsets.items() if other != level for c in each.cpus]

    def check_answer(
        self, outcome: Plan | Rejection, level: Level, wanted: dict[str, VmSpec]
    ) -> None:
        """The answer is yes if there is room and says what is lacking if not."""
        state, rules = self.state, self.state.host.rules
        vcpus = [spec.vcpus for spec in wanted.values() if spec.runs_at == level]
        own = state.subsets[level].cpus if level in state.subsets else ()
        gained = oracle.size_of(level, vcpus) - len(own)
        free = len(state.host.topology.cpus) - sum(len(s.cpus) for s in state.subsets.values())
        allowed_mib = state.host.topology.memory_allowed_mib - rules.reserved_memory_mib
        promised_mib = memory_of(self.ledger, rules.vm_overhead_mib)
        more_mib = memory_of(wanted, rules.vm_overhead_mib) - promised_mib
        if gained > max(free, 0):
            assert outcome == Rejection("cpus", asked=gained, free=free)
        elif more_mib > allowed_mib - promised_mib:
            free_mib = allowed_mib - promised_mib
            assert outcome == Rejection("memory_mib", asked=more_mib, free=free_mib)
        else:
            assert isinstance(outcome, Plan)
        self.answers[outcome.resource if isinstance(outcome, Rejection) else "plan"] += 1

    def carry_out(self, plan: Plan, level: Level) -> None:
        before, after = self.state, plan.after
        assert after.generation > before.generation
        assert after.host is before.host
        self.check_cpus(before, after, level)
        for moment in perform_or_undo(plan, self.hypervisor):
            assert broken_promises(moment, before, after) == []
        assert self.hypervisor == FakeHypervisor.showing(after)
        self.state = after

    def check_cpus(self, before: HostState, after: HostState, level: Level) -> None:
        """The level has exactly the CPUs the rules pick, in order; the others are untouched."""
        others = {other: each for other, each in before.subsets.items() if other != level}
        assert {o: each for o, each in after.subsets.items() if o != level} == others
        vcpus = self.vcpus_of(level)
        if not vcpus:
            assert level not in after.subsets
            return
        own, used = self.cpus_of(level)
        picked = oracle.resized(before.host, own, used, oracle.size_of(level, vcpus))
        assert after.subsets[level].cpus == picked

    def the_state_keeps_its_promises(self) -> None:
        state = self.state
        assert violations(state) == []
        assert list(state.subsets) == sorted(state.subsets)
        owned = [cpu for subset in state.subsets.values() for cpu in subset.cpus]
        assert len(owned) == len(set(owned))
        assert {*owned} <= {*state.host.topology.ids}
        assert {*state.free_cpus} == {*state.host.topology.ids} - {*owned}
        assert {vm.name: vm.spec for vm in state.vms()} == self.ledger

    def sizes_are_by_the_rule(self) -> None:
        host = self.state.host
        for level, subset in self.state.subsets.items():
            size = oracle.size_of(level, [vm.vcpus for vm in subset.vms])
            if not host.rules.smt_isolation:
                assert len(subset.cpus) == size
                continue
            cores = [{*host.topology.core_of[cpu]} for cpu in subset.cpus]
            assert {*subset.cpus} == set().union(*cores)
            largest = max(map(len, host.topology.core_of.values()))
            assert size <= len(subset.cpus) < size + largest
            if even(host):
                assert len(subset.cpus) == -(-size // largest) * largest

    def vms_run_on_own_and_lent_cpus(self) -> None:
        state = self.state
        assert {level: {*cpus} for level, cpus in state.reach.items()} == oracle.reach(state)
        assert all(list(cpus) == sorted(set(cpus)) for cpus in state.reach.values())
        if state.host.rules.smt_isolation or not state.host.rules.critical_size:
            assert all({*state.reach[lv]} == {*sub.cpus} for lv, sub in state.subsets.items())

    def memory_adds_up(self) -> None:
        state, rules = self.state, self.state.host.rules
        promised_mib = memory_of(self.ledger, rules.vm_overhead_mib)
        allowed_mib = state.host.topology.memory_allowed_mib - rules.reserved_memory_mib
        assert state.allocated_memory_mib == promised_mib <= allowed_mib
        assert state.free_memory_mib == allowed_mib - promised_mib
        assert sum(state.host.node_memory_mib.values()) == allowed_mib
        assert sum(state.free_by_node.values()) == state.free_memory_mib
        assert min(state.free_by_node.values()) >= 0

    def the_status_says_what_there_is(self) -> None:
        state, status = self.state, published_status(self.state)
        free = len(state.free_cpus)
        assert status["cpu"]["avail"] == free
        assert list(status["cpu"]["subset"]) == [format_level(level) for level in state.subsets]
        for level, subset in state.subsets.items():
            vcpus = sum(s.vcpus for s in self.ledger.values() if s.runs_at == level)
            assert status["cpu"]["subset"][format_level(level)] == {
                "pcap": len(subset.cpus),
                "palloc": vcpus,
                "vavail": float(len(subset.cpus) * level - vcpus),
                "vpotential": float(free * level),
            }
        memory = state.allocated_memory_mib
        assert status["mem"]["avail"] == state.free_memory_mib
        pool = {"pcap": memory, "palloc": memory, "vavail": 0, "vpotential": state.free_memory_mib}
        assert status["mem"]["subset"] == ({"1": pool} if self.ledger else {})

    def the_status_for_the_cluster_agrees(self) -> None:
        state, status = self.state, host_status(self.state, "here", 0.25)
        assert (status.name, status.usage_ratio) == ("here", 0.25)
        assert status.generation == state.generation
        assert status.capacity_cpus == len(state.host.topology.cpus)
        assert status.capacity_memory_mib - status.allocated_memory_mib == state.free_memory_mib
        assert [(each.level, each.cpus) for each in status.levels] == [
            (level, len(subset.cpus)) for level, subset in state.subsets.items()
        ]
        for each in status.levels:
            vcpus = [s.vcpus for s in self.ledger.values() if s.runs_at == each.level]
            assert (each.vcpus, each.largest_vcpus) == (sum(vcpus), max(vcpus))

    def what_is_carried_on_is_what_would_be_worked_out(self) -> None:
        for subset in self.state.subsets.values():
            anew = Subset(subset.cpus, subset.vms)
            for what in _DERIVED:
                assert getattr(subset, what) == getattr(anew, what), what

    def check(self) -> None:
        """All that must hold at any time."""
        self.what_is_carried_on_is_what_would_be_worked_out()
        self.the_state_keeps_its_promises()
        self.sizes_are_by_the_rule()
        self.vms_run_on_own_and_lent_cpus()
        self.memory_adds_up()
        self.the_status_says_what_there_is()
        self.the_status_for_the_cluster_agrees()


def memory_of(vms: dict[str, VmSpec], overhead_mib: int) -> int:
    return sum(spec.max_memory_mib + overhead_mib for spec in vms.values())


def resized(spec: VmSpec, vcpus: int, memory_mib: int) -> VmSpec:
    """A maximum of its own stays until it is exceeded; one that was the size stays the size."""
    own_vcpus = spec.max_vcpus if spec.max_vcpus > spec.vcpus else 0
    own_memory = spec.max_memory_mib if spec.max_memory_mib > spec.memory_mib else 0
    return replace(
        spec,
        vcpus=vcpus,
        memory_mib=memory_mib,
        max_vcpus=max(own_vcpus, vcpus),
        max_memory_mib=max(own_memory, memory_mib),
    )


def even(host: Host) -> bool:
    """All cores have as many CPUs as each other, or CPUs are taken one by one."""
    sizes = set(map(len, host.topology.core_of.values()))
    return not host.rules.smt_isolation or len(sizes) == 1


class OneHost(RuleBasedStateMachine):
    """Few names, so that they come up again."""

    names = st.sampled_from([f"vm{number}" for number in range(9)])

    @initialize(data=st.data(), host=strategies.hosts)
    def begin(self, data: st.DataObject, host: Host) -> None:
        self.host = CheckedHost(host)
        for number in range(data.draw(st.integers(0, 7))):
            self.host.deploy(data.draw(strategies.specs(f"vm{number}")))

    @rule(spec=names.flatmap(strategies.specs))
    def deploy(self, spec: VmSpec) -> None:
        self.host.deploy(spec)

    @rule(name=names)
    def remove(self, name: str) -> None:
        self.host.remove(name)

    @rule(
        name=names,
        vcpus=st.none() | strategies.vcpus,
        memory_mib=st.none() | strategies.memory_mib,
    )
    def resize(self, name: str, vcpus: int | None, memory_mib: int | None) -> None:
        self.host.resize(name, vcpus, memory_mib)

    @rule(spec=strategies.specs("passing"))
    def deploy_in_vain(self, spec: VmSpec) -> None:
        self.host.check_that_removing_undoes_deploying(spec)

    @rule(spec=strategies.specs("candidate"))
    def ask_for_progress(self, spec: VmSpec) -> None:
        self.host.check_progress(spec)

    @invariant()
    def check(self) -> None:
        self.host.check()


TestOneHost = OneHost.TestCase
TestOneHost.settings = settings(max_examples=100, stateful_step_count=30)


WALKS = {
    "laptop": (Machine(cores=4, threads=2, memory_mib=31_776), (), Rules()),
    "no siblings": (Machine(cores=16, l3_cores=4, memory_mib=65_536), (), Rules(critical_size=3)),
    "two sockets": (
        Machine(sockets=2, cores=8, threads=2, l3_cores=4, memory_mib=65_537),
        (),
        Rules(vm_overhead_mib=128, reserved_memory_mib=2_048),
    ),
    "whole cores": (
        Machine(sockets=2, cores=8, threads=2, l3_cores=2, memory_mib=65_536),
        (),
        Rules(smt_isolation=True),
    ),
    "whole cores, some with one thread": (
        Machine(sockets=2, cores=8, threads=2, l3_cores=4, memory_mib=65_536),
        (0, 1, 5, 20, 26, 27),
        Rules(smt_isolation=True, vm_overhead_mib=1),
    ),
    "whole cores of up to four threads": (
        Machine(cores=8, threads=4, l3_cores=4, memory_mib=65_536),
        (0, 8, 16, 1, 10, 19),
        Rules(smt_isolation=True),
    ),
    "nodes in sockets": (
        Machine(sockets=2, nodes_per_socket=2, cores=8, l3_cores=2, memory_mib=65_536),
        (3, 4),
        Rules(critical_size=0),
    ),
    "no shared cache": (
        Machine(sockets=2, cores=6, threads=2, l3_cores=0, private_caches=1, memory_mib=65_536),
        (7,),
        Rules(critical_size=2),
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("machine", "excluded", "rules"), WALKS.values(), ids=WALKS)
def test_every_promise_holds_on_a_long_walk(
    machine: Machine, excluded: Cpus, rules: Rules, seed: int
) -> None:
    """Far longer histories than Hypothesis draws, of hosts that are nearly full."""
    rng = Random(seed)
    host = CheckedHost(Host(exclude(machine_topology(machine), excluded), rules))
    for number in range(120):
        name = rng.choice([*host.ledger, "nobody"])
        vcpus = rng.choice((1, 1, 1, 2, 2, 3, 4, 7))
        memory_mib = rng.choice((512, 1_024, 2_048, 3_333, 9_000))
        level = rng.choice(strategies.LEVELS)
        spec = VmSpec(name=f"vm{number}", vcpus=vcpus, memory_mib=memory_mib, level=level)
        match rng.choice(("deploy", "deploy", "remove", "resize", "check")):
            case "deploy":
                host.deploy(spec)
            case "remove":
                host.remove(name)
            case "resize":
                host.resize(name, rng.choice((None, vcpus)), rng.choice((None, memory_mib)))
            case "check":
                host.check_progress(spec)
                host.check_that_removing_undoes_deploying(spec)
        host.check()
    assert host.answers["plan"] > 30
    assert host.answers["cpus"] + host.answers["memory_mib"] > 3


@given(topology=strategies.topologies())
@settings(max_examples=60)
def test_distances_are_those_of_the_rule(topology: Topology) -> None:
    ids = topology.ids
    assert topology.distances.tolist() == [
        [0 if a == b else oracle.distance(topology, a, b) for b in ids] for a in ids
    ]


@given(data=st.data(), host=strategies.hosts)
@settings(max_examples=150)
def test_memory_is_on_the_fewest_nodes_near_the_level(data: st.DataObject, host: Host) -> None:
    state = HostState(host, {})
    for number in range(data.draw(st.integers(1, 6))):
        outcome = plan_deploy(state, data.draw(strategies.specs(f"vm{number}")))
        if isinstance(outcome, Plan):
            vm = outcome.after.vm(f"vm{number}")
            cpus = outcome.after.subsets[vm.spec.runs_at].cpus
            faults = oracle.memory_faults(
                host, state.free_by_node, cpus, vm.memory_mib, vm.memory_nodes
            )
            assert faults == []
            state = outcome.after
