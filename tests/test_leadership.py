"""Several global schedulers on one PostgreSQL: one leads, another takes over, nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from signal import SIGQUIT
from typing import Any

import asyncpg
import pytest

from schedulercommon.model import VmSpec
from schedulerglobal.core.outcomes import Reply
from schedulerglobal.ports import HostClient, Site
from tests.clusterrig import BRIEF, PATIENCE_S, SHARED, Member, member, members, until
from tests.fakehost import FakeHost, Held, fake_hosts, hangs
from tests.pgproxy import wire
from tests.postgres import Postgres, postgres_server
from tests.webrig import PLAIN, Answer, running

LEASE_S = BRIEF.lease_s
AT_ONCE_S = 1.0
"""What takes no time, on a machine that is busy with something else."""


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """One that may be stopped, as long as it is started again."""
    with postgres_server() as server:
        yield server


async def empty(postgres: Postgres) -> str:
    return await asyncio.to_thread(postgres.database)


async def deployed(web: Member, name: str, **more: object) -> Answer:
    """The answer to a deploy that is repeated until it is done."""

    async def done() -> Answer | None:
        answer = await web.deploy(name, **more)
        assert answer.status < 300 or answer.status == 503, answer.body
        return answer if answer.status < 300 else None

    return await until(done)


async def refused(web: Member, name: str) -> tuple[int, str]:
    """How a deploy is answered that is not done."""
    answer = await web.deploy(name)
    assert answer.json["success"] is False
    return answer.status, answer.json["code"]


async def test_one_of_three_leads_and_the_others_know(postgres: Postgres) -> None:
    url = await empty(postgres)
    hosts = [FakeHost("a"), FakeHost("b")]
    async with fake_hosts(*hosts) as urls, members(url, 3, *urls) as those:
        assert [each.office.held for each in those] == [True, False, False]
        told = [await each.document("/v1/leader") for each in those]
        assert len({(each["url"], each["epoch"]) for each in told}) == 1
        names = [f"vm-{number}" for number in range(12)]
        answers = await asyncio.gather(
            *[those[number % 3].deploy(name) for number, name in enumerate(names)]
        )
        assert [answer.status for answer in answers] == [201] * 12
        for each in those:
            await until(lambda each=each: lists(each, *names))
        assert len(hosts[0].vms) + len(hosts[1].vms) == 12


async def lists(web: Member, *names: str) -> bool:
    return sorted(await web.document("/listvm")) == sorted(names)


async def test_an_orderly_end_hands_over_at_once(postgres: Postgres) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with fake_hosts(host) as urls, AsyncExitStack() as first:
        leader = await first.enter_async_context(member(url, *urls))
        await until(leader.leads)
        async with member(url, *urls) as other:
            await other.follows(leader)
            epoch = other.office.leader.epoch
            assert (await leader.deploy("one")).status == 201
            begun_s = time.monotonic()
            await first.aclose()
            await until(other.leads, AT_ONCE_S)
            assert time.monotonic() - begun_s < AT_ONCE_S < SHARED.lease_s
            assert other.office.leader.epoch > epoch
            assert (await other.vm("one"))["status"] == "placed"
            assert (await other.deploy("one")).status == 200
            assert (await other.deploy("two")).status == 201
        assert sorted(host.vms) == ["one", "two"]


async def test_what_is_under_way_is_finished_before_the_lead_is_given_up(
    postgres: Postgres,
) -> None:
    url = await empty(postgres)
    host, held = FakeHost("a"), Held()
    async with fake_hosts(host) as urls, AsyncExitStack() as first:
        leader = await first.enter_async_context(member(url, *urls))
        await until(leader.leads)
        async with member(url, *urls) as other:
            await other.follows(leader)
            host.manners["deploy"] = held
            deploy = asyncio.create_task(leader.deploy("one"))
            await held.reached.wait()
            ending = asyncio.create_task(first.aclose())
            await until(lambda: refuses_connections(leader))
            assert not other.office.held
            held.let_go.set()
            assert (await deploy).status == 201
            await ending
            await until(other.leads, AT_ONCE_S)
            assert (await other.vm("one"))["status"] == "placed"


async def refuses_connections(web: Member) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    except OSError:
        return True
    writer.close()
    return False


async def test_another_takes_over_from_a_leader_that_is_cut_off(postgres: Postgres) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with (
        fake_hosts(host) as urls,
        wire(url) as (line, over_the_line),
        member(over_the_line, *urls, settings=BRIEF) as leader,
        member(url, *urls, settings=BRIEF) as other,
    ):
        await until(leader.leads)
        await other.follows(leader)
        assert (await leader.deploy("one")).status == 201
        begun_s = time.monotonic()
        line.hold()
        await until(other.leads)
        assert time.monotonic() - begun_s < 2 * LEASE_S
        # it knows by its own clock, though nobody told it
        assert not leader.office.held
        status, _ = await refused(leader, "two")
        assert status == 503
        assert (await leader.vm("one"))["status"] == "placed"
        assert (await deployed(other, "two")).status == 201
        line.let_go()
        await leader.follows(other)
        assert (await leader.deploy("three")).status == 201
        assert await leader.document("/listvm") == {"one": "a", "two": "a", "three": "a"}
        assert other.told("leader", url=other.url)
        assert leader.told("leader-lost")


async def test_what_is_under_way_when_the_lead_is_lost_is_unknown_and_settled(
    postgres: Postgres,
) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with (
        fake_hosts(host) as urls,
        wire(url) as (line, over_the_line),
        member(over_the_line, *urls, settings=BRIEF) as leader,
        member(url, *urls, settings=BRIEF) as other,
    ):
        await until(leader.leads)
        await other.follows(leader)
        assert (await leader.deploy("there")).status == 201
        held, hanging = Held(done_first=True), Held()
        host.manners |= {"deploy": held, "remove": hanging}
        deploy = asyncio.create_task(leader.deploy("one"))
        remove = asyncio.create_task(leader.remove("there"))
        await asyncio.gather(held.reached.wait(), hanging.reached.wait())
        line.hold()
        for answer in await asyncio.gather(deploy, remove):
            assert (answer.status, answer.json["code"]) == (503, "host-unreachable")
            assert answer.json["outcome"] == "unknown"
        host.manners.clear()
        await until(other.leads)
        # it is there, so the host says; and the removal was accepted
        assert (await other.becomes("one", "placed"))["host"] == "a"
        await until(lambda: missing(other, "there"))
        assert (await deployed(other, "one")).status == 200
        assert list(host.vms) == ["one"]
        assert host.times_asked("deploy") == 2
        line.let_go()
        await leader.follows(other)
        # nothing of it is counted twice, by whoever led then
        for each in (leader, other):
            await each.looks_again("a")
            assert (await each.document("/v1/capacity?cpu=1&mem=1&oc=1"))["total"] == 14


async def test_whoever_begins_a_term_after_its_own_begins_anew(postgres: Postgres) -> None:
    """What began in the former one does not go on in the next, though the same process leads."""
    url = await empty(postgres)
    host, held = FakeHost("a"), Held(done_first=True)
    async with fake_hosts(host) as urls, member(url, *urls, settings=BRIEF) as leader:
        await until(leader.leads)
        epoch = leader.office.leader.epoch
        host.manners["deploy"] = held
        deploy = asyncio.create_task(leader.deploy("one"))
        await held.reached.wait()
        await asyncio.to_thread(postgres.run, url, "UPDATE vmstack.lease SET until = 'epoch'")
        answer = await deploy
        assert (answer.status, answer.json["outcome"]) == (503, "unknown")
        await until(leader.leads)
        assert leader.office.leader.epoch > epoch
        host.manners.clear()
        await leader.becomes("one", "placed")
        assert (await deployed(leader, "one")).status == 200
        assert leader.told("leader-lost", epoch=epoch)
        assert host.times_asked("deploy") == 1


async def missing(web: Member, name: str) -> bool:
    return (await web.get(f"/v1/vms/{name}")).status == 404


class Late:
    """Talks to hosts as it should, but for what is on its way when it is stopped."""

    def __init__(self, client: HostClient) -> None:
        self._client = client
        self.stopped: dict[str, Held] = {}
        """By ``deploy`` or ``remove``."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def deploy(self, site: Site, spec: VmSpec) -> Reply:
        await self._pass("deploy")
        return await self._client.deploy(site, spec)

    async def remove(self, site: Site, name: str) -> Reply:
        await self._pass("remove")
        return await self._client.remove(site, name)

    async def _pass(self, what: str) -> None:
        if what in self.stopped:
            self.stopped[what].reached.set()
            await self.stopped[what].let_go.wait()


class Sleeper:
    """A leader that sleeps: its clock stands still, and it does nothing by itself any more."""

    def __init__(self) -> None:
        self.clients: list[Late] = []
        self._asleep_s: float | None = None

    def monotonic_s(self) -> float:
        return time.monotonic() if self._asleep_s is None else self._asleep_s

    def through(self, client: HostClient) -> HostClient:
        self.clients.append(Late(client))
        return self.clients[0]  # type: ignore[return-value]

    async def sleep(self, web: Member) -> None:
        self._asleep_s = time.monotonic()
        await web.stop_campaigning()
        assert web.office.held


@asynccontextmanager
async def with_a_sleeper(url: str, *hosts: str) -> AsyncIterator[tuple[Sleeper, Member, Member]]:
    """It leads; the other is ready to."""
    sleeper = Sleeper()
    async with (
        member(
            url,
            *hosts,
            settings=BRIEF,
            monotonic_s=sleeper.monotonic_s,
            through=sleeper.through,
        ) as leader,
        member(url, *hosts, settings=BRIEF) as other,
    ):
        await until(leader.leads)
        await other.follows(leader)
        yield sleeper, leader, other


async def test_a_leader_that_slept_past_its_lease_changes_nothing(postgres: Postgres) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with fake_hosts(host) as urls, with_a_sleeper(url, *urls) as (sleeper, leader, other):
        assert (await leader.deploy("one")).status == 201
        await sleeper.sleep(leader)
        await until(other.leads)
        asked = len([each for each in host.asked if each.method != "GET"])
        # it believes that it leads, but the store knows better
        assert leader.office.held
        for answer in (
            await leader.deploy("two"),
            await leader.remove("one"),
            await leader.get("/remove?name=one"),
            await leader.post("/v1/hosts/a/drain"),
        ):
            assert answer.refusal == (503, "not-leader")
        assert len([each for each in host.asked if each.method != "GET"]) == asked
        assert list(host.vms) == ["one"]
        assert (await other.host("a"))["state"] == "up"
        assert (await deployed(other, "two")).status == 201


async def test_a_deploy_on_its_way_from_a_former_leader_is_refused_by_the_host(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = await empty(postgres)
    async with (
        running(tmp_path) as host,
        with_a_sleeper(url, host.url) as (sleeper, leader, other),
    ):
        late = sleeper.clients[0].stopped["deploy"] = Held()
        deploy = asyncio.create_task(leader.deploy("one"))
        await late.reached.wait()
        await sleeper.sleep(leader)
        await until(other.leads)
        await other.looks_again("here")
        late.let_go.set()
        assert (await deploy).json["code"] in ("not-leader", "request-cancelled")
        assert (await host.get("/listvm")).json == []
        # the name is free again, and whoever repeats the request has it once
        assert (await deployed(other, "one")).status == 201
        assert (await host.get("/listvm")).json == ["one"]


async def test_a_removal_on_its_way_from_a_former_leader_takes_no_new_vm_away(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = await empty(postgres)
    async with (
        running(tmp_path) as host,
        with_a_sleeper(url, host.url) as (sleeper, leader, other),
    ):
        assert (await leader.deploy("one")).status == 201
        late = sleeper.clients[0].stopped["remove"] = Held()
        remove = asyncio.create_task(leader.remove("one"))
        await late.reached.wait()
        await sleeper.sleep(leader)
        await until(other.leads)
        await until(lambda: missing(other, "one"))
        assert (await deployed(other, "one", vcpus=1)).status == 201
        late.let_go.set()
        assert (await remove).status == 202  # the removal it was asked for is accepted, and done
        assert (await host.get("/listvm")).json == ["one"]
        assert (await other.vm("one"))["vcpus"] == 1


async def test_hosts_obey_no_former_leader(tmp_path: Path) -> None:
    async with running(tmp_path) as host:

        async def asks(epoch: str, method: str = "POST") -> tuple[int, str]:
            document = None if method == "GET" else {**PLAIN, "vcpus": 1}
            target = "/v1/host" if method == "GET" else "/v1/vms"
            answer = await host.ask(method, target, document, {"VMStack-Epoch": epoch})
            return answer.status, answer.json.get("code", "")

        assert await asks("5") == (201, "")
        assert await asks("5") == (200, "")
        assert await asks("4") == (503, "not-leader")
        # who only looks says it too, and is told whatever it asks
        assert await asks("7", "GET") == (200, "")
        assert await asks("6", "GET") == (200, "")
        assert await asks("6") == (503, "not-leader")
        for nonsense in ("", "-1", "9" * 30, "0x9", "٩"):
            assert await asks(nonsense) == (200, "")
        assert await asks("7") == (200, "")
        # who knows of no epochs asks for itself
        assert (await host.ask("DELETE", f"/v1/vms/{PLAIN['name']}")).status == 200


async def test_a_leader_that_lost_its_power_in_the_middle_of_a_write_is_succeeded(
    postgres: Postgres,
) -> None:
    """The database holds what it had begun to write, and nobody hangs up."""
    url = await empty(postgres)
    async with (
        wire(url) as (line, over_the_line),
        member(over_the_line, settings=BRIEF) as leader,
        member(url, settings=BRIEF) as other,
    ):
        await until(leader.leads)
        await other.follows(leader)
        settings = {"idle_in_transaction_session_timeout": str(round(PATIENCE_S * 400))}
        writing = await asyncpg.connect(over_the_line, server_settings=settings)
        await writing.execute("BEGIN")
        await writing.fetchval("SELECT 1 FROM vmstack.lease FOR KEY SHARE")
        line.hold()
        await until(other.leads, 4.0)
        writing.terminate()


async def test_a_database_that_is_stopped(own_postgres: Postgres) -> None:
    url = await empty(own_postgres)
    host = FakeHost("a")
    async with fake_hosts(host) as urls, members(url, 2, *urls, settings=BRIEF) as both:
        assert (await both[1].deploy("one")).status == 201
        await asyncio.to_thread(own_postgres.stop, SIGQUIT)
        for _ in range(3):
            for each in both:
                begun_s = time.monotonic()
                status, code = await refused(each, "two")
                assert status == 503
                assert code in ("store-unavailable", "not-leader", "host-unreachable")
                assert time.monotonic() - begun_s < AT_ONCE_S
                for target in ("/v1/vms/one", "/listvm", "/v1/hosts", "/status", "/metrics"):
                    assert (await each.get(target)).status == 200
        await until(lambda: nobody_leads(*both))
        for each in both:
            assert await refused(each, "two") == (503, "store-unavailable")
            assert (await each.get("/readyz")).refusal == (503, "store-unavailable")
        assert list(host.vms) == ["one"]
        await asyncio.to_thread(own_postgres.start)
        assert (await deployed(both[0], "two")).status in (200, 201)
        assert (await deployed(both[1], "one")).status == 200
        assert await both[0].document("/listvm") == {"one": "a", "two": "a"}
        assert sum(each.office.held for each in both) == 1


async def nobody_leads(*those: Member) -> bool:
    return not any(each.office.held for each in those)


async def test_a_database_that_answers_nobody(own_postgres: Postgres) -> None:
    url = await empty(own_postgres)
    host = FakeHost("a")
    async with fake_hosts(host) as urls, members(url, 2, *urls, settings=BRIEF) as both:
        assert (await both[1].deploy("one")).status == 201
        own_postgres.pause()
        try:
            begun_s = time.monotonic()
            answers = await asyncio.gather(
                *[each.deploy(f"vm-{number}") for number, each in enumerate(both * 3)]
            )
            assert time.monotonic() - begun_s < LEASE_S + PATIENCE_S
            assert {answer.status for answer in answers} == {503}
            for each in both:
                assert (await each.vm("one"))["status"] == "placed"
                begun_s = time.monotonic()
                assert (await each.deploy("more")).status == 503
                assert time.monotonic() - begun_s < AT_ONCE_S
        finally:
            own_postgres.go_on()
        assert (await deployed(both[0], "two")).status in (200, 201)
        # what was written down late came to nothing, and is told so by its host
        await until(lambda: lists(both[0], "one", "two"))
        assert sorted(host.vms) == ["one", "two"]


async def test_connections_to_the_database_that_are_cut_under_load(own_postgres: Postgres) -> None:
    url = await empty(own_postgres)
    hosts = [FakeHost("a"), FakeHost("b"), FakeHost("c")]
    names = [f"vm-{number}" for number in range(36)]
    async with fake_hosts(*hosts) as urls, members(url, 2, *urls, settings=BRIEF) as both:
        ending = asyncio.Event()

        async def cut() -> int:
            cuts = 0
            control = await asyncpg.connect(own_postgres.url("postgres"))
            while not ending.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(ending.wait(), 0.05)
                cuts += await control.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE application_name = 'vmstack'"
                )
            await control.close()
            return cuts

        cutting = asyncio.create_task(cut())
        lively = asyncio.Semaphore(6)

        async def load(number: int) -> None:
            async with lively:
                await deployed(both[number % 2], names[number], vcpus=1)

        await asyncio.wait(
            [asyncio.create_task(load(number)) for number in range(len(names))], timeout=1.0
        )
        ending.set()
        assert await cutting > 5
        # whoever repeats the request has it, and has it once
        for name in names:
            await deployed(both[0], name, vcpus=1)
        there = await both[0].document("/listvm")
        assert sorted(there) == sorted(names)
        on = {name: host.name for host in hosts for name in host.vms}
        assert on == there
        assert sum(len(host.vms) for host in hosts) == len(names)


async def test_hosts_are_followed(postgres: Postgres) -> None:
    url = await empty(postgres)
    a, b = FakeHost("a"), FakeHost("b")
    async with (
        fake_hosts(a, b) as (first, second),
        members(url, 2, first, settings=BRIEF) as (leader, other),
    ):
        # added, at an address the other was never told
        assert (await other.post("/v1/hosts", {"url": second})).status == 201
        assert (await other.turns("b", state="up"))["url"] == second
        labels = {"labels": {"rack": "2"}}
        assert (await leader.ask("PATCH", "/v1/hosts/b", labels)).status == 200
        assert (await leader.post("/v1/hosts/a/drain")).status == 200
        await other.turns("b", labels={"rack": "2"})
        await other.turns("a", state="draining")
        assert (await leader.deploy("one")).json["host"] == "b"
        assert (await leader.remove("one")).status == 200
        assert (await leader.post("/v1/hosts/a/resume")).status == 200
        await b.go()
        await leader.turns("b", state="down")
        assert (await leader.ask("DELETE", "/v1/hosts/b")).status == 200
        await until(lambda: has_hosts(other, "a"))
        await leader.stop_campaigning()
        await until(other.leads)
        assert (await deployed(other, "two")).json["host"] == "a"
        assert await has_hosts(other, "a")


async def has_hosts(web: Member, *names: str) -> bool:
    return sorted(await web.hosts()) == sorted(names)


async def test_a_host_that_moves_is_followed_with_its_vms(postgres: Postgres) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with fake_hosts(host) as (before,), members(url, 2, settings=BRIEF) as (leader, other):
        assert (await leader.post("/v1/hosts", {"url": before})).status == 201
        assert (await leader.deploy("one")).status == 201
        await host.go()
        for each in (leader, other):
            await each.turns("a", state="down")
        await host.come(0)
        assert host.url != before
        assert (await other.post("/v1/hosts", {"url": host.url})).status in (200, 201)
        for each in (leader, other):
            await each.turns("a", state="up", url=host.url)
            await each.looks_again("a")
        await leader.stop_campaigning()
        await until(other.leads)
        assert (await other.vm("one"))["status"] == "placed"
        await host.go()  # it is polled where it is now, and nowhere else
        await other.turns("a", state="down")


async def test_an_older_host_that_is_renewed_is_followed_under_its_name(postgres: Postgres) -> None:
    url = await empty(postgres)
    host = FakeHost("a", typed=False)
    async with fake_hosts(host) as urls, members(url, 2, *urls, settings=BRIEF) as (leader, other):
        old = host.address
        assert (await other.deploy("one")).json["host"] == old
        await host.go()
        for each in (leader, other):
            await each.turns(old, state="down")
        host.typed = True
        await host.come(host.port)
        for each in (leader, other):
            await each.turns("a", state="up")
            assert old not in await each.hosts()
            assert await until(lambda each=each: placed_on(each, "one", "a"))
        await leader.stop_campaigning()
        await until(other.leads)
        assert (await deployed(other, "one")).status == 200
        assert (await other.remove("one")).status == 200
        assert not host.vms


async def placed_on(web: Member, name: str, host: str) -> bool:
    found = await web.vm(name)
    return (found["status"], found["host"]) == ("placed", host)


async def test_a_leader_that_never_asked_a_host_keeps_room_for_what_another_promised(
    postgres: Postgres,
) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    seldom = replace(BRIEF, delay_s=60.0)
    async with fake_hosts(host) as urls, members(url, 2, *urls, settings=seldom) as (leader, other):
        host.manners["look"] = hangs  # so that nobody sees what it has
        assert (await leader.deploy("large", vcpus=15, level="1")).status == 201
        await until(lambda: lists(other, "large"))
        await leader.stop_campaigning()
        await until(other.leads)
        answer = await other.deploy("more", vcpus=2, level="1")
        assert answer.refusal == (409, "no-capacity")
        assert host.times_asked("deploy") == 1
        assert (await other.deploy("small", vcpus=1, level="1")).status == 201


async def test_clocks_an_hour_apart(postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    url = await empty(postgres)
    host = FakeHost("a")
    async with (
        fake_hosts(host) as urls,
        member(url, *urls, settings=BRIEF, now_s=lambda: time.time() - 3600) as behind,
        member(url, *urls, settings=BRIEF, now_s=lambda: time.time() + 3600) as ahead,
    ):
        told = [each.message for each in caplog.records if "the clock here" in each.message]
        assert len(told) == 2
        assert "3600 s behind" in told[0]
        assert "3600 s ahead" in told[1]
        assert all("NTP" in each for each in told)
        await until(behind.leads)
        await ahead.follows(behind)
        assert (await ahead.deploy("one")).status == 201
        await behind.stop_campaigning()
        await until(ahead.leads)
        assert (await ahead.vm("one"))["status"] == "placed"
        assert (await deployed(ahead, "one")).status == 200
        assert (await ahead.remove("one")).status == 200
        assert (await deployed(ahead, "one", vcpus=1)).status == 201
    assert list(host.vms) == ["one"]
