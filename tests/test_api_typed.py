"""The typed routes: what goes in, what comes out, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schedulercommon.levels import PREMIUM
from schedulercommon.model import VmSpec
from schedulerlocal.core.adoption import FoundVm
from tests.webrig import IMAGE, PLAIN, Web, running


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with running(tmp_path) as running_web:
        yield running_web


async def test_a_vm_goes_in_and_comes_out(web: Web) -> None:
    made = await web.deploy("one", labels={"team": "a", "cost/centre": "7"})
    assert made.status == 201
    assert made.json == {
        "name": "one",
        "level": "2.0",
        "runs_at": "2.0",
        "vcpus": 2,
        "memory_mib": 1024,
        "image": IMAGE,
        "state": "running",
        "pinned_cpus": list(range(8)),
        "memory_nodes": [0],
        "labels": {"cost/centre": "7", "team": "a"},
        "owner": "",
    }
    assert (await web.get("/v1/vms/one")).json == made.json
    assert (await web.get("/v1/vms")).json == [made.json]
    again = await web.deploy("one")
    assert (again.status, again.json) == (200, made.json)
    gone = await web.ask("DELETE", "/v1/vms/one")
    assert (gone.status, gone.json) == (200, {"success": True, "reason": None})
    assert (await web.get("/v1/vms/one")).refusal == (404, "unknown-vm")


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"vcpus": 3}, (409, "name-taken")),
        ({"memory_mib": 1025}, (409, "name-taken")),
        ({"level": "1.5"}, (409, "name-taken")),
        ({"image": IMAGE + "2"}, (409, "name-taken")),
        ({"name": "two", "vcpus": 9}, (409, "no-capacity")),
        ({"name": "two", "memory_mib": 10**6}, (409, "no-capacity")),
    ],
)
async def test_what_is_taken_or_does_not_fit(
    web: Web, changed: dict[str, object], refusal: tuple[int, str]
) -> None:
    await web.deploy("one")
    before = await web.status()
    answer = await web.post("/v1/vms", {**PLAIN, **changed})
    assert answer.refusal == refusal
    assert await web.status() == before


@pytest.mark.parametrize(
    ("level", "label"),
    [(2, "2.0"), (1.5, "1.5"), (1.1, "1.1"), ("4/3", "4/3"), ("1.10", "1.1"), (1, "1.0")],
)
async def test_levels_are_exact_whatever_they_are_written_as(
    web: Web, level: object, label: str
) -> None:
    assert (await web.deploy("one", level=level)).json["level"] == label


async def test_the_host_in_full(web: Web) -> None:
    await web.deploy("one")
    await web.deploy("first", level=1, vcpus=1)
    host = (await web.get("/v1/host")).json
    assert host["generation"] == web.agent.state.generation
    del host["generation"]
    own = web.agent.state.subsets
    levels = host.pop("levels")
    assert host == {
        "name": "here",
        "smt_isolation": False,
        "cpus": {"total": 8, "free": 5},
        "memory_mib": {"total": 31776, "free": 29728},
        "vm_overhead_mib": 0,
        "foreign": [],
        "warnings": [],
    }
    assert [level["level"] for level in levels] == ["1.0", "2.0"]
    premium, shared = levels
    assert (premium["vcpus"], premium["largest_vcpus"], premium["vms"]) == (1, 1, ["first"])
    assert premium["lent_cpus"] == []
    assert shared["cpus"] == sorted(own[2].cpus)
    assert sorted(shared["cpus"] + shared["lent_cpus"]) == list(web.agent.state.reach[2])


async def test_a_vm_may_wait_to_be_started(web: Web) -> None:
    assert (await web.deploy("one", start=False)).json["state"] == "down"
    seen = []
    for verb in ("start", "suspend", "resume", "reboot", "shutdown"):
        answer = await web.post(f"/v1/vms/one/{verb}")
        assert answer.status == 200, answer.body
        seen.append(answer.json["state"])
        assert (await web.get("/v1/vms/one")).json == answer.json
    assert seen == ["running", "suspended", "running", "running", "down"]
    assert (await web.post("/v1/vms/one/shutdown")).refusal == (409, "wrong-state")


async def test_only_force_shuts_a_suspended_vm_down(web: Web) -> None:
    await web.deploy("one")
    await web.post("/v1/vms/one/suspend")
    assert (await web.post("/v1/vms/one/shutdown", {})).refusal == (409, "wrong-state")
    assert (await web.post("/v1/vms/one/shutdown", {"force": True})).json["state"] == "down"


async def test_a_resize_says_when_it_counts(web: Web) -> None:
    await web.deploy("one", max_vcpus=4)
    answer = await web.post("/v1/vms/one/resize", {"vcpus": 3, "memory_mib": 2048})
    assert answer.status == 200
    assert answer.json["takes_effect"] == {"vcpus": "live", "memory_mib": "next-boot"}
    assert (answer.json["vcpus"], answer.json["memory_mib"]) == (3, 2048)
    same = await web.post("/v1/vms/one/resize", {"vcpus": 3})
    assert same.json["takes_effect"] == {"vcpus": "unchanged", "memory_mib": "unchanged"}
    assert (await web.post("/v1/vms/one/resize", {"vcpus": 9})).refusal == (409, "no-capacity")


async def test_a_vm_found_is_shown_and_adopted(web: Web) -> None:
    await web.deploy("one")
    spec = VmSpec(name="found one", vcpus=1, memory_mib=512, level=PREMIUM)
    web.hypervisor.gain(FoundVm(spec=spec, vcpus=1, boot_memory_mib=512, foreign=True))
    async with web.keeper.lock:
        await web.keeper.settle()
    path = "/v1/vms/found%20one"
    host = (await web.get("/v1/host")).json
    assert (host["foreign"], len(host["warnings"]) > 0) == (["found one"], True)
    assert (await web.get(path)).json["pinned_cpus"] == []
    assert sorted((await web.get("/listvm")).json) == ["found one", "one"]
    assert (await web.ask("DELETE", path)).refusal == (409, "wrong-state")
    assert (await web.get("/remove?name=found+one")).refusal == (409, "wrong-state")
    adopted = await web.post(f"{path}/adopt", {"level": 1, "labels": {"a": "b"}, "owner": "me"})
    assert adopted.status == 200, adopted.body
    assert (adopted.json["owner"], adopted.json["labels"]) == ("me", {"a": "b"})
    assert (await web.get("/v1/host")).json["foreign"] == []
    assert (await web.ask("DELETE", path)).status == 200


async def test_requests_are_cancelled_by_their_id(web: Web) -> None:
    await web.deploy("one", request_id="r1")
    outcomes = {}
    for request_id in ("r1", "r2"):
        answer = await web.ask("DELETE", f"/v1/requests/{request_id}")
        assert answer.status == 200
        outcomes[answer.json["request_id"]] = answer.json["outcome"]
    assert outcomes == {"r1": "deployed", "r2": "cancelled"}
    assert (await web.deploy("two", request_id="r2")).refusal == (409, "request-cancelled")
    assert (await web.get("/listvm")).json == ["one"]


async def test_host_may_be_named(web: Web) -> None:
    assert (await web.deploy("one", host="here")).status == 201


class Listener:
    """A client of ``/v1/events``."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def next(self) -> tuple[int, str, Any]:
        async with asyncio.timeout(20):
            lines = (await self._reader.readuntil(b"\n\n")).decode().splitlines()
            fields = dict(line.split(": ", 1) for line in lines if line.strip(":"))
            if not fields:
                return await self.next()
            return int(fields["id"]), fields["event"], json.loads(fields["data"])


async def listen(web: Web, *headers: str) -> tuple[Listener, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    head = "\r\n".join(["GET /v1/events HTTP/1.0", "Host: 127.0.0.1", *headers])
    writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200")
    assert b"text/event-stream" in answer
    await reader.readuntil(b"\n\n")
    return Listener(reader), writer


async def test_events_are_told_as_they_happen_and_again_from_an_id(web: Web) -> None:
    listener, writer = await listen(web)
    await web.deploy("one")
    await web.get("/remove?name=one")
    first, second = await listener.next(), await listener.next()
    assert [(event[1], event[2]["vm"]) for event in (first, second)] == [
        ("deployed", "one"),
        ("removed", "one"),
    ]
    assert first[0] < second[0]
    assert first[2]["time_s"] == 1000.0
    writer.close()
    later, writer = await listen(web, f"Last-Event-ID: {first[0]}")
    assert await later.next() == second
    writer.close()


@pytest.mark.parametrize("given", ["x", "-1", "1.5", "9" * 19, "٣"])
async def test_a_wrong_event_id_is_refused(web: Web, given: str) -> None:
    answer = await web.get("/v1/events", {"Last-Event-ID": given})
    assert answer.refusal == (400, "bad-request")


async def test_listeners_do_not_hold_the_service_up(tmp_path: Path) -> None:
    async with asyncio.timeout(20):
        async with running(tmp_path) as web:
            listeners = [await listen(web) for _ in range(64)]
            assert (await web.get("/v1/events")).refusal == (503, "overloaded")
        for _, writer in listeners:
            writer.close()
