"""The keeper: a host's state, and its agreement with the hypervisor.

It carries plans out and commits them, finishes what a crash cut short, and reconciles: at the
start, when the hypervisor says something changed, and every now and then. Whoever changes
anything holds ``lock``; readers take ``state`` without waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from schedulercommon.errors import HypervisorError, RefusedError, StoreUnavailable
from schedulercommon.levels import Level, format_level
from schedulercommon.model import VmSpec, VmState
from schedulerlocal.carryout import carry_out
from schedulerlocal.core.host import Host
from schedulerlocal.core.lifecycle import Verb
from schedulerlocal.core.reconcile import Finding, Reconciliation, reconcile, warnings
from schedulerlocal.core.state import HostState, Vm, violations
from schedulerlocal.core.steps import Pin, Plan, Remove
from schedulerlocal.core.topology import Cpus
from schedulerlocal.core.waiting import Crowding, crowding_sentence
from schedulerlocal.ports import Begun, Domain, Hypervisor, Journal
from schedulerprocess.events import EventLog
from schedulerprocess.patience import Patience

T = TypeVar("T")

_RETRY_S = 1.0
_REPAIRED = ("moved", "autostart")

_log = logging.getLogger(__name__)


class HostKeeper:
    """See the module; ``start`` before anything else."""

    def __init__(
        self,
        host: Host,
        hypervisor: Hypervisor,
        journal: Journal,
        *,
        now_s: Callable[[], float],
        repair: bool = True,
        call_timeout_s: float = 60.0,
        boot_id: str = "",
    ) -> None:
        self.state = HostState(host, {})
        self.states: dict[str, VmState] = {}
        """What each VM is doing, by name."""
        self.ready = False
        self.lock = asyncio.Lock()
        self.events = EventLog(now_s)
        self.hypervisor = hypervisor
        self.journal = journal
        self.busy: set[str] = set()
        """VMs with a verb under way, whose state is about to change."""
        self._now_s = now_s
        self._repair = repair
        self.patience = Patience(call_timeout_s)
        self._boot_id = boot_id
        self._look = asyncio.Event()
        self._begun: frozenset[Level] = frozenset()
        """Levels the hypervisor was told of."""
        self._told: frozenset[Finding] = frozenset()
        self._warned: tuple[HostState, tuple[str, ...]] | None = None
        self._crowding: Mapping[Level, Crowding] = {}
        self._over: list[str] = []
        """What the host has promised and does not have."""
        self._about: tuple[str, ...] = ()
        """Warnings that do not follow from the state."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what an operator should look into."""
        if self._warned is None or self._warned[0] is not self.state:
            self._warned = (self.state, warnings(self.state))
        return (*self._about, *self._warned[1])

    async def start(self) -> None:
        """Read what is there, finish or undo what was begun, set right what differs."""
        remembered = self.journal.read()
        generation = max(int(self._now_s() * 1000), remembered.generation + 1)
        self.state = replace(self.state, generation=generation)
        await self.call(self.hypervisor.open(self._look.set), "connecting")
        rebooted = bool(remembered.boot_id) and remembered.boot_id != self._boot_id
        async with self.lock:
            await self._finish_begun(remembered.begun)
            await self.settle(remembered.owned)
            half_made = {each.name for each in remembered.begun if each.action == "deploy"}
            await self._start_wanted(None if rebooted else half_made)
        self.journal.booted()
        self.journal.note(self.state.generation, self._owned())
        self.ready = True
        self.events.record("ready", vms=len(self.states), generation=self.state.generation)

    async def close(self) -> None:
        """Let the plan in hand finish, then let go of hypervisor and journal."""
        async with self.lock:
            self.ready = False
            await self.hypervisor.close()
        self.journal.close()

    async def keep_watch(self, delay_s: float) -> None:
        """Reconcile whenever the hypervisor says something changed, and every *delay_s* anyway."""
        while True:
            try:
                async with asyncio.timeout(delay_s):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            try:
                async with self.lock:
                    await self.settle()
                self._note_about("")
            except RefusedError as problem:
                self._note_about(str(problem))
                _log.warning("looking at the hypervisor failed: %s", problem)
                self.events.record("hypervisor-failed", reason=str(problem))
                # asking again at once would fail the same way
                await asyncio.sleep(min(delay_s, _RETRY_S))
            except Exception:  # noqa: BLE001 (the watch lives)
                _log.exception("looking at the hypervisor failed unexpectedly")
                await asyncio.sleep(min(delay_s, _RETRY_S))

    async def apply(
        self, plan: Plan, spec: VmSpec, action: str, *, ended: str, failed: str
    ) -> None:
        """Journal, perform and commit *plan*, which does *action* to the VM of *spec*.

        *ended* and *failed* are what is noted as having become of it. Raises HypervisorError
        with everything undone; what may be left all the same is for the next pass.
        """
        self.journal.begin(action, spec)
        try:
            left = await carry_out(plan.steps, self.hypervisor, self.patience)
        except HypervisorError as problem:
            self._note_end(spec, failed, None)
            self.events.record("undone", vm=spec.name, reason=str(problem), clean=problem.clean)
            if not problem.clean:
                self._look.set()
            raise
        before, self.state = self.state, plan.after
        self._note_end(spec, ended, self._owned(before))
        if left is not None:
            self.events.record("incomplete", vm=spec.name, reason=str(left))
            self._look.set()

    async def settle(
        self, owned: Mapping[Level, Cpus] | None = None, name: str | None = None
    ) -> Domain | None:
        """Reconcile; returns the domain called *name*. The lock is held; raises HypervisorError."""
        domains = await self.call(self.hypervisor.domains(), "listing VMs")
        undone = [each for each in domains if self._repair and self._was_undone(each)]
        for each in undone:
            # one that cannot be removed is left out all the same: the next pass tries again
            await self._removed(each, "its deploy was undone")
        domains = [each for each in domains if each not in undone]
        result = reconcile(self.state, [each.found for each in domains], owned)
        before, self.state = self.state, result.after
        # before anything is awaited: whoever sees a VM also sees what it is doing
        for each in domains:
            if each.name not in self.busy:
                self.set_state(each.name, each.state)
        for gone in self.states.keys() - {each.name for each in domains}:
            del self.states[gone]
        if self.state is not before or self._over:
            self._note_over()
        await self._set_right(result, [each for each in domains if _starts_by_itself(each)])
        await self._begin_levels()
        self.note_since(before)
        return next((each for each in domains if each.name == name), None)

    def note_since(self, before: HostState) -> None:
        """Journal a state reached without a plan, if it is not *before*."""
        if self.state is not before:
            try:
                self.journal.note(self.state.generation, self._owned(before))
            except StoreUnavailable as problem:
                self._journal_failed(problem)

    def look_again(self) -> None:
        """Have the next pass at once."""
        self._look.set()

    def note_crowding(
        self, crowding: Mapping[Level, Crowding], shares: Mapping[Level, float | None]
    ) -> None:
        """Tell which levels' VMs wait too long, all others being calm, and the *shares* they wait.

        Warnings show it from the next pass on, which comes at once if anything changed.
        """
        before, self._crowding = self._crowding, dict(crowding)
        for level in sorted({*before, *crowding}):
            then, now = (each.get(level, Crowding.CALM) for each in (before, crowding))
            if then is not now:
                self.events.record(
                    "crowding",
                    level=format_level(level),
                    before=then,
                    after=now,
                    waiting=shares.get(level),
                )
                self._look.set()

    def set_state(self, name: str, state: VmState) -> None:
        """Note what the VM called *name* is doing now."""
        before = self.states.get(name)
        if before is not state:
            self.states[name] = state
            self.state = replace(self.state, generation=self.state.generation + 1)
            self.events.record("state", vm=name, before=before, after=state)

    async def call(self, call: Awaitable[T], doing: str) -> T:
        """Await *call*, but not for ever; raises HypervisorError."""
        try:
            with self.patience:
                return await call
        except TimeoutError:
            raise HypervisorError(
                f"the hypervisor did not answer ({doing}) within {self.patience.timeout_s:g} s;"
                " look at its log and try again"
            ) from None

    async def discard(self, spec: VmSpec) -> None:
        """Undo the preparations for *spec*; a failure is logged."""
        try:
            await self.call(self.hypervisor.discard(spec), "discarding a disk")
        except HypervisorError as problem:
            _log.warning("the disk of %s is left behind: %s", spec.name, problem)

    async def _set_right(self, result: Reconciliation, starting: list[Domain]) -> None:
        on = [Finding("autostart", each.name, "autostart on", "autostart off") for each in starting]
        findings = (*result.findings, *on)
        for finding in findings:
            if finding in self._told:
                continue  # reported before, and not ours to repair
            self.events.record(
                "repair" if finding.kind in _REPAIRED else finding.kind,
                vm=finding.vm,
                before=finding.before,
                after=finding.after,
                done=self._repair,
            )
        self._told = frozenset() if self._repair else frozenset(findings)
        if not self._repair:
            return
        try:
            if result.steps:
                await carry_out(result.steps, self.hypervisor, self.patience)
            for each in starting:
                await self.call(self.hypervisor.forbid_autostart(each.name), "autostart off")
        except HypervisorError as problem:
            _log.warning("repairing failed, the next pass tries again: %s", problem)

    async def _begin_levels(self) -> None:
        """Have ready what levels no plan of ours began need, before a VM of theirs is started.

        Nobody is moved by it, so it is done whether repairs are or not.
        """
        reach = self.state.reach
        begun = self._begun & reach.keys()
        if not begun >= reach.keys() and not violations(self.state):
            for level in reach.keys() - begun:
                try:
                    step = Pin(level, (), (), reach[level])
                    await self.call(self.hypervisor.perform(step), "beginning a level")
                    begun |= {level}
                except HypervisorError as problem:
                    _log.warning("level %s is not ready: %s", format_level(level), problem)
        self._begun = begun

    def _was_undone(self, domain: Domain) -> bool:
        """Whether a VM of ours is there although its deploy was answered with a failure."""
        spec = domain.found.spec
        return (
            not domain.found.foreign
            and self.state.level_of(spec.name) is None
            and bool(spec.request_id)
            and self.journal.outcome(spec.request_id) == "undone"
        )

    async def _removed(self, domain: Domain, reason: str) -> bool:
        """Remove a VM; a failure is logged. Whether it is gone."""
        found = domain.found
        vm = Vm(found.spec, found.vcpus, found.boot_memory_mib, found.memory_nodes)
        try:
            await self.call(self.hypervisor.perform(Remove(vm, found.pinned)), "removing")
        except HypervisorError as problem:
            _log.warning("%s could not be removed (%s): %s", vm.name, reason, problem)
            self.events.record("not-removed", vm=vm.name, reason=str(problem))
            return False
        self.events.record("removed", vm=vm.name, reason=reason)
        return True

    async def _finish_begun(self, begun: tuple[Begun, ...]) -> None:
        """What a crash cut short: a deploy stands if its VM does, a remove is carried through."""
        domains = await self.call(self.hypervisor.domains(), "listing VMs")
        there = {each.name: each for each in domains if not each.found.foreign}
        for change in begun:
            domain = there.get(change.name)
            outcome = "deployed"
            if change.action == "remove":
                if domain is None or await self._removed(domain, "its removal had begun"):
                    outcome = "removed"
            elif change.action == "deploy" and domain is None:
                outcome = "undone"
                await self.discard(change.spec)
            self._note_end(change.spec, outcome, None)
            self.events.record("finished", vm=change.name, action=change.action, outcome=outcome)

    async def _start_wanted(self, names: set[str] | None) -> None:
        """Start the VMs that are wanted running and are down, of those in *names* or of all."""
        for vm in list(self.state.vms()):
            wanted = vm.spec.start and not vm.foreign and self.states[vm.name] is VmState.DOWN
            if not wanted or (names is not None and vm.name not in names):
                continue
            try:
                await self.call(self.hypervisor.power(vm.name, Verb.START, False), "starting")
                self.set_state(vm.name, VmState.RUNNING)
            except HypervisorError as problem:
                self.events.record("not-started", vm=vm.name, reason=str(problem))

    def _note_over(self) -> None:
        """Tell loudly of more VMs than the host has room for, and once there is room again."""
        before, self._over = self._over, violations(self.state)
        if self._over == before:
            return
        if self._over:
            reasons = "; ".join(self._over)
            _log.error("this host is over-committed, and nobody is moved meanwhile: %s", reasons)
        self.events.record("over-committed", reasons=self._over)

    def _note_about(self, stale: str) -> None:
        """*stale* is why the hypervisor could not be looked at, empty if it could."""
        crowded = [crowding_sentence(*each) for each in sorted(self._crowding.items())]
        about = (*([f"stale: {stale}"] if stale else ()), *crowded)
        if about != self._about:
            self._about = about
            # what is shown of a state is composed once
            self.state = replace(self.state, generation=self.state.generation + 1)

    def _note_end(self, spec: VmSpec, outcome: str, owned: Mapping[Level, Cpus] | None) -> None:
        """Journal what became of a change; that it cannot be written does not undo the change.

        What was begun is on record, and the next start finds out how it ended.
        """
        try:
            self.journal.end(spec, outcome, self.state.generation, owned)
        except StoreUnavailable as problem:
            self._journal_failed(problem)

    def _journal_failed(self, problem: StoreUnavailable) -> None:
        _log.error("%s", problem)
        self.events.record("journal-failed", reason=str(problem))

    def _owned(self, since: HostState | None = None) -> dict[Level, Cpus]:
        """What levels own; with *since*, only those that changed, () for a level that ended."""
        now = self.state.subsets
        then = {} if since is None else since.subsets
        changed = {}
        for level, subset in now.items():
            before = then.get(level)
            if before is not subset and (before is None or before.cpus != subset.cpus):
                changed[level] = subset.cpus
        for level in then:
            if level not in now:
                changed[level] = ()
        return changed


def _starts_by_itself(domain: Domain) -> bool:
    """Whether it is ours, and would be started before its level has CPUs."""
    return domain.autostart and not domain.found.foreign
