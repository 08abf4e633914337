"""A libvirt of paper: domains as XML, changed as libvirt would, every call recorded or failed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from xml.etree import ElementTree as ET

from schedulercommon.model import VmState
from schedulerlocal.adapters.domainmetadata import METADATA_URI
from schedulerlocal.adapters.hypervisorlink import (
    DomainText,
    Ears,
    Heard,
    LinkError,
    PinWish,
    Stats,
    Why,
)
from schedulerlocal.core.cpulist import format_cpulist

READS = (
    "read",
    "read_all",
    "full_config",
    "is_active",
    "ballooned_mib",
    "quiet",
    "try_define",
    "autostarting",
)


@dataclass
class PaperDomain:
    config: ET.Element
    live: ET.Element | None = None
    state: VmState = VmState.DOWN


@dataclass
class FakeLink:
    """See :class:`schedulerlocal.adapters.hypervisorlink.Link`.

    ``fails_at`` is the number, from 1, of the changing call that fails, ``why`` how; what it would
    have done is not done.
    """

    domains: dict[str, PaperDomain] = field(default_factory=dict)
    made: list[tuple[object, ...]] = field(default_factory=list)
    fails_at: int | None = None
    why: Why = Why.OTHER
    calls: Counter[str] = field(default_factory=Counter)
    ears: Ears = field(default_factory=Ears)
    kinds: frozenset[str] = frozenset({"qemu"})
    plugs: bool = True
    """Whether guests take vCPUs and memory, or give them up, while they run."""
    resumes: bool = True
    autostart: set[str] = field(default_factory=set)
    holds: asyncio.Event | None = None
    """What removals wait for; given up, they go on all the same."""
    held: asyncio.Task[None] | None = None
    tells: asyncio.Event | None = None
    """What those who read wait for, once they have looked."""
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once one of them waits."""

    @property
    def changes(self) -> list[tuple[object, ...]]:
        return [each for each in self.made if each[0] not in READS]

    def shown(self) -> dict[str, tuple[str, str | None, VmState]]:
        """All there is, to be compared."""
        return {
            name: (
                ET.tostring(each.config, encoding="unicode"),
                None if each.live is None else ET.tostring(each.live, encoding="unicode"),
                each.state,
            )
            for name, each in self.domains.items()
        }

    def hear(self, name: str, pins: dict[str, str] | None = None) -> None:
        self.ears.heard(Heard(name, pins))

    def _call(self, kind: str, *about: object) -> None:
        self.made.append((kind, *about))
        self.calls[kind] += 1
        if kind not in READS and len(self.changes) == self.fails_at:
            raise LinkError(f"{kind} failed, as it was told to", self.why)

    def _there(self, name: str) -> PaperDomain:
        if name not in self.domains:
            raise LinkError(f"VM {name!r} is not there", Why.GONE)
        return self.domains[name]

    async def open(self, ears: Ears) -> None:
        self.ears = ears

    async def close(self) -> None:
        pass

    async def version(self) -> str:
        return "7 9"

    async def guest_kinds(self) -> frozenset[str]:
        return self.kinds

    async def quiet(self, name: str) -> None:
        self._call("quiet", name)
        if self.held is not None:
            await asyncio.wait([self.held])

    async def read_all(self) -> list[DomainText]:
        self._call("read_all")
        return await self._read([self._text(name) for name in self.domains])

    async def read(self, names: Sequence[str]) -> list[DomainText]:
        self._call("read", *names)
        return await self._read([self._text(name) for name in names if name in self.domains])

    async def _read(self, texts: list[DomainText]) -> list[DomainText]:
        if self.tells is not None:
            self.looked.set()
            await self.tells.wait()
        return texts

    def _text(self, name: str) -> DomainText:
        domain = self.domains[name]
        config = ET.tostring(domain.config, encoding="unicode")
        live = domain.live
        return DomainText(
            name=name,
            state=domain.state,
            active=live is not None,
            live=config if live is None else ET.tostring(live, encoding="unicode"),
            config=config,
        )

    def _live(self, name: str) -> DomainText:
        text = self._text(name)
        return replace(text, config=text.live)

    async def full_config(self, name: str) -> str:
        self._call("full_config", name)
        return ET.tostring(self._there(name).config, encoding="unicode")

    async def define(self, name: str, xml: str) -> None:
        self._call("define", name)
        config = ET.fromstring(xml)
        if name in self.domains:
            self.domains[name].config = config
        else:
            self.domains[name] = PaperDomain(config)

    async def try_define(self, name: str, xml: str) -> None:
        self._call("try_define", name)
        assert ET.fromstring(xml).findtext("name") == name

    async def make(self, name: str, xml: str, check: Callable[[], None]) -> DomainText | LinkError:
        check()
        await self.define(name, xml)
        try:
            await self.start(name)
        except LinkError as problem:
            return problem
        return self._live(name)

    async def remove(self, name: str, *, active: bool) -> None:
        self.held = asyncio.create_task(self._remove(name, active))
        await asyncio.shield(self.held)

    async def remove_unchanged(self, told: DomainText) -> None:
        as_it_was = replace(told, config=told.live)
        if told.name not in self.domains or self._live(told.name) != as_it_was:
            raise LinkError("it is not as it was", Why.CHANGED)
        await self.remove(told.name, active=told.active)

    async def _remove(self, name: str, active: bool) -> None:
        if self.holds is not None:
            await self.holds.wait()
        if active:
            await self.destroy(name)
        await self.undefine(name)

    async def undefine(self, name: str) -> None:
        self._call("undefine", name)
        self._there(name)
        del self.domains[name]

    async def start(self, name: str) -> None:
        self._call("start", name)
        domain = self._there(name)
        domain.live, domain.state = deepcopy(domain.config), VmState.RUNNING

    async def start_transient(self, name: str, xml: str) -> None:
        self._call("start_transient", name)
        self.domains[name] = PaperDomain(ET.fromstring(xml), ET.fromstring(xml), VmState.RUNNING)

    async def destroy(self, name: str) -> None:
        self._call("destroy", name)
        domain = self._there(name)
        if domain.live is None:
            raise LinkError("it is not running", Why.WRONG_STATE)
        domain.live, domain.state = None, VmState.DOWN

    async def press_power_button(self, name: str) -> None:
        self._call("press", name)
        domain = self._there(name)
        domain.live, domain.state = None, VmState.DOWN

    async def reboot(self, name: str) -> None:
        self._call("reboot", name)

    async def reset(self, name: str) -> None:
        self._call("reset", name)

    async def suspend(self, name: str) -> None:
        self._call("suspend", name)
        self._there(name).state = VmState.SUSPENDED

    async def resume(self, name: str) -> None:
        self._call("resume", name)
        if self.resumes:
            self._there(name).state = VmState.RUNNING

    async def is_active(self, name: str) -> bool:
        self._call("is_active", name)
        return self._there(name).live is not None

    async def autostarting(self) -> frozenset[str]:
        return frozenset(self.autostart)

    async def set_autostart(self, name: str, on: bool) -> bool:
        before = name in self.autostart
        if before is not on:
            self._call("set_autostart", name, on)
            (self.autostart.add if on else self.autostart.discard)(name)
        return before

    async def note(self, name: str, text: str | None, *, live: bool, config: bool) -> None:
        self._call("note", name)
        domain = self._there(name)
        assert not live or domain.live is not None, "libvirt would refuse"
        for wanted, xml in ((live, domain.live), (config, domain.config)):
            if wanted and xml is not None:
                kept = xml.find("metadata")
                kept = ET.SubElement(xml, "metadata") if kept is None else kept
                for each in kept.findall(f"{{{METADATA_URI}}}vm"):
                    kept.remove(each)
                if text is not None:
                    plain = ET.fromstring(text)
                    plain.tag = f"{{{METADATA_URI}}}{plain.tag}"
                    kept.append(plain)

    async def pin(
        self, wishes: Mapping[str, Sequence[PinWish]], pinned: Callable[[Sequence[str]], None]
    ) -> None:
        for name, each in wishes.items():
            self.pin_one(name, each)
            pinned([name])

    def pin_one(self, name: str, wishes: Sequence[PinWish]) -> None:
        self._call("pin", name, *wishes)
        self.calls["pin-one"] += len(wishes)
        domain = self._there(name)
        for wish in wishes:
            assert not wish.live or domain.live is not None, "libvirt would refuse"
            for wanted, xml in ((wish.live, domain.live), (wish.config, domain.config)):
                if wanted and xml is not None:
                    tune = xml.find("cputune")
                    tune = ET.SubElement(xml, "cputune") if tune is None else tune
                    path = "emulatorpin" if wish.vcpu is None else f"vcpupin[@vcpu='{wish.vcpu}']"
                    pin = tune.find(path)
                    if pin is None and wish.vcpu is None:
                        pin = ET.SubElement(tune, "emulatorpin")
                    elif pin is None:
                        pin = ET.SubElement(tune, "vcpupin", vcpu=str(wish.vcpu))
                    pin.set("cpuset", format_cpulist(wish.cpus))

    async def plug_vcpus(self, name: str, vcpus: int) -> None:
        self._call("plug", name, vcpus)
        if not self.plugs:
            raise LinkError("the guest does not answer", Why.NOT_POSSIBLE)
        live = self._there(name).live
        assert live is not None
        (vcpu,) = live.findall("vcpu")
        vcpu.set("current", str(vcpus))

    async def balloon(self, name: str, memory_mib: int) -> None:
        self._call("balloon", name, memory_mib)
        live = self._there(name).live
        assert live is not None
        (memory,) = live.findall("currentMemory")
        if self.plugs:
            memory.text = str(memory_mib)

    async def ballooned_mib(self, name: str) -> int:
        self._call("ballooned_mib", name)
        live = self._there(name).live
        assert live is not None
        return int(live.findtext("currentMemory", ""))

    async def weigh(self, name: str, shares: int) -> None:
        self._call("weigh", name, shares)

    async def all_stats(self) -> list[Stats]:
        return [(name, {}) for name in self.domains]
