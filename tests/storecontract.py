"""What every store promises, one clause a function.

A clause gets a way to make stores that are not yet open, all of them on the same place, which is
empty at first. ``tests/test_store_contract.py`` holds every store there is against every clause.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from schedulercommon.errors import NameTaken, StoreUnavailable, VmStackError
from schedulercommon.levels import parse_level
from schedulercommon.model import VmSpec
from schedulerglobal.core.health import Wanted
from schedulerglobal.core.promises import Promise, Status
from schedulerglobal.core.view import Shape
from schedulerglobal.ports import (
    Contents,
    DropHost,
    ForgetGone,
    HostRecord,
    PutHost,
    PutPromise,
    PutShares,
    RenameHost,
    Store,
)

Place = Callable[[], Store]
Clause = Callable[[Place], Awaitable[None]]

CLAUSES: dict[str, Clause] = {}
EMPTY = Contents((), ())


def clause(function: Clause) -> Clause:
    CLAUSES[function.__name__.replace("_", " ")] = function
    return function


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[tuple[Store, Contents]]:
    store = place()
    contents = await store.open()
    try:
        yield store, contents
    finally:
        await store.close()


async def kept(place: Place) -> Contents:
    """What the next one to open the place finds."""
    async with opened(place) as (_, contents):
        return contents


def spec(name: str, **more: object) -> VmSpec:
    sizes = {"vcpus": 2, "memory_mib": 2048, "level": parse_level("2"), "image": "/i.qcow2"}
    return VmSpec(name=name, **{**sizes, "request_id": f"id-{name}", **more})  # type: ignore[arg-type]


def promise(key: str, status: Status = Status.PENDING, name: str = "", **more: object) -> Promise:
    about = {"spec": spec(name or key), "host": "h1", "attempt": f"try-{key}", "changed_s": 1.5}
    return Promise(key=key, status=status, **{**about, **more})  # type: ignore[arg-type]


def host(name: str, **more: object) -> HostRecord:
    return HostRecord(name=name, **{"url": f"http://{name}:8099", **more})  # type: ignore[arg-type]


async def fate(writing: Awaitable[object]) -> type[VmStackError] | None:
    """How a write ended: the refusal, None if there was none."""
    try:
        await writing
    except VmStackError as refusal:
        return type(refusal)
    return None


@clause
async def a_new_store_is_empty(place: Place) -> None:
    assert await kept(place) == EMPTY
    assert await kept(place) == EMPTY


@clause
async def promises_come_back_as_they_were(place: Place) -> None:
    third = parse_level("4/3")
    rich = spec(
        "rich",
        level=third,
        runs_at=parse_level("1"),
        disk="full",
        max_vcpus=8,
        max_memory_mib=9000,
        labels=(("größe", "L"), ("rack", 'r"1')),
        owner="öwner",
        request_id="",
        start=False,
    )
    those = (
        promise("1", Status.PENDING),
        promise("2", Status.PLACED, spec=rich, attempt="", settled=False),
        promise("3", Status.REMOVING, reason='it said "no" → 日本\n', changed_s=1767225600.123456),
        promise("4", Status.UNKNOWN, host="10.0.0.1:8099", changed_s=0.0),
        promise("5", Status.LOST, settled=False),
    )
    async with opened(place) as (store, _):
        await store.write(*map(PutPromise, those))
    assert await kept(place) == Contents((), those)


@clause
async def hosts_come_back_as_they_were(place: Place) -> None:
    those = (
        host("h1"),
        host("h2", labels={"rack": "r1", "größe": '"L"'}, wanted=Wanted.DRAINING, added=True),
        host("10.0.0.1:8099", wanted=Wanted.MAINTENANCE, fenced=True),
    )
    async with opened(place) as (store, _):
        await store.write(*map(PutHost, those))
    assert await kept(place) == Contents(those, ())


@clause
async def shares_are_those_put_last(place: Place) -> None:
    first = ((Shape(2, 2048, parse_level("4/3")), 7), (Shape(1, 512, parse_level("1")), 7))
    later = ((Shape(4096, 1 << 30, parse_level("64")), 16_384), (first[0][0], 1))
    async with opened(place) as (store, contents):
        assert contents.shares == ()
        await store.write(PutShares(first))
        await store.write(PutHost(host("h1")))
    assert await kept(place) == Contents((host("h1"),), (), first)
    async with opened(place) as (store, _):
        await store.write(PutShares(later), PutPromise(promise("1")))
        refused = store.write(PutShares(first), PutPromise(promise("2", name="1")))
        assert await fate(refused) is NameTaken
    assert await kept(place) == Contents((host("h1"),), (promise("1"),), later)
    async with opened(place) as (store, _):
        await store.write(PutShares(()))
    assert (await kept(place)).shares == ()


@clause
async def the_order_is_that_of_the_first_put(place: Place) -> None:
    async with opened(place) as (store, _):
        for name in "cab":
            await store.write(PutHost(host(name)), PutPromise(promise(name)))
        await store.write(PutPromise(promise("c", Status.PLACED)), PutHost(host("c", added=True)))
    found = await kept(place)
    assert [each.name for each in found.hosts] == ["c", "a", "b"]
    assert [each.key for each in found.promises] == ["c", "a", "b"]


@clause
async def putting_again_replaces(place: Place) -> None:
    later = promise("1", Status.PLACED, host="h2", attempt="other", reason="moved", changed_s=9.0)
    later = replace(later, settled=False, spec=spec("1", vcpus=7))
    async with opened(place) as (store, _):
        await store.write(PutPromise(promise("1")), PutHost(host("h1")))
        await store.write(PutPromise(later), PutHost(host("h1", fenced=True)))
        await store.write(PutPromise(promise("2")))
    found = await kept(place)
    assert found == Contents((host("h1", fenced=True),), (later, promise("2")))


@clause
async def a_promise_may_change_its_name(place: Place) -> None:
    async with opened(place) as (store, _):
        await store.write(PutPromise(promise("1", name="a")))
        await store.write(PutPromise(promise("1", name="b")), PutPromise(promise("2", name="a")))
    found = await kept(place)
    assert [(each.key, each.name) for each in found.promises] == [("1", "b"), ("2", "a")]


@clause
async def a_name_is_promised_once(place: Place) -> None:
    async with opened(place) as (store, _):
        await store.write(PutPromise(promise("1", name="web")))
        for status in set(Status) - {Status.GONE}:
            with pytest.raises(NameTaken, match="'web'") as refused:
                await store.write(PutPromise(promise("2", status, name="web")))
            assert refused.value.name == "web"
        # names that differ by case only are two
        await store.write(PutPromise(promise("3", name="WEB")))
    assert [each.key for each in (await kept(place)).promises] == ["1", "3"]


@clause
async def a_name_is_free_once_its_promise_is_gone(place: Place) -> None:
    async with opened(place) as (store, _):
        await store.write(PutPromise(promise("1", name="web")))
        await store.write(PutPromise(promise("1", Status.GONE, name="web")))
        await store.write(PutPromise(promise("2", Status.PLACED, name="web")))
        await store.write(PutPromise(promise("3", Status.GONE, name="web")))
        assert await fate(store.write(PutPromise(promise("1", name="web")))) is NameTaken
        await store.write(
            PutPromise(promise("2", Status.GONE, name="web")),
            PutPromise(promise("4", name="web")),
        )
    assert (await kept(place)).promises == (promise("4", name="web"),)


@clause
async def a_refused_write_leaves_nothing(place: Place) -> None:
    async with opened(place) as (store, _):
        await store.write(PutPromise(promise("1", name="web")), PutHost(host("h1")))
        refused = store.write(
            PutHost(host("h2")),
            PutPromise(promise("2")),
            PutPromise(promise("1", Status.PLACED, name="other")),
            DropHost("h1"),
            PutPromise(promise("3", name="other")),
            PutPromise(promise("4")),
        )
        assert await fate(refused) is NameTaken
        await store.write(PutPromise(promise("5")))
    found = await kept(place)
    assert found == Contents((host("h1"),), (promise("1", name="web"), promise("5")))


@clause
async def one_refusal_is_no_one_elses(place: Place) -> None:
    """Written at once, and so perhaps together."""
    async with opened(place) as (store, _):
        await store.write(PutPromise(promise("first", name="taken")))
        writes = [
            store.write(
                PutPromise(promise(f"a{number}", name="taken" if number % 3 == 0 else "")),
                PutPromise(promise(f"b{number}")),
            )
            if number % 2
            else store.write(
                PutPromise(promise(f"a{number}", name="taken" if number % 3 == 0 else ""))
            )
            for number in range(60)
        ]
        fates = await asyncio.gather(*map(fate, writes))
    assert fates == [NameTaken if number % 3 == 0 else None for number in range(60)]
    wanted = {f"a{n}" for n in range(60) if n % 3} | {f"b{n}" for n in range(60) if n % 3 and n % 2}
    found = await kept(place)
    assert {each.key for each in found.promises} == wanted | {"first"}


@clause
async def of_many_after_one_name_one_has_it(place: Place) -> None:
    async with opened(place) as (store, _):
        fates = await asyncio.gather(
            *(fate(store.write(PutPromise(promise(f"{n}", name="web")))) for n in range(20))
        )
    assert sorted(map(str, fates)) == sorted([str(None)] + [str(NameTaken)] * 19)
    (won,) = (await kept(place)).promises
    assert fates[int(won.key)] is None


@clause
async def a_host_is_forgotten(place: Place) -> None:
    async with opened(place) as (store, _):
        await store.write(PutHost(host("a")), PutHost(host("b")), PutPromise(promise("1")))
        await store.write(DropHost("a"), DropHost("unheard of"))
        await store.write(PutHost(host("c")), PutHost(host("a")))
    found = await kept(place)
    assert found == Contents((host("b"), host("c"), host("a")), (promise("1"),))


@clause
async def a_host_and_what_is_on_it_is_called_otherwise(place: Place) -> None:
    async with opened(place) as (store, _):
        await store.write(PutHost(host("a", labels={"rack": "r"})), PutHost(host("b")))
        await store.write(PutPromise(promise("1", host="a")), PutPromise(promise("2", host="b")))
        await store.write(RenameHost("a", "z"))
    found = await kept(place)
    assert [(each.name, each.url) for each in found.hosts] == [
        ("z", "http://a:8099"),
        ("b", "http://b:8099"),
    ]
    assert found.hosts[0].labels == {"rack": "r"}
    assert [each.host for each in found.promises] == ["z", "b"]


@clause
async def a_new_name_may_be_known_already(place: Place) -> None:
    async with opened(place) as (store, _):
        await store.write(PutHost(host("b", fenced=True)), PutHost(host("a")), PutHost(host("c")))
        await store.write(RenameHost("a", "b"))
        # no record goes by these, or nothing changes
        await store.write(PutPromise(promise("1", host="x")), RenameHost("x", "c"))
        await store.write(RenameHost("c", "c"))
    found = await kept(place)
    assert found.hosts == (host("b", url="http://a:8099"), host("c"))
    assert [each.host for each in found.promises] == ["c"]


@clause
async def gone_promises_are_forgotten_when_old_enough(place: Place) -> None:
    gone = [promise(f"{n}", Status.GONE, name="web", changed_s=float(n)) for n in range(4)]
    there = promise("there", Status.PLACED, changed_s=0.0)
    async with opened(place) as (store, _):
        await store.write(*map(PutPromise, gone), PutPromise(there), ForgetGone(2.0))
        # what was forgotten comes after all others, what was not keeps its place
        await store.write(*(PutPromise(promise(each.key, Status.LOST)) for each in reversed(gone)))
    assert [each.key for each in (await kept(place)).promises] == ["2", "3", "there", "1", "0"]


@clause
async def writing_nothing_is_no_fault(place: Place) -> None:
    async with opened(place) as (store, _):
        await store.write()
        await store.write(DropHost("nobody"), RenameHost("no", "one"), ForgetGone(1e12))
    assert await kept(place) == EMPTY


@clause
async def odd_characters_in_a_reason_cost_nothing_else(place: Place) -> None:
    """A host may say anything."""
    odd = promise("1", Status.UNKNOWN, reason="it said \ud800 and \0 and ok")
    async with opened(place) as (store, _):
        await store.write(PutPromise(odd), PutPromise(promise("2")))
    first, second = (await kept(place)).promises
    assert replace(first, reason=odd.reason) == odd
    assert first.reason.startswith("it said ")
    assert first.reason.endswith(" and ok")
    assert second == promise("2")


@clause
async def closing_waits_for_what_is_being_written(place: Place) -> None:
    store = place()
    await store.open()
    writes = [asyncio.ensure_future(store.write(PutPromise(promise(f"{n}")))) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    assert len((await kept(place)).promises) == 50


@clause
async def a_closed_store_takes_nothing(place: Place) -> None:
    store = place()
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.write(PutPromise(promise("1")))
    assert await kept(place) == EMPTY


@clause
async def a_cancelled_caller_takes_no_other_along(place: Place) -> None:
    async with opened(place) as (store, _):
        writes = [
            asyncio.ensure_future(
                store.write(PutPromise(promise(f"{n}")), PutPromise(promise(f"{n}'")))
            )
            for n in range(30)
        ]
        await asyncio.sleep(0)
        for each in writes[::3]:
            each.cancel()
        ends = await asyncio.gather(*writes, return_exceptions=True)
        await store.write(PutPromise(promise("after")))
    assert {type(each) for each in ends[::3]} == {asyncio.CancelledError}
    assert [end for n, end in enumerate(ends) if n % 3] == [None] * 20
    found = {each.key for each in (await kept(place)).promises}
    assert {f"{n}{twin}" for n in range(30) if n % 3 for twin in ("", "'")} < found
    assert "after" in found
    for n in range(0, 30, 3):
        assert (f"{n}" in found) == (f"{n}'" in found), "half of a cancelled write"
