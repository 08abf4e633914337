"""The SQLite store: whose file it takes, what it says of one it cannot, and what faults cost."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from schedulercommon.errors import ConfigError, InputError, StoreUnavailable
from schedulerglobal.adapters.sqliteschema import APPLICATION_ID, MIGRATIONS
from schedulerglobal.adapters.sqlitestore import SqliteStore
from schedulerglobal.adapters.stores import store_for
from schedulerglobal.ports import Contents, PutPromise
from tests.servers import ROOT, START_S
from tests.storecontract import EMPTY, fate, kept, opened, promise

NOBODY = 65534


def at(path: Path, patience_s: float = 0.05) -> Callable[[], SqliteStore]:
    return lambda: SqliteStore(path, patience_s)


def keys(contents: Contents) -> list[str]:
    return [each.key for each in contents.promises]


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A store with one promise."""
    path = tmp_path / "store.db"
    async with opened(at(path)) as (store, _):
        await store.write(PutPromise(promise("first")))
    return path


# --- SCG_STORE ---


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///./store.db", "store.db"),
        ("sqlite:///store.db", "store.db"),
        ("sqlite:///a folder/%41.db", "a folder/%41.db"),
        ("sqlite:////{}/whole.db", "whole.db"),
    ],
)
async def test_a_url_names_a_file(
    url: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    store = store_for(url.replace("{}", str(tmp_path)))
    await store.open()
    await store.close()
    assert (tmp_path / file).stat().st_size > 0


@pytest.mark.parametrize(
    "url",
    [
        *("", "store.db", "/store.db", "sqlite", "sqlite:", "sqlite:store.db", "sqlite:/store.db"),
        *("sqlite://", "sqlite:///", "sqlite:////", "sqlite:///a/", "sqlite:///..", "sqlite:///."),
        *("sqlite://store.db", "sqlite://host/store.db", "sqlite:///:memory:"),
        *("sqlite:///a.db?mode=ro", "sqlite:///a.db#x", "SQLITE:///a.db", "mysql://h/vms"),
    ],
)
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^SCG_STORE: .*write sqlite:///\./FILE"):
        store_for(url)


# --- whose file it is ---


async def test_a_second_scheduler_is_kept_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "link.db").symlink_to(path)
    (path.parent / "folder").symlink_to(path.parent)
    (path.parent / "inner").mkdir()
    monkeypatch.chdir(path.parent)
    others = ("store.db", "./inner/../store.db", "link.db", "folder/link.db", str(path))
    async with opened(at(path)) as (store, _):
        for other in others:
            with pytest.raises(StoreUnavailable, match="another global scheduler is using"):
                await SqliteStore(Path(other)).open()
        await store.write(PutPromise(promise("second")))
    for other in others:
        assert keys(await kept(at(Path(other)))) == ["first", "second"]


async def test_a_link_to_a_file_that_is_not_there_yet_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "there.db")
    async with opened(at(tmp_path / "there.db")):
        with pytest.raises(StoreUnavailable, match="another global scheduler"):
            await SqliteStore(tmp_path / "link.db").open()


async def test_a_store_that_could_not_be_opened_keeps_no_one_out(path: Path) -> None:
    with exclusively(path):
        assert await fate(SqliteStore(path, 0.01).open()) is StoreUnavailable
    assert keys(await kept(at(path))) == ["first"]


def foreign_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE promises (id INTEGER)")
        connection.execute("PRAGMA user_version = 1")


def foreign_log_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE notes (id INTEGER)")


def garbage(path: Path) -> None:
    path.write_bytes(Random(1).randbytes(20_000))


def half_a_header(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0")


def settings_file(path: Path) -> None:
    path.write_text("SCG_PORT=8100\n")


def newer(path: Path) -> None:
    asyncio.run(kept(at(path)))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (foreign_database, "database of another program; name another file in SCG_STORE"),
        (foreign_log_database, "database of another program"),
        (garbage, "is no store but another kind of file; name another in SCG_STORE"),
        (half_a_header, "database of another program"),
        (settings_file, "is no store but another kind of file"),
        (
            newer,
            r"was written by a newer version \(schema 7, this one knows 1\); run that version",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_file_that_is_not_ours_is_left_alone(
    prepare: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.db"
    prepare(path)
    before = files(tmp_path)
    with pytest.raises(InputError, match=f"other.db.*{says}"):
        asyncio.run(SqliteStore(path).open())
    assert files(tmp_path) == {"other.db.lock": b"", **before}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def damage_pages(path: Path) -> None:
    overwrite(path, 4096, Random(2).randbytes(path.stat().st_size - 4096))


def damage_first_page(path: Path) -> None:
    overwrite(path, 100, b"\xff" * 3996)


def cut_off(path: Path) -> None:
    os.truncate(path, 5000)


def change(statement: str, *values: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            assert connection.execute(statement, values).rowcount != 0

    damage.__name__ = "-".join((statement, *values))
    return damage


def odd_spec(text: str) -> Callable[[Path], None]:
    return change("UPDATE promises SET spec = ?", text)


@pytest.mark.parametrize(
    "damage",
    [
        *(damage_pages, damage_first_page, cut_off),
        *(odd_spec("{"), odd_spec("[]"), odd_spec('{"name": 1}'), odd_spec("")),
        change("UPDATE promises SET status = 'happy'"),
        change("UPDATE promises SET spec = x'ff'"),
        change("UPDATE promises SET reason = CAST(x'ff' AS TEXT)"),
        change("DROP TABLE promises"),
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_file_is_told_apart(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def fill() -> None:
        async with opened(at(path)) as (store, _):
            await store.write(PutPromise(promise("first")))

    asyncio.run(fill())
    damage(path)
    with pytest.raises(InputError, match=r"store\.db is damaged.*; restore a copy"):
        asyncio.run(SqliteStore(path).open())


def missing_folder(path: Path) -> Path:
    return path.parent / "nowhere" / "store.db"


def folder(path: Path) -> Path:
    return path.parent


def file_as_folder(path: Path) -> Path:
    return path / "store.db"


def pipe(path: Path) -> Path:
    os.mkfifo(path.parent / "pipe")
    return path.parent / "pipe"


def too_long(path: Path) -> Path:
    return path.parent / ("x" * 300)


@pytest.mark.parametrize("place", [missing_folder, folder, file_as_folder, pipe, too_long])
async def test_a_place_where_no_file_can_be(place: Callable[[Path], Path], path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"; name a file .*in SCG_STORE"):
        await SqliteStore(place(path)).open()


@contextmanager
def ordinary_user(path: Path) -> Iterator[None]:
    """As someone whom permissions hold back, who owns *path* and its folder."""
    if os.geteuid() != 0:
        yield
        return
    for each in (path.parent, *path.parent.iterdir()):
        os.chown(each, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "says"),
    [
        (0o444, 0o755, "Permission denied; let this user read and write the file"),
        (0o000, 0o755, "Permission denied; let this user read and write the file"),
        (0o644, 0o555, "Permission denied; name a file in a folder this user may write to"),
    ],
    ids=["read-only file", "unreadable file", "read-only folder"],
)
async def test_a_file_this_user_may_not_write(file_mode: int, folder_mode: int, says: str) -> None:
    # the folders of pytest are closed to all but their owner
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "store.db"
        async with opened(at(path)) as (store, _):
            await store.write(PutPromise(promise("first")))
        (path.parent / "store.db.lock").unlink()
        with ordinary_user(path):
            path.chmod(file_mode)
            path.parent.chmod(folder_mode)
            try:
                with pytest.raises(StoreUnavailable, match=says):
                    await SqliteStore(path).open()
            finally:
                path.parent.chmod(0o755)
                path.chmod(0o644)
            assert keys(await kept(at(path))) == ["first"]


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


# --- what is in the file ---


def test_the_file_says_whose_it_is_and_how_old(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    asyncio.run(kept(at(path)))
    header = path.read_bytes()[:100]
    assert int.from_bytes(header[68:72], "big") == APPLICATION_ID
    assert int.from_bytes(header[60:64], "big") == len(MIGRATIONS) == 1


async def test_others_may_read_a_store_in_use(path: Path) -> None:
    async with opened(at(path)) as (store, _):
        await store.write(PutPromise(promise("second")))
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT key, name, status FROM promises ORDER BY id")
            assert list(rows) == [("first", "first", "pending"), ("second", "second", "pending")]


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
