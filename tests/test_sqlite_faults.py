"""The SQLite store when its file fails it, or its process is killed: what was told is there."""

from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from schedulercommon.errors import StoreUnavailable
from schedulerglobal.adapters.sqlitestore import SqliteStore
from schedulerglobal.ports import Contents, PutHost, PutPromise
from tests.servers import ROOT, START_S
from tests.sqliterig import at, keys, path
from tests.storecontract import EMPTY, fate, host, kept, opened, promise

__all__ = ["path"]


# --- faults that come and go ---


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """As another program does that has locked the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def no_room(path: Path) -> Iterator[None]:
    """Files do not grow beyond what the log has already, and little more."""
    log = path.with_name("store.db-wal")
    size = log.stat().st_size if log.exists() else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def moved_away(path: Path) -> Iterator[None]:
    path.rename(path.with_name("aside"))
    yield
    path.with_name("aside").rename(path)


@contextmanager
def replaced(path: Path) -> Iterator[None]:
    with moved_away(path):
        path.write_bytes(b"")
        yield
        path.unlink()


FAULTS: list[tuple[Callable[[Path], AbstractContextManager[None]], str]] = [
    (exclusively, "is locked by another program; end that one"),
    (no_room, "cannot be read or written; make room"),
    (moved_away, "was removed or replaced; put it back"),
    (replaced, "was removed or replaced; put it back"),
]


@pytest.mark.parametrize(("fault", "says"), FAULTS, ids=[each.__name__ for each, _ in FAULTS])
async def test_a_fault_costs_only_the_writes_it_meets(
    fault: Callable[[Path], AbstractContextManager[None]], says: str, path: Path
) -> None:
    async with opened(at(path)) as (store, _):
        await store.write(PutPromise(promise("before")))
        with fault(path):
            for n in range(3):
                with pytest.raises(StoreUnavailable, match=rf"store\.db {says}"):
                    await store.write(*(PutPromise(promise(f"lost{n}{m}")) for m in range(50)))
            fates = await asyncio.gather(
                *(
                    fate(store.write(PutPromise(promise(f"lost{n}", reason="x" * 5000))))
                    for n in "ab"
                )
            )
            assert set(fates) == {StoreUnavailable}
        await store.write(PutPromise(promise("after")))
    assert keys(await kept(at(path))) == ["first", "before", "after"]


async def test_a_lock_is_waited_for(path: Path) -> None:
    async with opened(at(path, patience_s=30)) as (store, _):
        with exclusively(path):
            writes = [
                asyncio.ensure_future(store.write(PutPromise(promise(f"{n}")))) for n in range(9)
            ]
            await asyncio.wait(writes, timeout=0.1)
            assert not any(each.done() for each in writes)
        await asyncio.gather(*writes)
    assert len(keys(await kept(at(path)))) == 10


@pytest.mark.parametrize(
    ("fault", "says"),
    [(exclusively, "is locked by another program"), (no_room, "make room")],
    ids=["locked", "full"],
)
async def test_opening_meets_faults_too(
    fault: Callable[[Path], AbstractContextManager[None]], says: str, path: Path
) -> None:
    with fault(path), pytest.raises(StoreUnavailable, match=says):
        await SqliteStore(path, 0.05).open()
    assert keys(await kept(at(path))) == ["first"]


async def test_a_new_store_needs_room(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with no_room(path), pytest.raises(StoreUnavailable, match="make room"):
        await SqliteStore(path).open()
    assert await kept(at(path)) == EMPTY


async def test_whoever_stops_waiting_for_an_opening_leaves_it_closed(path: Path) -> None:
    with exclusively(path):
        opening = asyncio.ensure_future(SqliteStore(path, 0.2).open())
        await asyncio.wait([opening], timeout=0.05)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert keys(await kept(at(path))) == ["first"]


async def test_what_no_file_takes_is_refused_alone(path: Path) -> None:
    async with opened(at(path)) as (store, _):
        odd = PutHost(host("half a character \ud800"))
        writes = [
            store.write(PutPromise(promise("one"))),
            store.write(odd),
            store.write(PutPromise(promise("lost")), odd),
            store.write(PutPromise(promise("two"))),
        ]
        fates = await asyncio.gather(*map(fate, writes))
        assert fates == [None, StoreUnavailable, StoreUnavailable, None]
    assert await kept(at(path)) == Contents((), tuple(map(promise, ("first", "one", "two"))))


class Bomb(float):
    """No time, as only a mistake of ours can be."""

    def __conform__(self, _: object) -> float:
        raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_mistake_of_ours_leaves_nobody_waiting(path: Path) -> None:
    async with opened(at(path)) as (store, _):
        writes = [store.write(PutPromise(promise(f"{n}"))) for n in range(5)]
        bomb = store.write(PutPromise(promise("bomb", changed_s=Bomb())))
        ends = await asyncio.gather(bomb, *writes, return_exceptions=True)
        assert {type(end) for end in ends} <= {ZeroDivisionError, type(None)}
        assert type(ends[0]) is ZeroDivisionError
        assert await fate(store.write(PutPromise(promise("later")))) is StoreUnavailable
    there = {f"{n}" for n, end in enumerate(ends[1:]) if end is None}
    assert set(keys(await kept(at(path)))) == {"first", *there}


# --- kill -9 ---

WRITERS = 8
_WRITER = """
import asyncio, os, sys
from pathlib import Path
from schedulerglobal.adapters.sqlitestore import SqliteStore
from schedulerglobal.ports import PutPromise
from tests.storecontract import promise

async def keep_on(store, writer, step):
    while True:
        step += 1
        await store.write(
            PutPromise(promise(f"w{writer}", attempt=str(step))),
            PutPromise(promise(f"w{writer}-{step}")),
            PutPromise(promise(f"t{writer}", attempt=str(step))),
        )
        os.write(1, b"%d %d\\n" % (writer, step))

async def main(path, *steps):
    store = SqliteStore(Path(path))
    await store.open()
    await asyncio.gather(*(keep_on(store, writer, int(step)) for writer, step in enumerate(steps)))

asyncio.run(main(*sys.argv[1:]))
"""


def test_killed_at_any_moment_every_acknowledged_write_is_there(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    rng = Random(5)
    steps = [0] * WRITERS
    for _ in range(6):
        acknowledged = run_and_kill(path, steps, after=rng.randint(1, 400))
        found = {each.key: each for each in asyncio.run(kept(at(path))).promises}
        for writer in range(WRITERS):
            step = int(found[f"w{writer}"].attempt) if f"w{writer}" in found else 0
            least = max(acknowledged.get(writer, 0), steps[writer])
            assert step in (least, least + 1)
            steps[writer] = step
            assert (f"t{writer}" in found) == (step > 0)
            if step:
                assert found[f"t{writer}"].attempt == str(step), "half of a write"
        there = Counter(key.partition("-")[0] for key in found if "-" in key)
        assert there == Counter({f"w{writer}": step for writer, step in enumerate(steps)})


def run_and_kill(path: Path, steps: list[int], after: int) -> dict[int, int]:
    """Let a process write until it has acknowledged *after* writes or more, and kill it; the last
    step each writer was told of."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), *map(str, steps)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    acknowledged: dict[int, int] = {}
    try:
        for number, line in enumerate(process.stdout, 1):
            writer, step = map(int, line.split())
            acknowledged[writer] = step
            if number == 1:
                with pytest.raises(StoreUnavailable, match="another global scheduler"):
                    asyncio.run(SqliteStore(path).open())
            if number == after:
                process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        assert process.wait(timeout=START_S) == -signal.SIGKILL
        process.stdout.close()
    return acknowledged
