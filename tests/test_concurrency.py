"""Fifty clients at once: what each is told is what some order of their requests would have told."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from itertools import count
from math import ceil
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from schedulercommon.model import VmState
from schedulerlocal.adapters.journal import FileJournal
from schedulerlocal.adapters.simulatedfaults import parse_faults
from schedulerlocal.core.state import HostState, violations
from tests.history import FREE, VERBS, Request, Room, Size, Told, explain
from tests.webrig import IMAGE, TOPOLOGY, Web, running

CLIENTS = 50
ALL_S = 30.0
NAMES = tuple("abcdef")
#: Six of them fill the host more often than not.
SIZES = (
    Size(1, 1024, "1.0"),
    Size(3, 2048, "1.0"),
    Size(2, 1024, "2.0"),
    Size(3, 12_288, "2.0"),
    Size(2, 4096, "1.5"),
)
ROOM = Room(len(TOPOLOGY.ids), TOPOLOGY.memory_allowed_mib)
LOOKS = ("/status", "/v1/host", "/progress?cpu=2&mem=1&oc=2")

names = st.sampled_from(NAMES)
numbers = st.integers(0, 4)


@st.composite
def deploys(draw: st.DrawFn) -> Request:
    """Mostly what is usual for the name, so that many ask for the same."""
    name, number = draw(names), draw(numbers)
    size = SIZES[(NAMES.index(name) + (number == 4)) % len(SIZES)]
    match draw(st.integers(0, 3)):
        case 0:
            return Request("deploy", name, size, published=True)
        case 1:
            return Request("deploy", name, size, start=False)
        case _:
            return Request("deploy", name, size, request_id=f"{name}-{number}")


@st.composite
def resizes(draw: st.DrawFn) -> Request:
    vcpus, memory_mib = draw(st.sampled_from([(1, None), (4, None), (None, 512), (2, 16_384)]))
    return Request("resize", draw(names), vcpus=vcpus, memory_mib=memory_mib)


removes = st.builds(Request, st.just("remove"), names, published=st.booleans())
verbs = st.builds(Request, st.sampled_from(sorted(VERBS)), names)
cancels = st.builds(
    lambda name, number: Request("cancel", name, request_id=f"{name}-{number}"), names, numbers
)
looks = st.sampled_from(("/listvm", *LOOKS))
KINDS: tuple[st.SearchStrategy[Request | str], ...] = (
    *[deploys()] * 8,
    *[verbs] * 4,
    *[removes] * 2,
    resizes(),
    cancels,
    *[looks] * 2,
)


@st.composite
def requests(draw: st.DrawFn) -> Request | str:
    # one_of would take each kind once, however often it is named
    return draw(KINDS[draw(st.integers(0, len(KINDS) - 1))])


clients = st.lists(st.lists(requests(), min_size=1, max_size=5), min_size=CLIENTS, max_size=CLIENTS)


@st.composite
def faults(draw: st.DrawFn) -> str:
    """Some steps late, a few failing, never two in one plan: undoing one is tried elsewhere."""
    late = draw(st.sets(st.integers(1, 250), max_size=40))
    failing = draw(st.sets(st.integers(1, 4), max_size=2))
    return ",".join(
        [f"slow@{point}:0.00{draw(st.integers(1, 4))}" for point in sorted(late)]
        + [f"fail@{60 * nth}" for nth in sorted(failing)]
    )


class Crowd:
    """Clients of one host, and what they were told."""

    def __init__(self, web: Web, session: aiohttp.ClientSession) -> None:
        self.told: list[Told] = []
        self.bodies: dict[tuple[str, str], bytes] = {}
        """What was shown at a path under an ETag."""
        self.generations: list[tuple[int, int, int]] = []
        """(sent, answered, generation)."""
        self._session = session
        self._base = f"http://127.0.0.1:{web.port}"
        self._tick = count()

    async def run(self, client: list[Request | str]) -> None:
        for request in client:
            if isinstance(request, Request):
                sent = next(self._tick)
                answer = await self._ask(request)
                self.told.append(Told(request, answer, sent, next(self._tick)))
            elif request == "/listvm":
                await self._list()
            else:
                await self._look(request)

    async def finish(self) -> list[dict[str, Any]]:
        """The VMs there are once nobody asks for anything any more."""
        await self._list()
        async with self._session.get(self._base + "/v1/vms") as response:
            vms: list[dict[str, Any]] = await response.json()
        return vms

    async def _ask(self, request: Request) -> str:
        method, path, body = as_http(request)
        async with self._session.request(method, self._base + path, json=body) as response:
            document = await response.json()
            status = response.status
        if status >= 300:
            assert document["reason"]
            return str(document["code"])
        if request.kind == "deploy" and not request.published:
            assert request.size is not None
            shown = Size(document["vcpus"], document["memory_mib"], document["level"])
            assert (document["name"], shown) == (request.name, request.size)
            return "created" if status == 201 else "same"
        answers = {"cancel": "outcome", **dict.fromkeys(VERBS, "state")}
        return str(document[answers[request.kind]]) if request.kind in answers else "done"

    async def _list(self) -> None:
        sent = next(self._tick)
        async with self._session.get(self._base + "/listvm") as response:
            there = await response.json()
        answered = next(self._tick)
        assert len(there) == len(set(there)) == len(set(there) & set(NAMES))
        for name in NAMES:
            seen = "there" if name in there else FREE
            self.told.append(Told(Request("seen", name), seen, sent, answered))

    async def _look(self, path: str) -> None:
        sent = next(self._tick)
        async with self._session.get(self._base + path) as response:
            assert response.status == 200
            document, body = await response.json(), await response.read()
        if path == "/status":
            check_status(document)
        elif path == "/v1/host":
            check_host(document)
        else:
            assert isinstance(document["progress"], float)
            return
        etag = response.headers["ETag"]
        assert self.bodies.setdefault((path, etag), body) == body
        generation = int(etag.strip('"'))
        assert all(then <= generation for _, ended, then in self.generations if ended < sent)
        self.generations.append((sent, next(self._tick), generation))


def as_http(request: Request) -> tuple[str, str, dict[str, Any] | None]:
    """Method, path and body."""
    name, size = request.name, request.size
    match request.kind:
        case "deploy" if request.published:
            assert size is not None
            asked = f"cpu={size.vcpus}&mem={size.memory_mib // 1024}&oc={size.level}"
            return "GET", f"/deploy?name={name}&{asked}&qcow2={IMAGE}", None
        case "deploy":
            assert size is not None
            sizes = {"vcpus": size.vcpus, "memory_mib": size.memory_mib, "level": size.level}
            more = {"request_id": request.request_id} if request.request_id else {}
            body = {"name": name, **sizes, "image": IMAGE, "start": request.start, **more}
            return "POST", "/v1/vms", body
        case "remove":
            return (
                ("GET", f"/remove?name={name}", None)
                if request.published
                else (
                    "DELETE",
                    f"/v1/vms/{name}",
                    None,
                )
            )
        case "resize":
            asked_for = {"vcpus": request.vcpus, "memory_mib": request.memory_mib}
            body = {key: value for key, value in asked_for.items() if value}
            return "POST", f"/v1/vms/{name}/resize", body
        case "cancel":
            return "DELETE", f"/v1/requests/{request.request_id}", None
        case verb:
            return "POST", f"/v1/vms/{name}/{verb}", None


def check_status(status: dict[str, Any]) -> None:
    """It adds up, and no more is promised than there is."""
    levels = status["cpu"]["subset"]
    owned = sum(level["pcap"] for level in levels.values())
    assert status["cpu"]["avail"] + owned == ROOM.cpus
    assert status["cpu"]["avail"] >= 0
    for label, level in levels.items():
        assert level["pcap"] >= ceil(level["palloc"] / Fraction(label)) >= 1
        assert level["vavail"] == pytest.approx(level["pcap"] * float(label) - level["palloc"])
    pool = status["mem"]["subset"].get("1", {"palloc": 0})
    assert bool(levels) == bool(status["mem"]["subset"])
    assert status["mem"]["avail"] + pool["palloc"] == ROOM.memory_mib
    assert status["mem"]["avail"] >= 0


def check_host(host: dict[str, Any]) -> None:
    """Every CPU has one owner at most, and every level as many as the rule says."""
    owned = [cpu for level in host["levels"] for cpu in level["cpus"]]
    assert len(owned) == len(set(owned)) == ROOM.cpus - host["cpus"]["free"]
    for level in host["levels"]:
        size = max(ceil(level["vcpus"] / Fraction(level["level"])), level["largest_vcpus"])
        assert len(level["cpus"]) == size
        assert not set(level["lent_cpus"]) & set(owned)
    there = [name for level in host["levels"] for name in level["vms"]]
    assert len(there) == len(set(there))
    assert (host["warnings"], host["foreign"]) == ([], [])


@asynccontextmanager
async def watched(web: Web) -> AsyncIterator[None]:
    """The periodic pass, as in the service."""
    watch = asyncio.create_task(web.keeper.keep_watch(0.02))
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def crowded(crowd: list[list[Request | str]], fault: str, directory: Path) -> list[Told]:
    async with running(directory, faults=fault) as web:
        connector = aiohttp.TCPConnector(limit=CLIENTS)
        async with aiohttp.ClientSession(connector=connector) as session:
            together = Crowd(web, session)
            async with watched(web), asyncio.timeout(ALL_S):
                await asyncio.gather(*(together.run(client) for client in crowd))
            web.hypervisor.arm(parse_faults(""))
            async with web.keeper.lock:
                await web.keeper.settle()
            shown = await together.finish()
        state = web.agent.state
        await check_agreement(web, state, shown)
    check_journal(directory, state)
    explain(together.told, ROOM)
    return together.told


async def check_agreement(web: Web, state: HostState, shown: list[dict[str, Any]]) -> None:
    """State, hypervisor and what is shown tell the same."""
    assert violations(state) == []
    domains = {each.name: each for each in await web.hypervisor.domains()}
    assert sorted(domains) == sorted(vm.name for vm in state.vms())
    assert {name: each.state for name, each in domains.items()} == dict(web.agent.states)
    assert web.hypervisor.prepared == set()
    for vm in state.vms():
        found = domains[vm.name].found
        assert (found.spec, found.vcpus) == (vm.spec, vm.vcpus)
        assert found.boot_memory_mib == vm.memory_mib
        assert found.pinned == state.reach[vm.spec.runs_at]
    assert {vm["name"]: vm["state"] for vm in shown} == dict(web.agent.states)
    assert ROOM.has_for([Size(vm["vcpus"], vm["memory_mib"], vm["level"]) for vm in shown])


def check_journal(directory: Path, state: HostState) -> None:
    """What is remembered is what was there at the end."""
    journal = FileJournal(directory)
    remembered = journal.read()
    journal.close()
    owned = {level: subset.cpus for level, subset in state.subsets.items()}
    assert dict(remembered.owned) == owned
    assert remembered.begun == ()


def test_every_answer_has_an_explanation() -> None:
    told: Counter[tuple[str, str]] = Counter()

    # no shrinking: what happens at once is hardly the same twice, and the history says it all
    @settings(max_examples=60, phases=(Phase.reuse, Phase.generate))
    @given(clients, faults())
    def crowds(crowd: list[list[Request | str]], fault: str) -> None:
        with tempfile.TemporaryDirectory() as directory:
            for each in asyncio.run(crowded(crowd, fault, Path(directory))):
                told[each.request.kind, each.answer] += 1

    crowds()
    wanted = {
        "deploy": "created same done name-taken no-capacity request-cancelled",
        "remove": "done unknown-vm",
        "resize": "done unknown-vm no-capacity",
        "cancel": "cancelled",
        "seen": f"there {FREE}",
        "suspend": "suspended unknown-vm wrong-state",
    }
    pairs = {(kind, answer) for kind, answers in wanted.items() for answer in answers.split()}
    assert pairs <= set(told), f"never told: {sorted(pairs - set(told))}"


async def test_who_waited_for_a_vm_removed_since_is_told_of_its_making(tmp_path: Path) -> None:
    async with running(tmp_path, faults="slow@1:1") as web:
        first = asyncio.create_task(web.deploy("a"))
        # the disk is being made: whoever comes now waits for that
        while not web.hypervisor.points:
            await web.get("/healthz")
        removed = asyncio.create_task(web.ask("DELETE", "/v1/vms/a"))
        assert (await web.get("/listvm")).json == []
        same = asyncio.create_task(web.deploy("a"))
        answers = await asyncio.gather(first, removed, same)
        assert [answer.status for answer in answers] == [201, 200, 200]
        assert answers[2].json["name"] == "a"
        assert (await web.get("/listvm")).json == []


async def test_a_verb_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, faults="slow@4:0.2") as web:
        assert (await web.deploy("a")).status == 201
        late = asyncio.create_task(web.post("/v1/vms/a/suspend"))
        while web.hypervisor.points < 4:
            await web.get("/healthz")
        web.hypervisor.set_state("a", VmState.DOWN)
        assert (await late).refusal == (409, "wrong-state")
        (domain,) = await web.hypervisor.domains()
        assert domain.state is VmState.DOWN
