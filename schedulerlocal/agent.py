"""The agent: what may be asked of a host, each request planned, carried out and committed whole.

Requests are planned on the current snapshot under the keeper's lock, so that what was decided is
what is there. The same request asked twice is answered once and for all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from uuid import uuid4

from schedulercommon.errors import (
    BadRequest,
    HypervisorError,
    NameTaken,
    NoCapacity,
    NotLeader,
    NotReady,
    Overloaded,
    RefusedError,
    RequestCancelled,
    StoreUnavailable,
    UnknownVm,
    WrongState,
)
from schedulercommon.levels import Level, format_level
from schedulercommon.model import Rejection, VmSpec, VmState, same_request
from schedulerlocal.core.decisions import resized_spec
from schedulerlocal.core.lifecycle import Verb, state_after
from schedulerlocal.core.planner import plan_adopt, plan_deploy, plan_recount, plan_remove
from schedulerlocal.core.state import HostState, Vm
from schedulerlocal.core.steps import Plan
from schedulerlocal.keeper import HostKeeper
from schedulerlocal.ports import Domain
from schedulerprocess.events import EventLog

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What became of a deploy."""

    vm: Vm
    created: bool
    """False if it was there already, asked for in the same words."""


@dataclass(frozen=True, slots=True)
class Resized:
    """When each size takes effect: ``live``, ``next-boot`` or ``unchanged``."""

    vcpus: str
    memory_mib: str


@dataclass(slots=True)
class _Flight:
    """A deploy under way, and what its namesakes wait for."""

    spec: VmSpec
    answer: asyncio.Future[Deployment | RefusedError]


class _Turn:
    """The lock, for a request: refused while not ready, and after waiting long enough."""

    __slots__ = ("_agent", "_lock", "_patience")

    def __init__(self, agent: HostAgent, keeper: HostKeeper) -> None:
        self._agent = agent
        self._lock = keeper.lock
        self._patience = keeper.patience

    async def __aenter__(self) -> None:
        self._agent.check_open()
        if self._lock.locked():
            try:
                with self._patience:
                    await self._lock.acquire()
            except TimeoutError:
                raise Overloaded(
                    "the changes before this one take too long; try again in a moment"
                ) from None
        else:
            await self._lock.acquire()
        try:
            self._agent.check_open()
        except NotReady:
            self._lock.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class HostAgent:
    """The requests of one host; every refusal is a RefusedError, and nothing has changed."""

    def __init__(self, name: str, keeper: HostKeeper) -> None:
        self.name = name
        self._keeper = keeper
        unique = uuid4().hex
        self._ids = (f"{unique}-{number}" for number in count(1))
        self._turn = _Turn(self, keeper)
        self._closing = False
        self._flights: dict[str, _Flight] = {}

    @property
    def state(self) -> HostState:
        return self._keeper.state

    @property
    def states(self) -> Mapping[str, VmState]:
        """What each VM is doing, by name."""
        return self._keeper.states

    @property
    def ready(self) -> bool:
        return self._keeper.ready and not self._closing

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what an operator should look into."""
        return self._keeper.warnings

    @property
    def events(self) -> EventLog:
        return self._keeper.events

    async def close(self) -> None:
        """Take nothing new, and let the plan in hand finish."""
        self._closing = True
        await self._keeper.close()

    def fresh_request_id(self) -> str:
        """An id no other request has, for one that came without."""
        return next(self._ids)

    async def deploy(self, spec: VmSpec) -> Deployment:
        """Place *spec*, or find it placed already.

        A request whose VM was removed makes no other, however late it arrives again.
        """
        while (flight := self._flights.get(spec.name)) is not None:
            if not same_request(flight.spec, spec):
                raise NameTaken(spec.name)
            answer = await asyncio.shield(flight.answer)
            if isinstance(answer, Deployment):
                return replace(answer, created=False)
            # that its request is done no more says nothing about ours
            if not isinstance(answer, RequestCancelled) or self._cancelled(spec):
                raise answer
        self.check_open()
        self._refuse_cancelled(spec)
        if self.state.level_of(spec.name) is not None:
            vm = self.state.vm(spec.name)
            if vm.foreign or not same_request(vm.spec, spec):
                raise NameTaken(spec.name)
            return Deployment(vm, created=False)
        if self._removed(spec.request_id):
            # this was kept back on its way, and nobody wants its VM any more
            became = "was carried out and its VM has been removed since"
            raise RequestCancelled(spec.request_id, became)
        if not spec.request_id:
            spec = replace(spec, request_id=self.fresh_request_id())
        flight = _Flight(spec, asyncio.get_running_loop().create_future())
        self._flights[spec.name] = flight
        answer = HypervisorError("the deploy was interrupted; repeat the same request")
        try:
            answer = await self._deploy(spec)
        except RefusedError as problem:
            answer = problem
            raise
        finally:
            del self._flights[spec.name]
            flight.answer.set_result(answer)
        return answer

    async def _deploy(self, spec: VmSpec) -> Deployment:
        keeper = self._keeper
        kept = False
        try:
            # without the lock: making a disk may take long
            await keeper.call(keeper.hypervisor.prepare(spec), "preparing the image")
            async with self._turn:
                self._refuse_cancelled(spec)
                plan = _fitting(plan_deploy(self.state, spec))
                await keeper.apply(plan, spec, "deploy", ended="deployed", failed="undone")
                kept = True
                keeper.states[spec.name] = VmState.RUNNING if spec.start else VmState.DOWN
                self.events.record("deployed", vm=spec.name, request_id=spec.request_id)
                return Deployment(self.state.vm(spec.name), created=True)
        finally:
            if not kept:
                await keeper.discard(spec)

    async def remove(self, name: str, attempt: str = "") -> None:
        """Stop the VM called *name* by force and forget it; none but that of *attempt*, if that
        one was here."""
        flight = self._flights.get(name)
        if flight is not None:
            await asyncio.shield(flight.answer)
        async with self._turn:
            vm = self._own(name)
            if vm.spec.request_id != attempt and self._removed(attempt):
                raise UnknownVm(name)  # by then, and another is called so now
            plan = plan_remove(self.state, name)
            await self._keeper.apply(plan, vm.spec, "remove", ended="removed", failed="deployed")
            self._keeper.states.pop(name, None)
            self.events.record("removed", vm=name)

    async def cancel(self, request_id: str) -> str:
        """Refuse *request_id* from now on, and say what became of it.

        ``deployed`` (the VM is there and stays), ``removed``, ``undone`` (it was refused or
        failed), or ``cancelled`` (it was never carried out and never will be).
        """
        journal = self._keeper.journal
        async with self._turn:
            there = any(vm.spec.request_id == request_id for vm in self.state.vms())
            outcome = "deployed" if there else journal.outcome(request_id) or "cancelled"
            await journal.cancel(request_id)
            self.events.record("cancelled", request_id=request_id, outcome=outcome)
            return outcome

    async def power(self, name: str, verb: Verb, force: bool = False) -> VmState:
        """Do what *verb* says; returns the state it led to.

        The lock is not held meanwhile: a guest may take long to shut down.
        """
        self.check_open()
        keeper = self._keeper
        self._own(name)
        if name in keeper.busy:
            raise WrongState(f"VM {name!r} is busy with another verb; repeat this one later")
        after = state_after(name, verb, self.states[name], force)
        keeper.busy.add(name)
        try:
            await keeper.call(keeper.hypervisor.power(name, verb, force), verb)
        finally:
            keeper.busy.discard(name)
        async with keeper.lock:
            if self.state.level_of(name) is None:
                return after
            before = self.state
            keeper.set_state(name, after)
            keeper.note_since(before)
            vm = self.state.vm(name)
            waited = vm.vcpus != vm.spec.vcpus or self._boot_mib(vm) != vm.spec.max_memory_mib
            if waited or vm.spec.start != (after is not VmState.DOWN):
                # what waited for this boot counts no more, or it is wanted otherwise than before
                await self._settled(name)
        return after

    async def console(self, name: str, most_bytes: int) -> bytes:
        """The end of what the guest of the VM called *name* wrote to its console."""
        self.check_open()
        if self.state.vm(name).foreign:
            raise WrongState(
                f"VM {name!r} was not made here, and its console is not logged; look at it with"
                " virsh console"
            )
        reading = self._keeper.hypervisor.console(name, most_bytes)
        return await self._keeper.call(reading, "reading a console")

    async def resize(self, name: str, vcpus: int | None, memory_mib: int | None) -> Resized:
        """Give the VM called *name* another size; None leaves that one as it is."""
        async with self._turn:
            vm = self._own(name)
            try:
                spec = resized_spec(vm.spec, vcpus, memory_mib)
            except ValueError as problem:
                raise BadRequest(str(problem)) from problem
            if spec == vm.spec:
                return Resized("unchanged", "unchanged")
            counted_vcpus, counted_mib = spec.vcpus, spec.max_memory_mib
            if self.states[name] is not VmState.DOWN:
                # until the guest has given them up, or booted anew, the larger sizes count
                counted_vcpus = max(counted_vcpus, vm.vcpus)
                counted_mib = max(counted_mib, self._boot_mib(vm))
            plan = _fitting(plan_recount(self.state, name, spec, counted_vcpus, counted_mib))
            await self._keeper.apply(plan, spec, "resize", ended="deployed", failed="deployed")
            domain = await self._settled(name)
            self.events.record("resized", vm=name, vcpus=spec.vcpus, memory_mib=spec.memory_mib)
            return Resized(
                vcpus=_when(
                    changed=spec.vcpus != vm.spec.vcpus,
                    pending=domain is None or domain.vcpus_pending,
                ),
                memory_mib=_when(
                    changed=spec.memory_mib != vm.spec.memory_mib,
                    pending=domain is None or domain.memory_pending,
                ),
            )

    async def adopt(
        self, name: str, level: Level, labels: tuple[tuple[str, str], ...] = (), owner: str = ""
    ) -> Vm:
        """Make the VM called *name*, which was not made here, ours, at *level*."""
        async with self._turn:
            vm = self.state.vm(name)
            if not vm.foreign:
                raise WrongState(f"VM {name!r} is ours already; resize or remove it instead")
            spec = replace(
                vm.spec,
                level=level,
                runs_at=level,
                labels=labels,
                owner=owner,
                request_id=vm.spec.request_id or self.fresh_request_id(),
            )
            plan = _fitting(plan_adopt(self.state, name, spec))
            await self._keeper.apply(plan, spec, "adopt", ended="deployed", failed="undone")
            self.events.record("adopted", vm=name, level=format_level(level))
            return self.state.vm(name)

    def hear(self, epoch: int) -> None:
        """Remember that a global scheduler leads under *epoch*: none of a former one is obeyed."""
        try:
            self._keeper.journal.hear(epoch)
        except StoreUnavailable as problem:
            _log.warning("a restart would forget who leads, for now: %s", problem)

    async def obey(self, epoch: int) -> None:
        """Return once what the global scheduler of *epoch* asks for may be done.

        Raises NotLeader if a newer one was heard of, in an earlier run perhaps, and
        StoreUnavailable if that this one was could be forgotten.
        """
        self.check_open()  # what earlier runs heard is known by then
        journal = self._keeper.journal
        journal.hear(epoch)
        if epoch == journal.epoch:
            await journal.keep_epoch()
        if epoch < journal.epoch:
            raise NotLeader(
                f"a newer global scheduler leads (epoch {journal.epoch}, this request is of"
                f" {epoch}); ask that one"
            )

    def check_open(self) -> None:
        """Raise NotReady before the state is known, and once the end has begun."""
        if not self.ready:
            raise NotReady("this local scheduler is starting or stopping; try again in a moment")

    def _cancelled(self, spec: VmSpec) -> bool:
        return bool(spec.request_id) and self._keeper.journal.cancelled(spec.request_id)

    def _removed(self, request_id: str) -> bool:
        return bool(request_id) and self._keeper.journal.outcome(request_id) == "removed"

    def _refuse_cancelled(self, spec: VmSpec) -> None:
        if self._cancelled(spec):
            raise RequestCancelled(spec.request_id)

    def _own(self, name: str) -> Vm:
        """The VM called *name*, if it is ours to change; raises UnknownVm or WrongState."""
        vm = self.state.vm(name)
        if vm.foreign:
            raise WrongState(f"VM {name!r} was not made here; adopt it first")
        return vm

    async def _settled(self, name: str) -> Domain | None:
        """The domain called *name* as it is now; None if that cannot be told.

        What was asked for is done by then, so a failure to look is for the next pass.
        """
        try:
            return await self._keeper.settle(name=name)
        except HypervisorError as problem:
            _log.warning("looking at %s failed: %s", name, problem)
            self._keeper.look_again()
            return None

    def _boot_mib(self, vm: Vm) -> int:
        return vm.memory_mib - self.state.host.rules.vm_overhead_mib


def _fitting(outcome: Plan | Rejection) -> Plan:
    if isinstance(outcome, Rejection):
        raise NoCapacity(outcome.sentence)
    return outcome


def _when(*, changed: bool, pending: bool) -> str:
    if not changed:
        return "unchanged"
    return "next-boot" if pending else "live"
