"""Any sequence of changes, for a store to be held against another: they tell everybody the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import strategies as st

from schedulercommon.levels import parse_level
from schedulerglobal.core.health import Wanted
from schedulerglobal.core.promises import Status
from schedulerglobal.core.view import Shape
from schedulerglobal.ports import (
    Change,
    DropHost,
    ForgetGone,
    PutHost,
    PutPromise,
    PutShares,
    RenameHost,
)
from tests.storecontract import Place, fate, host, kept, opened, promise

_promises = st.builds(
    promise,
    st.sampled_from("123456"),
    st.sampled_from(Status),
    name=st.sampled_from("xyz"),
    host=st.sampled_from("abc"),
    attempt=st.text(st.sampled_from("ab'\"\\;%é"), max_size=3),
    settled=st.booleans(),
    changed_s=st.integers(0, 5).map(float) | st.floats(0, 2e9),
)
_hosts = st.builds(
    host,
    st.sampled_from("abc"),
    labels=st.dictionaries(st.text("rack é'", max_size=4), st.text("r1 é'", max_size=3)),
    wanted=st.sampled_from(Wanted),
    fenced=st.booleans(),
    added=st.booleans(),
)
_shares = st.lists(
    st.tuples(
        st.builds(
            Shape,
            vcpus=st.integers(1, 4096),
            memory_mib=st.integers(1, 1 << 30),
            level=st.sampled_from(["1", "1.1", "4/3", "64"]).map(parse_level),
        ),
        st.integers(1, 20_000),
    ),
    max_size=3,
).map(tuple)
_changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(PutPromise, _promises),
    st.builds(PutPromise, _promises),
    st.builds(PutHost, _hosts),
    st.builds(DropHost, st.sampled_from("abc")),
    st.builds(RenameHost, st.sampled_from("abc"), st.sampled_from("abc")),
    st.builds(ForgetGone, st.integers(0, 5).map(float)),
    st.builds(PutShares, _shares),
)
Rounds = Sequence[Sequence[Sequence[Change]]]
ROUNDS: st.SearchStrategy[Rounds] = st.lists(
    st.lists(st.lists(_changes, max_size=4), max_size=8), min_size=1, max_size=4
)
"""What callers write at once, with a reopening after each round."""


async def check_alike(place: Place, other: Place, rounds: Rounds) -> None:
    """Both places tell each caller and each reopening the same."""
    for writes in rounds:
        told = []
        for each in (place, other):
            async with opened(each) as (store, _):
                told.append(await asyncio.gather(*(fate(store.write(*some)) for some in writes)))
        assert told[0] == told[1]
        assert await kept(place) == await kept(other)
