"""Starting a global scheduler that cannot start: one sentence on stderr and the right exit code."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from schedulerglobal.__main__ import main
from schedulerprocess.options import exit_code
from tests.badinput import BAD_URLS
from tests.servers import global_service, run_global

FAILED, WRONG_USAGE = 1, 2
NOBODY = 65_534

BAD_LISTS = {
    **BAD_URLS,
    "second bad": "127.0.0.1:1,127.0.0.1",
    "semicolon": "127.0.0.1:1;127.0.0.1:2",
    "empty item": "127.0.0.1:1,,127.0.0.1:2",
    "empty end": "127.0.0.1:1,",
    "only commas": ",,",
}
TWICE = {
    "alike": "127.0.0.1:1,127.0.0.1:1",
    "with and without scheme": "http://127.0.0.1:1,127.0.0.1:1",
    "slash": "http://127.0.0.1:1/,127.0.0.1:1",
    "case": "http://NODE1:1,node1:1",
    "case of the scheme": "HTTP://node1:1,node1:1",
    "zeros": "node1:01,node1:1",
    "blanks": " node1:1 , node1:1 ",
    "not neighbours": "node1:1,node2:1,node1:1",
}
ITSELF = {
    "address": "127.0.0.1:8100",
    "whole": "http://127.0.0.1:8100",
    "name": "localhost:8100",
    "name in capitals": "LOCALHOST:8100",
    "any address": "0.0.0.0:8100",
    "IPv6": "[::1]:8100",
    "among others": "127.0.0.1:8099,127.0.0.1:8100",
}


class Starter:
    """Starts a scheduler that is not to come up, with settings in ``.env``."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.store = directory / "cluster.db"
        self._file = directory / ".env"
        self._capsys = capsys

    def refuses(self, code: int, *arguments: str, **settings: str) -> str:
        """The one line it says when it ends with *code*."""
        settings = {"SCG_PORT": "0", "SCG_STORE": f"sqlite:///{self.store}", **settings}
        self._file.write_text("".join(f"{name}='{text}'\n" for name, text in settings.items()))
        assert exit_code(main, arguments) == code
        said = self._capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert len(said.err) < 400
        return said.err

    def with_hosts(self, where: str, hosts: str) -> str:
        """The same for hosts listed there; were they right, the wrong store would end it."""
        arguments = [f"--list={hosts}"] if where == "--list" else []
        settings = {} if arguments else {where: hosts}
        settings |= {"SCG_STORE": "nothing", "SCG_PORT": "8100"}
        return self.refuses(WRONG_USAGE, *arguments, **settings)


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Starter:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("SCG_"):
            monkeypatch.delenv(name)
    return Starter(tmp_path, capsys)


EITHER = pytest.mark.parametrize("where", ["--list", "SCG_NODE_URL_LIST"])


@EITHER
@pytest.mark.parametrize("hosts", BAD_LISTS.values(), ids=BAD_LISTS)
def test_a_bad_list_of_hosts(start: Starter, where: str, hosts: str) -> None:
    said = start.with_hosts(where, hosts)
    assert said.startswith(where)
    assert "http://HOST:PORT" in said


@EITHER
@pytest.mark.parametrize("hosts", TWICE.values(), ids=TWICE)
def test_a_host_listed_twice(start: Starter, where: str, hosts: str) -> None:
    said = start.with_hosts(where, hosts)
    assert said.startswith(where)
    assert "is given twice" in said


@EITHER
@pytest.mark.parametrize("hosts", ITSELF.values(), ids=ITSELF)
def test_itself_in_the_list(start: Starter, where: str, hosts: str) -> None:
    said = start.with_hosts(where, hosts)
    assert said.startswith(where)
    assert "is this global scheduler itself" in said


@pytest.mark.parametrize(
    "hosts", ["", "node1:8099", "NODE-1.example:1 , [::1]:8099", "http://a:1/,HTTP://b:65535"]
)
@EITHER
def test_a_good_list_is_taken(start: Starter, where: str, hosts: str) -> None:
    assert start.with_hosts(where, hosts).startswith("SCG_STORE")


@pytest.mark.parametrize(
    "settings",
    [
        {"SCG_PORT": "70000"},
        {"SCG_PORT": "x"},
        {"SCG_DELAY": "0"},
        {"SCG_DELAY": "-1"},
        {"SCG_CALL_TIMEOUT": "soon"},
        {"SCG_POLICY": "best"},
        {"SCG_STORE": "mysql://x"},
        {"SCG_STORE": "sqlite:///"},
        {"SCG_STORE": "sqlite://elsewhere/x.db"},
        {"SCG_STORE": "cluster.db"},
    ],
    ids=lambda settings: "=".join(*settings.items()),
)
def test_wrong_settings(start: Starter, settings: dict[str, str]) -> None:
    assert start.refuses(WRONG_USAGE, "--list=", **settings).startswith(next(iter(settings)))


@pytest.mark.parametrize(
    "arguments", [["--list"], ["--list=a:1", "--list=b:1"], ["--hosts=a:1"], ["a:1"]], ids=str
)
def test_wrong_options(start: Starter, arguments: list[str]) -> None:
    assert start.refuses(WRONG_USAGE, *arguments)


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def garbage(path: Path) -> None:
    path.write_bytes(b"these are no promises" * 500)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def of_another_program(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A store as a global scheduler leaves it."""
    directory = tmp_path_factory.mktemp("used")
    with global_service(directory) as service:
        assert service.stop() == 0
    return (directory / "cluster.db").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (newer, "was written by a newer version"),
        (garbage, "is no store but another kind of file"),
        (cut_off, "is damaged"),
        (of_another_program, "is the database of another program"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_store_that_cannot_be_used(
    start: Starter, used: bytes, spoil: Callable[[Path], None], says: str
) -> None:
    start.store.write_bytes(used)
    spoil(start.store)
    spoilt = start.store.read_bytes()
    said = start.refuses(FAILED)
    assert says in said
    assert str(start.store) in said
    assert start.store.read_bytes() == spoilt


@pytest.mark.parametrize(
    ("store", "code", "says"),
    [
        ("sqlite:////proc/none/cluster.db", FAILED, "name a file in a folder"),
        ("sqlite:///./nowhere/cluster.db", FAILED, "name a file in a folder"),
        ("sqlite:////dev/null", FAILED, "no ordinary file"),
        ("mysql://127.0.0.1/x", WRONG_USAGE, "names no kind of store"),
    ],
)
def test_a_store_nowhere(start: Starter, store: str, code: int, says: str) -> None:
    said = start.refuses(code, SCG_STORE=store)
    assert says in said
    assert "SCG_STORE" in said


def test_a_store_that_may_only_be_read(
    used: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # the folders of pytest are closed to all but their owner
    with TemporaryDirectory() as name:
        monkeypatch.chdir(name)
        start = Starter(Path(name), capsys)
        start.store.write_bytes(used)
        with ordinary_user(start.store):
            start.store.chmod(0o444)
            said = start.refuses(FAILED)
        monkeypatch.undo()
    assert f"{start.store}: Permission denied; let this user read and write the file" in said


@contextmanager
def ordinary_user(path: Path) -> Iterator[None]:
    """As someone whom permissions hold back, who owns *path* and its folder."""
    if os.geteuid() != 0:
        yield
        return
    for each in (path, path.parent):
        os.chown(each, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_store_that_another_program_locks(start: Starter, used: bytes) -> None:
    start.store.write_bytes(used)
    with closing(sqlite3.connect(start.store, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        said = start.refuses(FAILED)
    assert f"{start.store} is locked by another program" in said


def test_a_public_address_needs_a_token(start: Starter) -> None:
    said = start.refuses(WRONG_USAGE, SCG_URL="0.0.0.0")
    assert "SCG_URL is 0.0.0.0" in said
    assert "set SCG_TOKEN_FILE" in said


@pytest.mark.parametrize("setting", ["SCG_TOKEN_FILE", "SCG_LOCAL_TOKEN_FILE"])
@pytest.mark.parametrize("content", [None, b"", b"two words\n"], ids=["none", "empty", "no token"])
def test_a_token_file_that_cannot_be_used(
    tmp_path: Path, start: Starter, setting: str, content: bytes | None
) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    said = start.refuses(WRONG_USAGE, **{setting: str(file)})
    assert str(file) in said
    assert "words" not in said


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with global_service(tmp_path / "other") as service:
        ended = run_global(tmp_path, settings={"SCG_PORT": str(service.port)})
    assert ended.returncode == FAILED
    assert f"port {service.port} of 127.0.0.1 is taken" in ended.stderr
    assert ended.stderr.count("\n") == 1
