"""What is asked of libvirt, call by call, over the connections to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, TypeVar, cast
from xml.etree import ElementTree as ET

from schedulerlocal.adapters.domainmetadata import METADATA_KEY, METADATA_URI
from schedulerlocal.adapters.echoes import MAKING, REMOVING
from schedulerlocal.adapters.hypervisorlink import DomainText, Ears, LinkError, PinWish, Stats, Why
from schedulerlocal.adapters.libvirt import (
    Connections,
    Lane,
    LibvirtError,
    constant,
    on_domain,
    why_of,
)
from schedulerlocal.adapters.libvirttexts import texts_of
from schedulerlocal.core.topology import Cpus

T = TypeVar("T")

_LIVE, _CONFIG = constant("VIR_DOMAIN_AFFECT_LIVE"), constant("VIR_DOMAIN_AFFECT_CONFIG")
_STATS_LANE = -1  # the last one is used least
_UNDEFINE = [
    constant(f"VIR_DOMAIN_UNDEFINE_{each}")
    for each in ("MANAGED_SAVE", "SNAPSHOTS_METADATA", "NVRAM", "CHECKPOINTS_METADATA", "TPM")
]


class LibvirtLink:
    """See :class:`schedulerlocal.adapters.hypervisorlink.Link`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    @property
    def calls(self) -> Counter[str]:
        return self._connections.calls

    async def open(self, ears: Ears) -> None:
        await self._connections.open(ears)

    async def close(self) -> None:
        await self._connections.close()

    async def version(self) -> str:
        def call(lane: Lane) -> str:
            return f"{lane.connection.getVersion()} {lane.connection.getLibVersion()}"

        return await self._connections.call("version", "the versions could not be read", call)

    async def guest_kinds(self) -> frozenset[str]:
        def call(lane: Lane) -> str:
            return str(lane.connection.getCapabilities())

        found = await self._connections.call(
            "capabilities", "the capabilities could not be read", call
        )
        capabilities = ET.fromstring(found)
        arch = capabilities.findtext("host/cpu/arch", "")
        return frozenset(
            kind.get("type", "")
            for guest in capabilities.findall("guest")
            if (each := guest.find("arch")) is not None and each.get("name") == arch
            for kind in each.findall("domain")
        )

    async def read_all(self) -> list[DomainText]:
        def call(lane: Lane) -> list[DomainText]:
            return texts_of(lane.connection.listAllDomains())

        return await self._connections.call("read-all", "the VMs could not be listed", call)

    async def read(self, names: Sequence[str]) -> list[DomainText]:
        def call(lane: Lane) -> list[DomainText]:
            found = []
            for name in names:
                try:
                    found += on_domain(name, lambda domain: texts_of([domain]), lane)
                except LibvirtError as problem:
                    if why_of(problem) is not Why.GONE:
                        raise
            return found

        whose = repr(names[0]) if len(names) == 1 else f"{len(names)} of them"
        return await self._connections.call("read", f"VM {whose} could not be looked at", call)

    async def quiet(self, name: str) -> None:
        await self._connections.quiet(name)

    async def full_config(self, name: str) -> str:
        flags = constant("VIR_DOMAIN_XML_INACTIVE") | constant("VIR_DOMAIN_XML_SECURE")
        return str(await self._domain_call(name, "looked at", lambda vm: vm.XMLDesc(flags)))

    async def make(self, name: str, xml: str, check: Callable[[], None]) -> DomainText | LinkError:
        def call(lane: Lane) -> tuple[Lane, list[DomainText] | Exception]:
            check()
            domain = lane.handles[name] = lane.connection.defineXML(xml)
            try:
                domain.create()
                return lane, texts_of([domain], only_live=True)
            except LibvirtError as problem:
                echoes.doubt(name)
                return lane, cast("Exception", problem)

        sentence, echoes = f"VM {name!r} could not be defined", self._connections.echoes
        with echoes.of(name, MAKING):
            lane, made = await self._connections.call("make", sentence, call, name, 0)
        if isinstance(made, Exception):
            return self._connections.failure(f"VM {name!r} could not be started", lane, made)
        if not made:
            return LinkError(f"VM {name!r} is gone as soon as it was made", Why.GONE, "try again")
        return made[0]

    async def define(self, name: str, xml: str) -> None:
        def call(lane: Lane) -> None:
            lane.handles[name] = lane.connection.defineXML(xml)

        await self._connections.call("define", f"VM {name!r} could not be defined", call, name, 0)

    async def try_define(self, name: str, xml: str) -> None:
        flags = constant("VIR_DOMAIN_DEFINE_VALIDATE")

        def call(lane: Lane) -> None:
            try:
                _define_for_now(lane, xml, flags)
            except LibvirtError as problem:
                if problem.get_error_code() == constant("VIR_ERR_XML_INVALID_SCHEMA"):
                    # which says little; without the schema it may say what is wrong
                    _define_for_now(lane, xml, 0)
                raise

        await self._connections.call("try", "it could not be defined", call, name, 0)

    async def start_transient(self, name: str, xml: str) -> None:
        def call(lane: Lane) -> None:
            lane.connection.createXML(xml)

        await self._connections.call("start", f"VM {name!r} could not be started", call, name, 0)

    async def undefine(self, name: str) -> None:
        await self._domain_call(name, "undefined", _undefine)

    async def start(self, name: str) -> None:
        await self._domain_call(name, "started", lambda vm: vm.create())

    async def destroy(self, name: str) -> None:
        # where an emulator hangs, so does every call but this one, which is the way out
        await self._domain_call(name, "stopped", lambda vm: vm.destroy(), at_once=True)

    async def remove(self, name: str, *, active: bool) -> None:
        if self._connections.is_quiet(name):
            remove = partial(_remove, active=active)
            await _unless(self._domain_call(name, "removed", remove), Why.GONE)
            return
        if active:
            await _unless(self.destroy(name), Why.GONE, Why.WRONG_STATE)
        await _unless(self.undefine(name), Why.GONE)

    async def remove_unchanged(self, told: DomainText) -> None:
        name, connections = told.name, self._connections
        changed = LinkError(f"VM {name!r} is not as it was any more", Why.CHANGED)

        def remove(vm: Any) -> None:
            if texts_of([vm], only_live=True) != [replace(told, config=told.live)]:
                raise changed
            _remove(vm, active=told.active)
            connections.forget(name)

        if not connections.is_quiet(name):
            raise changed
        try:
            with connections.echoes.of(name, REMOVING):
                await self._domain_call(name, "removed", remove)
        except LinkError as problem:
            if problem.why is not Why.GONE:
                raise
            raise changed from problem

    async def press_power_button(self, name: str) -> None:
        flags = constant("VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN")
        await self._domain_call(name, "shut down", lambda vm: vm.shutdownFlags(flags))

    async def reboot(self, name: str) -> None:
        flags = constant("VIR_DOMAIN_REBOOT_ACPI_POWER_BTN")
        await self._domain_call(name, "rebooted", lambda vm: vm.reboot(flags))

    async def reset(self, name: str) -> None:
        await self._domain_call(name, "reset", lambda vm: vm.reset())

    async def suspend(self, name: str) -> None:
        await self._domain_call(name, "suspended", lambda vm: vm.suspend())

    async def resume(self, name: str) -> None:
        await self._domain_call(name, "resumed", lambda vm: vm.resume())

    async def is_active(self, name: str) -> bool:
        return bool(await self._domain_call(name, "looked at", lambda vm: vm.isActive()))

    async def autostarting(self) -> frozenset[str]:
        flags = constant("VIR_CONNECT_LIST_DOMAINS_AUTOSTART")

        def call(lane: Lane) -> frozenset[str]:
            return frozenset([domain.name() for domain in lane.connection.listAllDomains(flags)])

        return await self._connections.call("autostarting", "the VMs could not be listed", call)

    async def set_autostart(self, name: str, on: bool) -> bool:
        def act(vm: Any) -> bool:
            before = bool(vm.autostart())
            if before is not on:
                vm.setAutostart(int(on))
            return before

        return await self._domain_call(name, "kept from starting by itself", act)

    async def note(self, name: str, text: str | None, *, live: bool, config: bool) -> None:
        kind, flags = constant("VIR_DOMAIN_METADATA_ELEMENT"), _affect(live=live, config=config)

        def note(vm: Any) -> None:
            vm.setMetadata(kind, text, METADATA_KEY if text else None, METADATA_URI, flags)

        await self._domain_call(name, "given its metadata", note)

    async def pin(
        self, wishes: Mapping[str, Sequence[PinWish]], pinned: Callable[[Sequence[str]], None]
    ) -> None:
        def call(name: str, wishes: Sequence[PinWish], lane: Lane) -> None:
            on_domain(name, pins[id(wishes)].pin, lane)

        kinds = {id(each): each for each in wishes.values()}
        pins = {key: self._pins(each) for key, each in kinds.items()}
        vms = Counter(map(id, wishes.values()))
        self._connections.calls["pin-one"] += sum(vms[key] * len(pins[key].pins) for key in pins)
        await self._connections.call_each(
            "pinned", "VM {} could not be pinned", wishes, call, pinned
        )

    def _pins(self, wishes: Sequence[PinWish]) -> _Pins:
        if self._connections.is_test_driver:
            # it pins vCPUs only, and is not to be told of which XML
            vcpus = [wish for wish in wishes if wish.live and wish.vcpu is not None]
            return _Pins([(wish.vcpu, _bits(wish.cpus), 0) for wish in vcpus])
        pins = [
            (wish.vcpu, _bits(wish.cpus), _affect(live=wish.live, config=wish.config))
            for wish in wishes
        ]
        return _Pins(pins)

    async def plug_vcpus(self, name: str, vcpus: int) -> None:
        await self._domain_call(
            name, f"given {vcpus} vCPUs", lambda vm: vm.setVcpusFlags(vcpus, _LIVE)
        )

    async def balloon(self, name: str, memory_mib: int) -> None:
        await self._domain_call(
            name,
            f"given {memory_mib} MiB",
            lambda vm: vm.setMemoryFlags(memory_mib * 1024, _LIVE),
        )

    async def ballooned_mib(self, name: str) -> int:
        return int(await self._domain_call(name, "looked at", lambda vm: vm.info()[2])) // 1024

    async def weigh(self, name: str, shares: int) -> None:
        weight = {"cpu_shares": shares}
        await self._domain_call(
            name, "weighted", lambda vm: vm.setSchedulerParametersFlags(weight, _LIVE)
        )

    async def all_stats(self) -> list[Stats]:
        wanted = sum(
            constant(f"VIR_DOMAIN_STATS_{each}")
            for each in ("STATE", "CPU_TOTAL", "BALLOON", "VCPU")
        )

        # not held up by a guest whose emulator hangs; it then has fewer fields
        nowait = constant("VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT")

        def call(lane: Lane) -> list[Stats]:
            told = lane.connection.getAllDomainStats(wanted, nowait)
            return [(domain.name(), stats) for domain, stats in told]

        return await self._connections.call(
            "stats", "the statistics could not be read", call, turn=_STATS_LANE
        )

    async def _domain_call(
        self,
        name: str,
        done: str,
        act: Callable[[Any], T],
        turn: int = 0,
        *,
        at_once: bool = False,
    ) -> T:
        """*at_once* does not wait for an earlier call about the VM."""
        sentence = f"VM {name!r} could not be {done}"
        queue = "" if at_once else name
        call = partial(on_domain, name, act)
        return await self._connections.call(done, sentence, call, queue, turn)


def _define_for_now(lane: Lane, xml: str, flags: int) -> None:
    domain = lane.connection.defineXMLFlags(xml, flags)
    try:
        _undefine(domain)
    except LibvirtError as problem:
        if why_of(problem) is not Why.GONE:  # another scheduler tried the same
            raise


def _remove(domain: Any, *, active: bool) -> None:
    if active:
        try:
            domain.destroy()
        except LibvirtError as problem:
            if why_of(problem) is not Why.WRONG_STATE:
                raise
    _undefine(domain)


def _undefine(domain: Any) -> None:
    try:
        domain.undefineFlags(sum(_UNDEFINE))
    except LibvirtError as problem:
        if problem.get_error_code() != constant("VIR_ERR_INVALID_ARG"):
            raise
        domain.undefineFlags(sum(_UNDEFINE[:2]))  # what every driver and version knows


async def _unless(call: Awaitable[None], *whys: Why) -> None:
    """*call*, which may fail for one of *whys*."""
    try:
        await call
    except LinkError as problem:
        if problem.why not in whys:
            raise


@dataclass(frozen=True, slots=True)
class _Pins:
    """What is to be pinned of a VM, or of many alike."""

    pins: Sequence[tuple[int | None, tuple[bool, ...], int]]

    def pin(self, vm: Any) -> None:
        for vcpu, bits, flags in self.pins:
            if vcpu is None:
                vm.pinEmulator(bits, flags)
            else:
                vm.pinVcpuFlags(vcpu, bits, flags)


@lru_cache(maxsize=64)
def _bits(cpus: Cpus) -> tuple[bool, ...]:
    """As libvirt takes them; the VMs of a level, which move together, have the same."""
    wanted = frozenset(cpus)
    return tuple([cpu in wanted for cpu in range(max(cpus) + 1)])


def _affect(*, live: bool, config: bool) -> int:
    return (_LIVE if live else 0) | (_CONFIG if config else 0)
