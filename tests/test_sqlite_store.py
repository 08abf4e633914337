"""The SQLite store: whose file it takes, what it says of one it cannot, and what faults cost."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from schedulercommon.errors import ConfigError, InputError, StoreUnavailable
from schedulercommon.levels import parse_level
from schedulerglobal.adapters.sqliteschema import APPLICATION_ID, MIGRATIONS
from schedulerglobal.adapters.sqlitestore import SqliteStore
from schedulerglobal.adapters.stores import store_for
from schedulerglobal.core.view import Shape
from schedulerglobal.ports import Contents, PutPromise, PutShares
from tests.sqliterig import at, keys, path
from tests.storecontract import kept, opened, promise

__all__ = ["path"]

NOBODY = 65534


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
            r"was written by a newer version \(schema 7, this one knows 2\); run that version",
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


async def test_a_file_of_an_older_version_is_brought_to_this_one(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE shares")
        connection.execute("PRAGMA user_version = 1")
    shares = ((Shape(2, 2048, parse_level("4/3")), 5),)
    async with opened(at(path)) as (store, contents):
        assert contents == Contents((), (promise("first"),))
        await store.write(PutShares(shares))
    assert await kept(at(path)) == Contents((), (promise("first"),), shares)


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
        change("UPDATE shares SET level = 'half'"),
        change("UPDATE shares SET vcpus = 'two'"),
        change("UPDATE shares SET memory_mib = 0"),
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_file_is_told_apart(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def fill() -> None:
        async with opened(at(path)) as (store, _):
            shares = PutShares(((Shape(2, 2048, parse_level("3")), 5),))
            await store.write(PutPromise(promise("first")), shares)

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


# --- what is in the file ---


def test_the_file_says_whose_it_is_and_how_old(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    asyncio.run(kept(at(path)))
    header = path.read_bytes()[:100]
    assert int.from_bytes(header[68:72], "big") == APPLICATION_ID
    assert int.from_bytes(header[60:64], "big") == len(MIGRATIONS) == 2


async def test_others_may_read_a_store_in_use(path: Path) -> None:
    async with opened(at(path)) as (store, _):
        await store.write(PutPromise(promise("second")))
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT key, name, status FROM promises ORDER BY id")
            assert list(rows) == [("first", "first", "pending"), ("second", "second", "pending")]
