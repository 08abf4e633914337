"""What is known of the domains, so that libvirt is asked only about those that changed.

An event marks its VM; it is looked at again a moment later, and only if it turns out different is
anybody told: most events are the echo of what we did ourselves. What events missed is found by
reading everything every now and then, and whenever libvirtd was away.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager

from schedulercommon.errors import HypervisorError
from schedulercommon.model import VmState
from schedulerlocal.adapters.domainfacts import DomainFacts, read_domain
from schedulerlocal.adapters.hypervisorlink import DomainText, Heard, Link
from schedulerlocal.adapters.knowndomain import Known, Moved, Told, moved_to
from schedulerlocal.core.cpulist import parse_cpulist
from schedulerlocal.core.topology import Cpus
from schedulerlocal.ports import Domain

_EVERYTHING_S = 10.0
_ECHO_S = 0.05

_log = logging.getLogger(__name__)


class KnownDomains:
    """``changed`` is called when a VM is not as :meth:`read` or :meth:`renew` last had it."""

    def __init__(self, link: Link, now_s: Callable[[], float]) -> None:
        self.changed: Callable[[], None] = lambda: None
        self.version = 0
        """Rises whenever anything known changes."""
        self._link = link
        self._now_s = now_s
        self._known: dict[str, Known] = {}
        self._facts: dict[str, tuple[DomainText, Told]] = {}
        self._dirty: set[str] = set()
        self._all_dirty = True
        self._read_s = 0.0
        self._working: list[Collection[str]] = []
        """The VMs worked on just now, by who does."""
        self._places: dict[str, Cpus] = {}
        self._reading = asyncio.Lock()
        self._outdone: set[str] = set()
        """VMs we changed while something is read: what is told of them then may be of before."""
        self._looking: asyncio.Task[None] | None = None
        self._told: set[str] = set()
        self.macs: Counter[str] = Counter()
        """Those of VMs of ours, each with how many have it."""

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()

    @property
    def all(self) -> Mapping[str, Known]:
        """By name, in order of their making; what was only just found comes last."""
        return self._known

    async def read(self) -> Mapping[str, Known]:
        """What is there now; raises LinkError."""
        async with self._reading:
            if self._all_dirty or self._now_s() - self._read_s > _EVERYTHING_S:
                await self._read_all()
            else:
                await self._read_dirty(self._dirty)
        return self._known

    async def renew(self, name: str) -> Known | None:
        """The domain called *name* as it is now; raises LinkError."""
        async with self._reading:
            await self._read_dirty({name})
        return self._known.get(name)

    def take(self, text: DomainText) -> Known | None:
        """What *text* says, which libvirt told just now of a VM being worked on."""
        self._take(text)
        self._outdo_reading([text.name])
        return self._known.get(text.name)

    def told(self, name: str) -> DomainText | None:
        """What libvirt told of the VM called *name*, if nothing was heard of it since, nor was it
        pinned."""
        facts, known = self._facts.get(name), self._known.get(name)
        if facts is None or known is None or known.moved is not None or name in self._dirty:
            return None
        return facts[0]

    def removed(self, name: str) -> None:
        """The VM called *name* was just removed."""
        self._put(name, None)
        self._outdo_reading([name])

    def _outdo_reading(self, names: Iterable[str]) -> None:
        """What is being read just now does not count for *names*, which are looked at again."""
        if self._reading.locked():
            self._outdone.update(names)
            self._dirty.update(names)

    async def settled(self, name: str) -> Known | None:
        """Like :meth:`renew`, once no call about it is under way any more."""
        await self._link.quiet(name)
        return await self.renew(name)

    # --- what our own steps do --------------------------------------------------------------------

    @contextmanager
    def working_on(self, names: Collection[str]) -> Iterator[None]:
        """Meanwhile nobody is told of what happens to *names*: we do it.

        If that fails, something we did not do may be why, and what was heard of it is told.
        """
        self._working.append(names)
        try:
            yield
        except BaseException:
            self.changed()
            raise
        finally:
            self._working.remove(names)
            if any(name in names for name in self._dirty):
                self._look_soon()

    def _is_worked_on(self, name: str) -> bool:
        return any(name in names for names in self._working)

    def _left_alone(self, names: Iterable[str]) -> set[str]:
        """Those of *names* that nobody works on."""
        return {name for name in names if not self._is_worked_on(name)}

    def expect(self, name: str, state: VmState) -> None:
        """We just made the VM called *name* do that; somebody may have come between."""
        known = self._known.get(name)
        if known is None or known.state is not state:
            self.changed()

    def pinning(self, name: str, cpus: Cpus) -> None:
        """From now on *cpus* is where the vCPUs of the VM called *name* belong."""
        with self.placing([name], cpus):
            pass

    @contextmanager
    def placing(self, names: Sequence[str], cpus: Cpus) -> Iterator[None]:
        """From now on *cpus* is where the vCPUs of the VMs called *names* belong; around having
        them there."""
        self._places.update(dict.fromkeys(names, cpus))
        try:
            yield
        finally:
            for name in names:
                known = self._known.get(name)
                if known is None or known.wanted is cpus:
                    continue
                place = self._places.get(name)
                if known.wanted != place:
                    self._known[name] = known.at(place, known.moved)
                    self.version += 1

    def pinned(self, names: Iterable[str], to: Moved) -> None:
        """All vCPUs and, unless it is None, the emulator of the VMs called *names* were pinned."""
        names = tuple(names)
        self._outdo_reading(names)
        self.version += 1
        there, places = self._known, self._places
        for name in names:
            known = there.get(name)
            if known is None:
                continue
            moved = to
            if to.emulator is None and known.moved is not None:
                moved = moved_to(to.cpus, known.moved.emulator)
            there[name] = known.at(places.get(name), moved)

    # --- what happens by itself -------------------------------------------------------------------

    def heard(self, heard: Heard) -> None:
        """Something happened; called on the event loop."""
        if heard.pins is not None and self._is_echo(heard.name, heard.pins):
            return
        self._dirty.add(heard.name)
        if not self._is_worked_on(heard.name):
            self._look_soon()

    def doubt_all(self) -> None:
        """Nothing known is sure any more."""
        self._all_dirty = True
        self.changed()

    def _is_echo(self, name: str, pins: Mapping[str, str]) -> bool:
        known, place = self._known.get(name), self._places.get(name)
        if known is None or place is None:
            return False
        for what, cpus in pins.items():
            try:
                where = tuple(sorted(parse_cpulist(cpus)))
            except ValueError:
                return False
            if where != place and not (what == "emulatorpin" and where == known.live.emulator_cpus):
                return False
        return True

    def _look_soon(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="look")

    async def _look(self) -> None:
        await asyncio.sleep(_ECHO_S)
        while names := self._left_alone(self._dirty):
            before = {name: self._seen(name) for name in names}
            try:
                async with self._reading:
                    await self._read_dirty(names)
            except HypervisorError as problem:
                _log.debug("looking at what changed failed: %s", problem)
                self.changed()  # the next pass finds out, or says why it cannot
                return
            if any(self._seen(name) != before[name] for name in self._left_alone(names)):
                self.changed()

    def _seen(self, name: str) -> Domain | None:
        known = self._known.get(name)
        return None if known is None else known.domain

    # --- reading ----------------------------------------------------------------------------------

    async def _read_all(self) -> None:
        dirty, self._dirty, self._all_dirty = self._dirty, set(), False
        self._outdone = set()
        try:
            texts = await self._link.read_all()
        except BaseException:
            self._dirty |= dirty
            self._all_dirty = True
            raise
        self._read_s = self._now_s()
        self._take_all(self._known.keys(), sorted(texts, key=self._made))

    async def _read_dirty(self, names: set[str]) -> None:
        if not names:
            return
        names = set(names)
        self._dirty -= names
        self._outdone = set()
        try:
            texts = await self._link.read(sorted(names))
        except BaseException:
            self._dirty |= names
            raise
        self._take_all(names, texts)

    def _take_all(self, asked: Set[str], texts: Sequence[DomainText]) -> None:
        """What libvirt told of those *asked* for, but for what is known better by now."""
        for name in asked - {text.name for text in texts} - self._outdone:
            self._put(name, None)
        for text in texts:
            if text.name not in self._outdone:
                self._take(text)

    def _made(self, text: DomainText) -> tuple[float, str]:
        """When it was made, as far as it says so: a new local scheduler has seen none of it."""
        told = self._understood(text)
        metadata = told.live.metadata if told else None
        return (metadata.made_ms or float("inf")) if metadata else float("inf"), text.name

    def _take(self, text: DomainText) -> None:
        told = self._understood(text)
        place = self._places.get(text.name)
        self._put(text.name, None if told is None else Known.first(told, place))

    def _understood(self, text: DomainText) -> Told | None:
        """What *text* says; texts that were read before cost nothing."""
        before = self._facts.get(text.name)
        if before is not None and before[0] == text:
            return before[1]
        try:
            live = self._live_before(text) or read_domain(text.live)
            config = live if text.config == text.live else read_domain(text.config)
        except ValueError as problem:
            self._tell_once(f"{problem}; it is left out of account")
            return None
        if live.damage is not None:
            self._tell_once(live.damage.sentence)
        emulated = text.live.lstrip().startswith("<domain type='qemu'")
        told = Told(text.state, text.active, live, config, emulated)
        self._facts[text.name] = (text, told)
        return told

    def _live_before(self, text: DomainText) -> DomainFacts | None:
        """What was read of the same text; a VM's next boot may have changed all the same."""
        before = self._facts.get(text.name)
        return before[1].live if before is not None and before[0].live == text.live else None

    def _tell_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            _log.warning("%s", sentence)

    def _put(self, name: str, known: Known | None) -> None:
        before = self._known.get(name)
        if before != known:
            self.version += 1
            self._count_mac(before, -1)
            self._count_mac(known, 1)
            if known is not None:
                self._known[name] = known
        if known is None:
            self._known.pop(name, None)
            self._facts.pop(name, None)
            self._places.pop(name, None)

    def _count_mac(self, known: Known | None, change: int) -> None:
        if known is not None and known.metadata is not None:
            mac = known.metadata.mac
            self.macs[mac] += change
            if not self.macs[mac]:
                del self.macs[mac]
