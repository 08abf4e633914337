"""Hosts that answer with what no local scheduler says: suspect, then down, and never added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clusterrig import cluster
from tests.fakehost import FakeHost, answers, fake_hosts

AWAY = (503, "host-unreachable")

GOOD: dict[str, Any] = {
    "name": "odd",
    "generation": 1,
    "cpus": {"total": 16, "free": 16},
    "memory_mib": {"total": 65_536, "free": 65_536},
    "vm_overhead_mib": 0,
    "levels": [],
}
LEVEL: dict[str, Any] = {
    "level": "1.0",
    "cpus": [0],
    "vcpus": 1,
    "largest_vcpus": 1,
    "vms": ["vm"],
}
ODD: dict[str, dict[str, Any]] = {
    "a list as generation": {**GOOD, "generation": [1]},
    "an object as generation": {**GOOD, "generation": {"of": 1}},
    "a text as generation": {**GOOD, "generation": "new"},
    "no generation": {key: value for key, value in GOOD.items() if key != "generation"},
    "null as generation": {**GOOD, "generation": None},
    "a truth as generation": {**GOOD, "generation": True},
    "part of a generation": {**GOOD, "generation": 1.5},
    "a negative generation": {**GOOD, "generation": -1},
    "an endless generation": {**GOOD, "generation": 10**400},
    "infinity as generation": {**GOOD, "generation": float("inf")},
    "nothing that is a number": {**GOOD, "generation": float("nan")},
    "a list as name": {**GOOD, "name": ["odd"]},
    "a line break in the name": {**GOOD, "name": "odd\n"},
    "levels by name": {**GOOD, "levels": {"1.0": LEVEL}},
    "levels in levels": {**GOOD, "levels": [[LEVEL]]},
    "a level of zero": {**GOOD, "levels": [{**LEVEL, "level": "0"}]},
    "a level by zero": {**GOOD, "levels": [{**LEVEL, "level": "1/0"}]},
    "an endless level": {**GOOD, "levels": [{**LEVEL, "level": "9" * 5_000}]},
    "a level of null": {**GOOD, "levels": [{**LEVEL, "level": None}]},
    "CPUs counted": {**GOOD, "levels": [{**LEVEL, "cpus": 1}]},
    "VMs counted": {**GOOD, "levels": [{**LEVEL, "vms": 1}]},
    "VMs that are objects": {**GOOD, "levels": [{**LEVEL, "vms": [{"name": "vm"}]}]},
    "VMs that are lists": {**GOOD, "levels": [{**LEVEL, "vms": [["vm"]]}]},
    "a VM that is null": {**GOOD, "levels": [{**LEVEL, "vms": [None]}]},
    "too many VMs": {**GOOD, "levels": [{**LEVEL, "vms": [f"{n}" for n in range(8_193)]}]},
    "memory of more than there is": {**GOOD, "memory_mib": {"total": 1 << 40, "free": 0}},
    "an overhead less than none": {**GOOD, "vm_overhead_mib": -1},
}


async def test_hosts_that_answer_oddly_are_suspect_then_down(tmp_path: Path) -> None:
    hosts = {what: FakeHost(f"h{number}") for number, what in enumerate(ODD)}
    async with fake_hosts(*hosts.values()) as urls, cluster(tmp_path, *urls) as web:
        for host in hosts.values():
            assert (await web.on(host.name, f"on-{host.name}")).status == 201
        for what, host in hosts.items():
            document = ODD[what]
            named = {**document, "name": host.name} if document["name"] == "odd" else document
            host.manners["look"] = answers(200, named)
        for what, host in hosts.items():
            shown = await web.turns(host.name, state="down")
            assert "makes no sense" in shown["problem"], what
            assert web.told("host", host=host.name, state="suspect"), what
        assert {vm["status"] for vm in await web.document("/v1/vms")} == {"placed"}
        for host in hosts.values():
            host.manners.clear()
        for host in hosts.values():
            await web.turns(host.name, state="up", problem=None)
        assert {vm["status"] for vm in await web.document("/v1/vms")} == {"placed"}
        assert not web.told("lost")


@pytest.mark.parametrize("what", ODD)
async def test_a_host_that_answers_oddly_is_not_added(tmp_path: Path, what: str) -> None:
    odd = FakeHost("odd")
    odd.manners["look"] = answers(200, ODD[what])
    async with fake_hosts(odd) as (url,), cluster(tmp_path) as web:
        refused = await web.post("/v1/hosts", {"url": url})
        assert refused.refusal == AWAY
        assert "makes no sense" in refused.json["reason"]
        assert await web.addresses() == []
