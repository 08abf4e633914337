"""What hosts answer to a deploy or a removal, and what becomes of the VM: done, elsewhere, refused,
or unknown until the host can tell; never twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.clusterrig import IMPATIENT, Cluster, cluster, until
from tests.fakehost import (
    FakeHost,
    Manner,
    answers,
    babbles,
    breaks_off,
    dies,
    done_then,
    fake_hosts,
    hangs,
    refuses,
    resets,
    uncoded,
)
from tests.webrig import Answer

ORDER = {"policy": "first-fit"}
"""Hosts are tried in the order of the list."""
AWAY = (503, "host-unreachable")

BOTH = pytest.mark.parametrize("typed", [True, False], ids=["typed", "published only"])


def hosts(*names: str, typed: bool = True) -> list[FakeHost]:
    return [FakeHost(name, typed=typed) for name in names]


def having(name: str, among: Iterable[FakeHost]) -> list[str]:
    return [host.name for host in among if name in host.vms]


def tries(answer: Answer) -> list[tuple[str, str]]:
    """Hosts that were asked, with what each refused by, as a refusal tells."""
    assert answer.json["success"] is False
    attempts = answer.json["attempts"]
    assert all(each["reason"] for each in attempts)
    return [(each["host"], each["code"]) for each in attempts]


def unknown(answer: Answer) -> bool:
    """Whether a refusal says that it may have been done."""
    assert (answer.status, answer.json["code"]) == AWAY
    said = "outcome unknown, repeat the same request" in answer.json["reason"]
    assert said is (answer.json.get("outcome") == "unknown")
    return said


# --- not done: the next one ---


@BOTH
async def test_refused_connections_lead_to_the_next_host(tmp_path: Path, typed: bool) -> None:
    away, there = hosts("a", "b", typed=typed)
    async with fake_hosts(away, there) as urls, cluster(tmp_path, *urls) as web:
        await away.go()
        answer = await web.deploy("vm", **ORDER)
        assert answer.status == 201
        assert having("vm", (away, there)) == ["b"]


async def test_three_hosts_are_asked_and_no_more(tmp_path: Path) -> None:
    four = hosts("a", "b", "c", "d")
    for host in four:
        host.manners["deploy"] = refuses("hypervisor-failed", 502)
    async with fake_hosts(*four) as urls, cluster(tmp_path, *urls) as web:
        answer = await web.deploy("vm", **ORDER)
        assert (answer.status, answer.json["code"]) == (502, "hypervisor-failed")
        assert tries(answer) == [(name, "hypervisor-failed") for name in "abc"]
        assert [host.times_asked("deploy") for host in four] == [1, 1, 1, 0]
        assert (await web.get("/v1/vms/vm")).refusal == (404, "unknown-vm")
        # each was asked under an id of its own
        documents = [asked.document for host in four for asked in host.asked if asked.document]
        assert len({document["request_id"] for document in documents}) == len(documents) == 3


async def test_all_connections_refused(tmp_path: Path) -> None:
    three = hosts("a", "b", "c")
    async with fake_hosts(*three) as urls, cluster(tmp_path, *urls) as web:
        for host in three:
            await host.go()
        answer = await web.deploy("vm", **ORDER)
        assert (answer.status, answer.json["code"]) == AWAY
        assert not unknown(answer)
        if "attempts" in answer.json:  # else a poll was faster
            assert tries(answer) == [(name, "host-unreachable") for name in "abc"]
        for host in three:
            await host.come()
        await web.turns("a", state="up", problem=None)
        assert (await web.deploy("vm", **ORDER)).status == 201


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("no-capacity", 409),
        ("hypervisor-failed", 502),
        ("unauthorized", 401),
        ("forbidden", 403),
        ("not-ready", 503),
        ("overloaded", 503),
        ("store-unavailable", 503),
    ],
)
async def test_refusals_that_lead_to_the_next_host(tmp_path: Path, code: str, status: int) -> None:
    a, b = hosts("a", "b")
    a.manners["deploy"] = refuses(code, status)
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        answer = await web.deploy("vm", **ORDER)
        assert (answer.status, answer.json["host"]) == (201, "b")
        b.manners["deploy"] = a.manners["deploy"]
        refused = await web.deploy("other", host="b")
        assert (refused.status, refused.json["code"]) == (status, code)
        assert tries(refused) == [("b", code)]


@pytest.mark.parametrize(
    ("code", "status", "passed_on"),
    [
        ("bad-request", 400, (400, "bad-request")),
        ("name-taken", 409, (409, "name-taken")),
        ("wrong-state", 409, (409, "wrong-state")),
        ("request-cancelled", 409, (409, "request-cancelled")),
        ("too-large", 413, (413, "too-large")),
        ("from-the-future", 422, (502, "hypervisor-failed")),
    ],
)
async def test_refusals_that_are_final(
    tmp_path: Path, code: str, status: int, passed_on: tuple[int, str]
) -> None:
    a, b = hosts("a", "b")
    a.manners["deploy"] = refuses(code, status)
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        answer = await web.deploy("vm", **ORDER)
        assert answer.refusal == passed_on
        assert "host a: because of" in answer.json["reason"]
        assert b.times_asked("deploy") == 0
        assert (await web.get("/v1/vms/vm")).refusal == (404, "unknown-vm")
        # the name is free
        assert (await web.on("b", "vm", vcpus=3)).status == 201


@pytest.mark.parametrize("status", [200, 400, 409])
@BOTH
async def test_a_refusal_without_code_is_settled_by_the_list_of_vms(
    tmp_path: Path, typed: bool, status: int
) -> None:
    a, b = hosts("a", "b", typed=typed)
    a.manners["deploy"] = uncoded(status)
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.deploy("vm", **ORDER)).status == 201
        assert having("vm", (a, b)) == ["b"]
        a.manners["deploy"] = done_then(uncoded(status))
        assert (await web.deploy("other", **ORDER)).status == 201
        assert having("other", (a, b)) == ["a"]


# --- unknown ---

SILENT: dict[str, Manner] = {
    "hangs": hangs,
    "resets": resets,
    "garbage": babbles,
    "no HTTP": breaks_off,
    "uncoded 500": uncoded(500),
    "uncoded 503": uncoded(503),
    "unheard-of code": refuses("oops", 500),
    "unreachable": refuses("host-unreachable", 503),
    "another VM": answers(201, {"name": "another"}),
    "list": answers(200, []),
    "null": answers(200, None),
    "success no bool": answers(200, {"success": "true"}),
    "no success": answers(409, {"reason": "no"}),
}
SOME_SILENT = {name: SILENT[name] for name in ("hangs", "resets", "garbage", "uncoded 500")}


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("manner", SILENT.values(), ids=SILENT)
async def test_a_typed_host_is_asked_what_became_of_it(
    tmp_path: Path, manner: Manner, done: bool
) -> None:
    a, b = hosts("a", "b")
    a.manners["deploy"] = done_then(manner) if done else manner
    async with (
        fake_hosts(a, b) as urls,
        cluster(tmp_path, *urls, settings=IMPATIENT) as web,
    ):
        answer = await web.deploy("vm", **ORDER)
        assert answer.status == 201
        assert a.times_asked("cancel") == 1
        assert having("vm", (a, b)) == [answer.json["host"]] == (["a"] if done else ["b"])


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("manner", SOME_SILENT.values(), ids=SOME_SILENT)
async def test_what_a_typed_host_does_not_tell_stays_unknown_until_it_does(
    tmp_path: Path, manner: Manner, done: bool
) -> None:
    a, b = hosts("a", "b")
    a.manners["deploy"] = done_then(manner) if done else manner
    a.manners["cancel"] = manner
    async with (
        fake_hosts(a, b) as urls,
        cluster(tmp_path, *urls, settings=IMPATIENT) as web,
    ):
        assert unknown(await web.deploy("vm", **ORDER))
        vm = await web.vm("vm")
        assert (vm["host"], vm["status"]) == ("a", "unknown")
        assert vm["reason"]
        assert unknown(await web.deploy("vm", **ORDER))
        assert (await web.deploy("vm", vcpus=3)).refusal == (409, "name-taken")
        assert a.times_asked("deploy") == 1
        assert b.times_asked("deploy") == 0
        a.manners.clear()
        # whoever repeats the request has its answer, now or as soon as it is settled
        answer = await web.deploy("vm", **ORDER)
        assert answer.status == (200 if done else 201)
        assert len(having("vm", (a, b))) == 1
        assert (await web.vm("vm"))["status"] == "placed"


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_unknowns_are_settled_without_being_asked(tmp_path: Path, done: bool) -> None:
    (host,) = hosts("a")
    host.manners = {"deploy": done_then(resets) if done else resets, "cancel": resets}
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        assert unknown(await web.deploy("vm"))
        host.manners.clear()
        if done:
            await web.becomes("vm", "placed")
            assert web.told("settled", vm="vm", status="placed")
        else:
            await until(lambda: missing(web, "vm"))
            assert web.told("settled", vm="vm", status="gone")


async def missing(web: Cluster, name: str) -> bool:
    return (await web.get(f"/v1/vms/{name}")).status == 404


@pytest.mark.parametrize("manner", SOME_SILENT.values(), ids=SOME_SILENT)
async def test_an_older_host_tells_by_its_list_of_vms(tmp_path: Path, manner: Manner) -> None:
    a, b = hosts("a", "b", typed=False)
    a.manners["deploy"] = manner
    async with (
        fake_hosts(a, b) as urls,
        cluster(tmp_path, *urls, settings=IMPATIENT) as web,
    ):
        assert unknown(await web.deploy("vm", **ORDER))
        assert (await web.vm("vm"))["status"] == "unknown"
        a.manners.clear()
        # not being there says nothing: it may be at work on it
        for _ in range(3):
            assert unknown(await web.deploy("vm", **ORDER))
        assert (a.times_asked("deploy"), b.times_asked("deploy")) == (1, 0)
        removal = await web.remove("vm")
        assert (removal.status, removal.json["status"]) == (202, "removing")
        taken = await web.deploy("vm", **ORDER)
        assert taken.refusal == (409, "name-taken")
        # it was slow, and is done now: so is the removal
        a.run("vm", 2)
        await until(lambda: missing(web, "vm"))
        assert a.vms == {}


async def test_an_older_host_that_did_it_late(tmp_path: Path) -> None:
    a, b = hosts("a", "b", typed=False)
    a.manners["deploy"] = hangs
    async with (
        fake_hosts(a, b) as urls,
        cluster(tmp_path, *urls, settings=IMPATIENT) as web,
    ):
        assert unknown(await web.deploy("vm", **ORDER))
        a.run("vm", 2)
        assert (await web.becomes("vm", "placed"))["host"] == a.address
        assert (await web.deploy("vm", **ORDER)).status == 200


@BOTH
async def test_a_host_that_did_it_and_died_is_not_taken_for_one_never_asked(
    tmp_path: Path, typed: bool
) -> None:
    a, b = hosts("a", "b", typed=typed)
    a.manners["deploy"] = done_then(dies)
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        assert unknown(await web.deploy("vm", **ORDER))
        assert having("vm", (a, b)) == ["a"]
        await a.go()
        a.manners.clear()
        await a.come()
        await web.becomes("vm", "placed")
        assert (await web.deploy("vm", **ORDER)).status == 200
        assert having("vm", (a, b)) == ["a"]


async def test_an_unknown_outcome_survives_a_restart(tmp_path: Path) -> None:
    (host,) = hosts("a")
    host.manners = {"deploy": done_then(resets), "cancel": resets}
    async with fake_hosts(host) as urls:
        async with cluster(tmp_path, *urls) as web:
            assert unknown(await web.deploy("vm"))
        async with cluster(tmp_path, *urls) as web:
            assert (await web.vm("vm"))["status"] == "unknown"
            host.manners.clear()
            await web.becomes("vm", "placed")
        assert host.times_asked("deploy") == 1


async def test_many_who_ask_the_same_get_the_same(tmp_path: Path) -> None:
    a, b = hosts("a", "b")
    a.manners = {"deploy": done_then(resets), "cancel": resets}
    async with fake_hosts(a, b) as urls, cluster(tmp_path, *urls) as web:
        same = [web.deploy("vm", **ORDER) for _ in range(20)]
        assert all(unknown(answer) for answer in await asyncio.gather(*same))
        assert (a.times_asked("deploy"), b.times_asked("deploy")) == (1, 0)
        a.manners.clear()
        again = await asyncio.gather(*[web.deploy("vm", **ORDER) for _ in range(20)])
        assert {answer.status for answer in again} == {200}
        assert having("vm", (a, b)) == ["a"]


# --- removals ---


@pytest.mark.parametrize(
    "manner",
    [hangs, resets, uncoded(500), refuses("not-ready", 503)],
    ids=["hangs", "resets", "uncoded 500", "not ready"],
)
@BOTH
async def test_a_removal_nobody_answers_is_done_later(
    tmp_path: Path, typed: bool, manner: Manner
) -> None:
    (host,) = hosts("a", typed=typed)
    async with (
        fake_hosts(host) as urls,
        cluster(tmp_path, *urls, settings=IMPATIENT) as web,
    ):
        assert (await web.deploy("vm")).status == 201
        host.manners["remove"] = manner
        answer = await web.remove("vm")
        assert (answer.status, answer.json["status"]) == (202, "removing")
        assert (await web.get("/remove?name=vm")).json == {"success": True, "reason": None}
        assert (await web.vm("vm"))["status"] == "removing"
        assert (await web.deploy("vm")).refusal == (409, "name-taken")
        host.manners.clear()
        await until(lambda: missing(web, "vm"))
        assert host.vms == {}


async def test_a_removal_that_is_refused_leaves_the_vm(tmp_path: Path) -> None:
    (host,) = hosts("a")
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.deploy("vm")).status == 201
        host.manners["remove"] = refuses("hypervisor-failed", 502)
        assert (await web.remove("vm")).refusal == (502, "hypervisor-failed")
        assert (await web.vm("vm"))["status"] == "placed"
        # an older one says so without a code
        host.manners["remove"] = uncoded()
        assert (await web.remove("vm")).refusal == (502, "hypervisor-failed")
        assert (await web.vm("vm"))["status"] == "placed"


@BOTH
async def test_a_vm_the_host_does_not_know_is_gone(tmp_path: Path, typed: bool) -> None:
    (host,) = hosts("a", typed=typed)
    async with fake_hosts(host) as urls, cluster(tmp_path, *urls) as web:
        assert (await web.deploy("vm")).status == 201
        host.vms.clear()
        assert (await web.remove("vm")).json == {"success": True, "reason": None}
        assert (await web.get("/v1/vms/vm")).refusal == (404, "unknown-vm")
