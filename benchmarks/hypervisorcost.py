"""Our own CPU time for a deploy and for a removal on a host with 200 VMs, libvirt's put aside.

Requests come over HTTP from a process of its own, one after another. All CPU time of this process
from one answer to the next counts, but for having that process ask. Taken off is what the same
calls to libvirt, and starting the same ``qemu-img``, cost without us (see
:mod:`benchmarks.alone`), measured in turns with it. The VM's level grows and shrinks again, once as
with cgroup v2, where that is one write (to plain files here), once as without, where all its VMs
are pinned anew.

All of it stays on one CPU, the client on another. The bound is for rounds nobody disturbed
(:mod:`benchmarks.undisturbed`): medians of those, less each other. What came out of all rounds is
told beside, and on how many it rests.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import IO, Any, cast

from benchmarks import Figure, Progress
from benchmarks.alone import Bare, BareStart, Call, Laps, Tape, overlay_command
from benchmarks.hypervisorplace import MEMORY_MIB, THERE, TOPOLOGY, Place
from benchmarks.processes import apart
from benchmarks.undisturbed import ENOUGH, LEAST, Mark, Probe, Round, Rounds
from schedulercommon.levels import parse_level
from schedulercommon.model import VmSpec
from schedulerlocal.adapters.api import create_app, serve
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.agent import HostAgent
from schedulerlocal.config import LibvirtSettings, ServiceSettings
from schedulerlocal.core.host import Host
from schedulerlocal.keeper import HostKeeper
from schedulerprocess.collector import calm_collector

EXTRA = ((1, "1"), (1, "3"), (2, "2"))
VMS = 200
ROUNDS, MOST_TURNS = 10, 40
BOUND_MS = 3

_PATIENCE_S = 30.0
_QUIET_S = 0.1  # longer than events are left to gather
_DISK_BYTES = 64 << 20

# Reads "METHOD PATH BODY", sends it and says when it is answered.
_CLIENT = r"""
import http.client, sys

connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
for line in sys.stdin:
    method, path, body = line.rstrip("\n").split(" ", 2)
    connection.request(method, path, body or None, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    assert response.status in (200, 201), (line, answer)
    sys.stdout.write(".")
    sys.stdout.flush()
"""


Size = tuple[int, str, str]
"""vCPUs, level and kind of disk."""


class Spent:
    """Milliseconds of CPU of one kind of request."""

    def __init__(self, probe: Probe) -> None:
        self.whole = Rounds(probe)
        self.calls = Rounds(probe)
        """What the same calls to libvirt cost alone."""
        self.starting = Rounds(probe)
        self.not_starting = Rounds(probe)
        """With ``qemu-img`` started for nothing, and without it."""

    def figures(self, about: str) -> list[Figure]:
        # where next to none were undisturbed, all parts are of all rounds
        told = Rounds.median if self._has(LEAST) else Rounds.median_of_all
        own, whole, alone = self._parts(told)
        own_of_all, *_ = self._parts(Rounds.median_of_all)
        return [
            Figure(f"{about}: our own", own, "ms", BOUND_MS),
            Figure(f"{about}: all", whole, "ms"),
            Figure(f"{about}: the calls alone", alone, "ms"),
            Figure(f"{about}: our own, disturbed rounds too", own_of_all, "ms"),
            Figure(
                f"{about}: rounds undisturbed", len(self.whole.undisturbed), f"of {len(self.whole)}"
            ),
        ]

    @property
    def is_enough(self) -> bool:
        return self._has(ENOUGH)

    def _has(self, undisturbed: int) -> bool:
        parts = self.whole, self.calls, self.starting, self.not_starting
        return all(len(each.undisturbed) >= undisturbed for each in parts if len(each))

    def _parts(self, median: Callable[[Rounds], float]) -> tuple[float, float, float]:
        """Our own, all, and the calls alone."""
        whole, alone = median(self.whole), median(self.calls)
        if len(self.starting):
            alone += median(self.starting) - median(self.not_starting)
        return whole - alone, whole, alone


@dataclass(frozen=True, slots=True)
class _Rig:
    """A service on a host that has its VMs."""

    place: Place
    agent: HostAgent
    client: subprocess.Popen[bytes]
    clock: Laps
    probe: Probe
    storage: BareStart

    async def ask(self, method: str, path: str, body: str = "") -> Round:
        """Milliseconds of CPU since the one before was answered, less what asking takes."""
        before = self.probe.last
        begun_ns = time.thread_time_ns()
        answered = asyncio.get_running_loop().create_future()
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        answers = self.client.stdout.fileno()
        asyncio.get_running_loop().add_reader(answers, answered.set_result, None)
        os.write(self.client.stdin.fileno(), f"{method} {path} {body}\n".encode())
        asking_ns = time.thread_time_ns() - begun_ns
        await answered
        begun_ns = time.thread_time_ns()
        asyncio.get_running_loop().remove_reader(answers)
        if os.read(answers, 1) != b".":
            raise RuntimeError("the client was refused; its complaint is above")
        after = self.probe.work()
        asking_ns += time.thread_time_ns() - begun_ns
        return Round(self.clock.lap_ms() - asking_ns / 1e6, (before, after))

    async def deploy(self, vcpus: int, level: str, disk: str) -> Round:
        return await self.ask("POST", "/v1/vms", _body(self.place, vcpus, level, disk))

    async def remove(self) -> Round:
        return await self.ask("DELETE", "/v1/vms/extra")


async def costs(
    place: Callable[[], Place], progress: Progress, probe: Probe, *, pins: bool
) -> dict[str, Spent]:
    """What deploys and removals of some sizes took; each *place* is a new one."""
    tape = Tape()
    calls = {}
    async with _rig(place(), progress, probe, pins=pins, opener=tape.open) as rig:
        xmls = _xmls(tape)
        for disk in ("overlay", "in-place"):
            for vcpus, level in EXTRA:
                for _ in range(2):  # what is there only the first time does not count
                    tape.take()
                    await rig.deploy(vcpus, level, disk)
                    deploy = tape.take()
                    await rig.remove()
                    calls[disk, vcpus, level] = deploy, tape.take()
    spent: dict[str, Spent] = {}
    here = place()
    async with _rig(here, progress, probe, pins=pins) as rig:
        bare = Bare(here.url, xmls, probe, rig.clock)
        for disk in ("overlay", "in-place"):
            for vcpus, level in EXTRA:
                progress(f"deploying and removing, {disk}, {vcpus} vCPUs at {level}")
                deploy, remove = calls[disk, vcpus, level]
                about = f"{disk}, level {level}:1"
                if pins:
                    about += f", {_pinned(deploy)} VMs pinned"
                deploys, removes = await _rounds(rig, bare, (vcpus, level, disk), deploy, remove)
                spent |= {f"a deploy, {about}": deploys, f"a removal, {about}": removes}
        bare.close()
    return spent


async def _rounds(
    rig: _Rig, bare: Bare, size: Size, deploy: Sequence[Call], remove: Sequence[Call]
) -> tuple[Spent, Spent]:
    deploys, removes = Spent(rig.probe), Spent(rig.probe)
    same = _Same(rig.probe, bare, deploy, remove)
    for _ in range(MOST_TURNS):
        await asyncio.sleep(_QUIET_S)
        for number in range(1 + ROUNDS):
            # at once, so that the calls alone find caches, and a machine, as those of ours do
            made, removed = await rig.deploy(*size), await rig.remove()
            bare_made, bare_removed, beside = same.calls()
            if number:  # caches are warm
                deploys.whole.append(made, beside)
                removes.whole.append(removed, beside)
                deploys.calls.append(bare_made, beside)
                removes.calls.append(bare_removed, beside)
        if size[2] == "overlay":
            await _start(rig, size, deploys, same)
        if deploys.is_enough and removes.is_enough:
            break
    return deploys, removes


@dataclass(frozen=True, slots=True)
class _Same:
    """The calls of a deploy and of a removal alone: they too are work that is always the same."""

    probe: Probe
    bare: Bare
    deploy: Sequence[Call]
    remove: Sequence[Call]

    def calls(self) -> tuple[Round, Round, Mark]:
        made, removed = self.bare.cost(self.deploy), self.bare.cost(self.remove)
        kind = f"{len(self.deploy)} calls"
        return made, removed, self.probe.note(kind, made.measured + removed.measured)


async def _start(rig: _Rig, size: Size, spent: Spent, same: _Same) -> None:
    """Start ``qemu-img`` beside requests that need none, but are otherwise alike."""
    vcpus, level, _ = size
    image, overlay = rig.place.image("extra"), rig.place.directory / "bare.qcow2"
    command = overlay_command(Path(image), overlay, _DISK_BYTES)
    for number in range(1 + ROUNDS):
        for started, rounds in (([], spent.not_starting), (command, spent.starting)):
            rig.storage.command = started
            made = await rig.deploy(vcpus, level, "in-place")
            await rig.remove()
            *_, beside = same.calls()
            if number:
                rounds.append(made, beside)
    rig.storage.command = []


@cache  # made in the middle of a request it would count as ours
def _body(place: Place, vcpus: int, level: str, disk: str) -> str:
    about = {"name": "extra", "vcpus": vcpus, "memory_mib": MEMORY_MIB, "level": level}
    return json.dumps({**about, "image": place.image("extra"), "disk": disk})


def _pinned(calls: Sequence[Call]) -> int:
    return len({call.domain for call in calls if call.method.startswith("pin")})


def _xmls(tape: Tape) -> list[str]:
    """The domains that were defined."""
    return [call.args[0] for call in tape.take() if call.method == "defineXML"]


@asynccontextmanager
async def _rig(
    place: Place,
    progress: Progress,
    probe: Probe,
    *,
    pins: bool,
    opener: Callable[[str], Any] | None = None,
) -> AsyncIterator[_Rig]:
    names = [f"vm{number}" for number in range(VMS)]
    place.images(["extra", *names])
    agent, keeper, storage = await _started(place, pins=pins, opener=opener)
    watch = asyncio.create_task(keeper.keep_watch(_PATIENCE_S * VMS))
    for number, name in enumerate(names):
        progress(f"filling a host, VM {number} of {VMS}")
        await agent.deploy(_spec(place, name, *THERE[number % len(THERE)]))
        probe.work()  # now and then, so that what it takes undisturbed is known early
    runner = await serve(create_app(agent, ServiceSettings(name="here")), "127.0.0.1", 0)
    calm_collector()
    with apart(scheduler=False):
        client = _client(runner.addresses[0][1])
    try:
        yield _Rig(place, agent, client, Laps(), probe, storage)
    finally:
        client.kill()
        client.wait()
        for stream in (client.stdin, client.stdout):
            _close(stream)
        watch.cancel()
        await runner.cleanup()
        await agent.close()


def _client(port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _CLIENT, str(port)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        stream.close()


async def _started(
    place: Place, *, pins: bool, opener: Callable[[str], Any] | None
) -> tuple[HostAgent, HostKeeper, BareStart]:
    """An agent that is ready, with what it stands on."""
    from schedulerlocal.adapters.hypervisor import LibvirtHypervisor, Surroundings
    from schedulerlocal.adapters.libvirt import Connections
    from schedulerlocal.adapters.libvirtlink import LibvirtLink
    from schedulerlocal.adapters.storage import Storage

    host = Host(read_topology(TOPOLOGY))
    link = LibvirtLink(Connections(place.url, rng=Random(1), opener=opener))
    storage = BareStart(
        Storage(
            image_dirs=[place.directory / "images"],
            disk_dir=place.directory,
            notes_dir=place.directory / "notes",
            host_name="here",
        )
    )
    around = Surroundings(
        state_dir=place.directory / "state",
        boot_id="",
        host_cpus=(),
        call_timeout_s=_PATIENCE_S,
        now_s=lambda: 0.0,  # so that nobody reads all of it again meanwhile
        wall_s=time.time,
        rng=Random(1),
        partitions=None if pins else place.partitions(),
    )
    settings = LibvirtSettings(kind="qemu", network="none")
    hypervisor = LibvirtHypervisor(host, link, cast("Storage", storage), settings, around)
    journal = FileJournal(place.directory / "journal")
    keeper = HostKeeper(host, hypervisor, journal, now_s=time.time)
    await keeper.start()
    return HostAgent("here", keeper), keeper, storage


def _spec(place: Place, name: str, vcpus: int, level: str) -> VmSpec:
    return VmSpec(
        name=name,
        vcpus=vcpus,
        memory_mib=MEMORY_MIB,
        level=parse_level(level),
        image=place.image(name),
        disk="in-place",
    )
