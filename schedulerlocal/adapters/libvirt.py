"""The link to libvirt, and the only file that imports it.

libvirt's own event loop runs in a thread: it is safe against calls from other threads, which
libvirtaio is not (every call adds and removes watchers, from whichever thread makes it), and it
answers libvirtd's keep-alive however busy asyncio's loop is. Events come from there onto asyncio's
loop. Calls block, so each is made in a thread; several connections let pins go side by side.
What is asked of libvirt is in :mod:`schedulerlocal.adapters.libvirtlink`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, TypeVar

import libvirt

from schedulerlocal.adapters.callthreads import Batch, CallThreads
from schedulerlocal.adapters.echoes import Echoes, told_pins
from schedulerlocal.adapters.hypervisorlink import Ears, Heard, LinkError, Why, refused

T = TypeVar("T")
W = TypeVar("W")
_Done = Callable[[Sequence[str]], None]

_CONNECTIONS = 8
_LEAST_APART = 3  # connections: to look, to change, to read statistics
_THREADS = 32
_KEEP_ALIVE_S, _KEEP_ALIVE_MISSED = 5, 3
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 5.0
_CLOSE_S = 2.0
_SIMULATE = "or simulate a host with --topology=debug/topology_EPYC-7662.json"

_log = logging.getLogger(__name__)

LibvirtError: Any = libvirt.libvirtError


def constant(name: str) -> int:
    """A constant of libvirt's, 0 where the library is older than it."""
    return int(getattr(libvirt, name, 0))


EVENTS = """
    LIFECYCLE REBOOT METADATA_CHANGE TUNABLE BALLOON_CHANGE DEVICE_ADDED DEVICE_REMOVED
    DEVICE_REMOVAL_FAILED PMSUSPEND PMWAKEUP PMSUSPEND_DISK JOB_COMPLETED
""".split()
_WHY = {
    "NO_DOMAIN": Why.GONE,
    "OPERATION_INVALID": Why.WRONG_STATE,
    "OPERATION_TIMEOUT": Why.NOT_POSSIBLE,
    "OPERATION_UNSUPPORTED": Why.NOT_POSSIBLE,
    "CONFIG_UNSUPPORTED": Why.NOT_POSSIBLE,
    "NO_SUPPORT": Why.NOT_POSSIBLE,
    "ARGUMENT_UNSUPPORTED": Why.NOT_POSSIBLE,
    "AGENT_UNRESPONSIVE": Why.NOT_POSSIBLE,
}
_WHY_OF_CODE = {constant(f"VIR_ERR_{name}"): why for name, why in _WHY.items()}
_events_run = threading.Event()


@dataclass(slots=True)
class Lane:
    """A connection, with the domains it has a handle for."""

    connection: Any
    handles: dict[str, Any] = field(default_factory=dict)
    busy: int = 0
    """Calls under way on it."""

    def less_busy(self, _: object) -> None:
        self.busy -= 1


class Connections:
    """See the module. ``calls`` counts the calls made, by what they do."""

    def __init__(
        self,
        uri: str,
        *,
        rng: Random,
        connections: int = _CONNECTIONS,
        opener: Callable[[str], Any] | None = None,
    ) -> None:
        self.uri = uri
        self._opener = opener or libvirt.open
        self.calls: Counter[str] = Counter()
        self.echoes = Echoes()
        self._rng = rng
        self.is_test_driver = uri.startswith("test:")
        # which has a host of its own for every connection
        self._connections = 1 if self.is_test_driver else connections
        self._threads = CallThreads("libvirt", _THREADS)
        self._lanes: list[Lane] = []
        self._ears = Ears()
        self._under_way: dict[str, asyncio.Future[Any]] = {}
        self._batches: list[Batch[Any, Lane]] = []
        """Calls about many VMs, under way too."""
        self._away_since = ""
        self._returning: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- connections ------------------------------------------------------------------------------

    async def open(self, ears: Ears) -> None:
        """Raises LinkError, saying what to do without a libvirtd."""
        self._ears = ears
        self._loop = asyncio.get_running_loop()
        if not _events_run.is_set():
            _events_run.set()
            libvirt.registerErrorHandler(lambda *_: None, None)  # it would print every error
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_run_events, name="libvirt-events", daemon=True).start()
        try:
            self._lanes = await self._threads.submit(self._connect)
        except LibvirtError as problem:
            raise LinkError(
                f"libvirtd at {self.uri} cannot be reached ({words_of(problem)}); start it"
                f" (systemctl start libvirtd), {_SIMULATE}",
                Why.AWAY,
            ) from problem

    async def close(self) -> None:
        if self._returning is not None:
            self._returning.cancel()
        lanes, self._lanes = self._lanes, []
        self._away_since, self._ears = time.strftime("%H:%M:%S"), Ears()
        await asyncio.wait([self._threads.submit(lambda: _close(lanes))], timeout=_CLOSE_S)

    def _connect(self) -> list[Lane]:
        lanes: list[Lane] = []
        try:
            for _ in range(self._connections):
                connection = self._opener(self.uri)
                lanes.append(Lane(connection))
                try:
                    connection.setKeepAlive(_KEEP_ALIVE_S, _KEEP_ALIVE_MISSED)
                    connection.registerCloseCallback(self._closed, None)
                except LibvirtError:  # only a libvirtd can go away, not the test driver
                    _log.debug("%s has no keep-alive", self.uri)
            for event in EVENTS:
                number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{event}", None)
                if number is None:
                    continue
                try:
                    lanes[0].connection.domainEventRegisterAny(None, number, self._event, event)
                except LibvirtError as problem:
                    _log.info("%s tells of no %s: %s", self.uri, event, words_of(problem))
        except BaseException:
            _close(lanes)
            raise
        return lanes

    def _closed(self, connection: Any, _reason: int, _: object) -> None:
        """Called by libvirt's thread."""
        self._on_loop(self._lost, connection)

    def _lost(self, connection: Any) -> None:
        if not any(lane.connection is connection for lane in self._lanes):
            return
        lanes, self._lanes = self._lanes, []
        self._away_since = time.strftime("%H:%M:%S")
        _log.error("%s", self._away())
        self._threads.submit(lambda: _close(lanes))
        self._returning = asyncio.get_running_loop().create_task(self._return(), name="reconnect")
        self._ears.doubt()

    async def _return(self) -> None:
        """Connect again, at growing intervals with some chance in them, since others do too."""
        wait_s = _FIRST_RETRY_S
        while True:
            await asyncio.sleep(wait_s * (0.5 + self._rng.random()))
            wait_s = min(_LAST_RETRY_S, wait_s * 2)
            connecting = self._threads.submit(self._connect)
            try:
                lanes = await asyncio.shield(connecting)
            except LibvirtError:
                continue
            except asyncio.CancelledError:
                connecting.add_done_callback(_close_unused)
                raise
            if not all(lane.connection.isAlive() for lane in lanes):
                self._threads.submit(partial(_close, lanes))
                continue
            self._lanes = lanes
            _log.info("libvirtd at %s is back", self.uri)
            self._ears.doubt()
            return

    def _event(self, _connection: Any, domain: Any, *about: Any) -> None:
        """Called by libvirt's thread; the last of *about* is the event's name."""
        name, life = domain.name(), about[-1] == "LIFECYCLE"
        if not life or not self.echoes.is_one(name, about[:2]):
            self._on_loop(self._heard, Heard(name, told_pins(about)), life)

    def _heard(self, heard: Heard, life: bool) -> None:
        if life:
            self.forget(heard.name)
        self._ears.heard(heard)

    def forget(self, name: str) -> None:
        """The VM called *name* may be another from now on."""
        for lane in self._lanes:
            lane.handles.pop(name, None)

    def _on_loop(self, call: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody is left to be told
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call, *args)

    def _away(self) -> str:
        return (
            f"libvirtd at {self.uri} is away since {self._away_since}; start it"
            " (systemctl start libvirtd)"
        )

    # --- calls ------------------------------------------------------------------------------------

    async def quiet(self, name: str) -> None:
        """Wait until no call about the VM called *name* is under way, given up or not."""
        while not self.is_quiet(name):
            if (earlier := self._under_way.get(name)) is not None:
                await asyncio.wait([earlier])
            for batch in tuple(self._batches):
                await batch.ended(name)

    def is_quiet(self, name: str) -> bool:
        return name not in self._under_way and all(name not in each.left for each in self._batches)

    async def call(
        self,
        kind: str,
        failed: str,
        call: Callable[[Lane], T],
        name: str = "",
        turn: int | None = None,
    ) -> T:
        """Make *call* in a thread; *failed* begins the sentence if it fails."""
        if name:
            await self.quiet(name)
        if not self._lanes:
            raise LinkError(self._away(), Why.AWAY)
        lane = self._lane(turn)
        self.calls[kind] += 1
        future = self._on_lane(lane, call)
        if name:
            self._under_way[name] = future
            future.add_done_callback(lambda done: self._done(name, done))
        try:
            # given up, it goes on all the same, and calls about this VM wait for it
            return await self._threads.outcome(future)
        except LibvirtError as problem:
            raise self.failure(failed, lane, problem) from problem

    async def call_each(
        self,
        kind: str,
        failed: str,
        wishes: Mapping[str, W],
        call: Callable[[str, W, Lane], object],
        done: _Done,
    ) -> None:
        """Make *call* for each VM there are *wishes* for, over several connections at once.

        *failed* has ``{}`` for that VM. *done* is told of those it was made for, also if one fails,
        which is the end of it, or it is given up; what has not begun by then is not done.
        """
        late = wishes.keys() & set(self._under_way).union(*[each.left for each in self._batches])
        if not late:
            await self._call_batch(kind, failed, Batch(wishes, call), done)
            return

        async def call_late(name: str) -> None:
            make = partial(call, name, wishes[name])
            await self.call(kind, failed.format(repr(name)), make, name, 0)
            done([name])

        batch = Batch({name: wishes[name] for name in wishes if name not in late}, call)
        every = self._call_batch(kind, failed, batch, done), *map(call_late, late)
        for outcome in filter(None, await asyncio.gather(*every, return_exceptions=True)):
            raise outcome

    async def _call_batch(
        self, kind: str, failed: str, batch: Batch[Any, Lane], done: _Done
    ) -> None:
        if not self._lanes:
            raise LinkError(self._away(), Why.AWAY)
        self.calls[kind] += (count := len(batch.left))
        self._batches.append(batch)
        lanes = self._changing()
        idle = [lane for lane in lanes if not lane.busy] or lanes
        working = [self._on_lane(lane, batch.work) for lane in idle[:count]]
        try:
            for each in working:
                await self._threads.outcome(each)
        finally:
            batch.stop()
            done(batch.take_done())
            # one that was given up is kept while a call of its goes on
            self._batches = [each for each in self._batches if each.left]
        if batch.failure is not None:
            name, lane, problem = batch.failure
            if not isinstance(problem, LibvirtError):
                raise problem
            raise self.failure(failed.format(repr(name)), lane, problem) from problem

    def failure(self, failed: str, lane: Lane, problem: Any) -> LinkError:
        why = why_of(problem)
        if why is Why.OTHER and not lane.connection.isAlive():
            self._lost(lane.connection)
            why = Why.AWAY
        return refused(f"{failed}: libvirt says {words_of(problem)!r}", why)

    def _changing(self) -> list[Lane]:
        """The connections for calls that change something."""
        return self._lanes[1:-1] if len(self._lanes) >= _LEAST_APART else self._lanes[:1]

    def _lane(self, turn: int | None) -> Lane:
        """The connection for a call; None is for one that only looks.

        A call that hangs, as those to a guest whose emulator hangs do, holds up others on its
        connection. So looking has one of its own, statistics (-1) another, and a call that changes
        something gets one that is free, if any is, beginning with that of its *turn*.
        """
        if turn is None or len(self._lanes) < _LEAST_APART:
            return self._lanes[0]
        if turn < 0:
            return self._lanes[-1]
        lanes = self._changing()
        first = turn % len(lanes)
        return min(lanes[first:] + lanes[:first], key=lambda lane: lane.busy)

    def _done(self, name: str, call: asyncio.Future[Any]) -> None:
        if self._under_way.get(name) is call:
            del self._under_way[name]

    def _on_lane(self, lane: Lane, call: Callable[[Lane], T]) -> asyncio.Future[T]:
        lane.busy += 1
        future = self._threads.submit(partial(call, lane))
        future.add_done_callback(lane.less_busy)
        return future


def _run_events() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except LibvirtError as problem:
            _log.warning("waiting for libvirt's events failed: %s", words_of(problem))
            time.sleep(_FIRST_RETRY_S)


def on_domain(name: str, act: Callable[[Any], T], lane: Lane) -> T:
    """*act* on the domain called *name*; a handle of one that is gone is found anew."""
    known = lane.handles.get(name)
    if known is not None:
        try:
            return act(known)
        except LibvirtError as problem:
            lane.handles.pop(name, None)
            if why_of(problem) is not Why.GONE:
                raise
    domain = lane.connection.lookupByName(name)
    lane.handles[name] = domain
    return act(domain)


def why_of(problem: Any) -> Why:
    return _WHY_OF_CODE.get(problem.get_error_code(), Why.OTHER)


def words_of(problem: Any) -> str:
    """What libvirt says, without what it prints of XML or an emulator's output below."""
    first, _, rest = str(problem.get_error_message() or problem).strip().partition("\n")
    if problem.get_error_code() == constant("VIR_ERR_XML_INVALID_SCHEMA") and rest:
        first = rest.replace("\n", "; ")  # the first line names the schema and not the fault
    return first[:300]


def _close(lanes: Iterable[Lane]) -> None:
    for lane in lanes:
        lane.handles.clear()
        try:
            lane.connection.close()
        except LibvirtError as problem:
            _log.debug("closing a connection failed: %s", words_of(problem))


def _close_unused(connecting: asyncio.Future[list[Lane]]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        threading.Thread(target=_close, args=(connecting.result(),), daemon=True).start()
