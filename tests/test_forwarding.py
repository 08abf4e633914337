"""Asking a global scheduler that does not lead: it reads by itself and passes changes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clusterrig import BRIEF, SETTINGS, Member, cluster, member, members, until
from tests.fakehost import FakeHost, Held, dies, fake_hosts
from tests.pgproxy import wire
from tests.postgres import Postgres
from tests.webrig import IMAGE, PLAIN, Answer

ONCE = {"VMStack-Forwarded": "1"}
REDIRECT = {"VMStack-Redirect": "1"}
DEPLOY = f"/deploy?name=vm&cpu=1&mem=1&oc=1&qcow2={IMAGE}"


@asynccontextmanager
async def pair(postgres: Postgres, *hosts: FakeHost) -> AsyncIterator[list[Member]]:
    """One that leads and one that follows."""
    url = await asyncio.to_thread(postgres.database)
    async with fake_hosts(*hosts) as urls, members(url, 2, *urls) as both:
        yield both


async def test_what_is_changed_through_one_that_follows_is_there_at_once(
    postgres: Postgres,
) -> None:
    host = FakeHost("a")
    async with pair(postgres, host) as (leader, other):
        answer = await other.deploy("one", labels={"app": "db"}, request_id="mine")
        assert (answer.status, answer.json.get("host")) == (201, "a"), answer.body
        for each in (other, leader):
            assert (await each.vm("one"))["status"] == "placed"
            assert await each.document("/listvm") == {"one": "a"}
        assert (await other.deploy("one", labels={"app": "db"})).status == 200
        assert (await other.deploy("one", vcpus=3)).refusal == (409, "name-taken")
        assert (await other.remove("one")).status == 200
        assert (await other.get("/v1/vms/one")).refusal == (404, "unknown-vm")
        assert not host.vms
        assert (host.times_asked("deploy"), host.times_asked("remove")) == (1, 1)


async def test_the_published_routes_are_passed_on(postgres: Postgres) -> None:
    async with pair(postgres, FakeHost("a")) as (_, other):
        assert (await other.get(DEPLOY)).json == {"success": True, "reason": None}
        assert await other.document("/listvm") == {"vm": "a"}
        assert (await other.get("/remove?name=vm")).json == {"success": True, "reason": None}
        assert (await other.get("/remove?name=vm")).refusal == (404, "unknown-vm")
        assert (await other.get("/deploy?name=vm")).refusal == (400, "bad-request")


@pytest.mark.parametrize(
    ("method", "target", "document"),
    [
        ("POST", "/v1/vms", PLAIN),
        ("DELETE", "/v1/vms/one", None),
        ("POST", "/v1/vms/one/start", {}),
        ("POST", "/v1/hosts/a/drain", None),
        ("GET", "/remove?name=one", None),
        ("GET", DEPLOY, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_who_would_rather_ask_the_leader_is_sent_there(
    postgres: Postgres, method: str, target: str, document: object
) -> None:
    host = FakeHost("a")
    async with pair(postgres, host) as (leader, other):
        answer = await other.ask(method, target, document, headers=REDIRECT)
        assert answer.status == 307
        assert answer.headers["location"] == leader.url + target
        assert not host.vms
        # the one that leads sends nobody anywhere
        assert (await leader.ask(method, target, document, headers=REDIRECT)).status != 307


async def test_what_was_passed_on_once_is_not_again(postgres: Postgres) -> None:
    host = FakeHost("a")
    async with pair(postgres, host) as (leader, other):
        answer = await other.post("/v1/vms", PLAIN, headers=ONCE)
        assert answer.refusal == (503, "not-leader")
        assert leader.url in answer.json["reason"]
        assert host.times_asked("deploy") == 0
        assert (await leader.post("/v1/vms", PLAIN, headers=ONCE)).status == 201


async def test_reading_needs_no_leader(postgres: Postgres) -> None:
    async with pair(postgres, FakeHost("a")) as (leader, other):
        await leader.deploy("one")
        await leader.stop_campaigning()
        await until(lambda: knows(other, "one"))
        for target in (
            *("/", "/status", "/listvm", "/v1/vms", "/v1/vms/one", "/v1/hosts", "/v1/hosts/a"),
            *("/v1/capacity?cpu=1&mem=1&oc=1", "/metrics", "/healthz", "/readyz", "/v1/leader"),
        ):
            assert (await other.get(target)).status == 200, target
        explained = await other.post("/v1/vms?dry_run=1", {**PLAIN, "name": "two"})
        assert explained.json["host"] == "a"


async def knows(web: Member, name: str) -> bool:
    return (await web.get(f"/v1/vms/{name}")).status == 200


async def test_who_leads_is_told(postgres: Postgres) -> None:
    async with pair(postgres) as (leader, other):
        told = await leader.document("/v1/leader")
        epoch = told.pop("epoch")
        assert epoch > 0
        told_by_both = {"cluster": "test", "shared": True, "url": leader.url}
        assert told == {**told_by_both, "leading": True}
        about = {**told_by_both, "leading": False, "epoch": epoch}
        assert await other.document("/v1/leader") == about
        assert (await leader.get("/v1/leader?self=1")).status == 200
        assert (await other.get("/v1/leader?self=1")).refusal == (503, "not-leader")
        assert (await other.get("/v1/leader?self=yes")).refusal == (400, "bad-request")
        assert (await other.get("/readyz")).status == 200


@pytest.mark.parametrize("name", ["", "rack1"], ids=["no name", "named"])
async def test_one_that_leads_alone_names_its_cluster(tmp_path: Path, name: str) -> None:
    async with cluster(tmp_path, settings=replace(SETTINGS, cluster=name)) as web:
        told = await web.document("/v1/leader")
        assert told == {"cluster": name, "leading": True, "shared": False, "url": "", "epoch": 0}


async def test_a_request_in_a_proxys_form_is_passed_on_like_any(postgres: Postgres) -> None:
    async with pair(postgres, FakeHost("a")) as (_, other):
        head = f"GET http://elsewhere.example{DEPLOY} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        answer = await other.say(head.encode())
        assert (answer.status, answer.json["success"]) == (200, True)
        assert await other.document("/listvm") == {"vm": "a"}


async def test_a_leader_that_refuses_connections(postgres: Postgres) -> None:
    url = await asyncio.to_thread(postgres.database)
    async with fake_hosts(FakeHost("a")) as urls, member(url, *urls) as other:
        await until(other.leads)
        async with wire(url) as (_, over):
            gone = "http://127.0.0.1:1"  # nobody
            await asyncio.to_thread(
                postgres.run,
                over,
                "UPDATE vmstack.lease SET url = 'http://127.0.0.1:1', epoch = epoch + 1,"
                " holder = 'other', until = clock_timestamp() + interval '1 hour'",
            )
        assert (await other.deploy("early")).status == 503

        async def known() -> bool:
            return other.office.leader.url == gone

        await until(known)
        answer = await other.deploy("one")
        assert answer.refusal == (503, "not-leader")
        assert gone in answer.json["reason"]


async def test_who_waits_for_a_leader_that_is_no_more_is_told(postgres: Postgres) -> None:
    """It neither answers nor hangs up: it is stopped, or away."""
    url = await asyncio.to_thread(postgres.database)
    host, held = FakeHost("a"), Held()
    async with (
        fake_hosts(host) as urls,
        member(url, *urls, settings=BRIEF) as leader,
        member(url, *urls, settings=BRIEF) as other,
    ):
        await until(leader.leads)
        await other.follows(leader)
        host.manners["deploy"] = held
        passed_on = asyncio.create_task(other.deploy("one"))
        await held.reached.wait()
        await leader.stop_campaigning()
        answer = await passed_on
        assert (answer.status, answer.json["code"]) == (503, "host-unreachable")
        assert answer.json["outcome"] == "unknown"
        await until(other.leads)
        host.manners.clear()
        held.let_go.set()
        assert (await until(lambda: done(other, "one"))).status in (200, 201)
        assert list(host.vms) == ["one"]
        assert len(host.deployed) == 1 or host.times_asked("cancel")


async def done(web: Member, name: str) -> Answer | None:
    answer = await web.deploy(name)
    return answer if answer.status < 300 else None


async def test_a_host_that_dies_over_a_change_that_was_passed_on(postgres: Postgres) -> None:
    host = FakeHost("a")
    async with pair(postgres, host) as (leader, other):
        host.manners["deploy"] = dies
        answer = await other.deploy("one")
        assert (answer.status, answer.json["code"]) == (503, "host-unreachable")
        assert answer.json["outcome"] == "unknown"
        assert (await leader.vm("one"))["status"] == "unknown"
