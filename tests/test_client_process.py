"""The command line as a program: its settings, its terminal, its pipes, and what ends it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from schedulerclient.client import DEFAULT_URL, TIMEOUT_S
from schedulerclient.commands import COMMANDS
from tests.clientrig import (
    DEPLOY,
    HOSTS,
    NO_VMS,
    STREAM,
    _nobodys_settings,
    ask,
    command,
    environment,
    run,
    run_process,
)
from tests.scripted import hangs, host_document, raw, refuses, says, scripted, vm_document
from tests.servers import START_S, eventually

__all__ = ["_nobodys_settings"]


def test_help_is_at_hand_and_true() -> None:
    told = run_process(Path.cwd(), "--help")
    assert (told.code, told.err) == (0, "")
    assert f"answer may take; s ({TIMEOUT_S:g})" in told.out
    assert DEFAULT_URL in told.out
    for name in (*COMMANDS, "events"):
        assert re.search(rf"^    {name} ", told.out, re.MULTILINE), name
        assert run_process(Path.cwd(), name, "--help").code == 0


def test_wrong_address() -> None:
    ended = run("--url=ftp://node", "status")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "--url: 'ftp://node' is not where a scheduler listens;"
        " write it like http://127.0.0.1:8100\n"
    )


def test_settings(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("\nfirst\nsecond\n")
    with scripted(refuses("unauthorized", 401)) as server:
        ended = run_process(tmp_path, "status", settings={"VMSTACK_URL": server.url})
        assert (ended.code, "VMSTACK_TOKEN_FILE" in ended.err) == (1, True)
    with scripted(says([])) as server, scripted(says([])) as other:
        tokens = {"VMSTACK_URL": server.url, "VMSTACK_TOKEN_FILE": "tokens"}
        assert run_process(tmp_path, "status", settings=tokens).code == 0
        assert server.asked[-1].headers["authorization"] == "Bearer first"
        (tmp_path / ".env").write_text(f"VMSTACK_URL={server.url}\nVMSTACK_TOKEN_FILE=nowhere\n")
        assert run_process(tmp_path, "status", "--token-file=tokens", "--json").json == []
        assert run_process(tmp_path, f"--url={other.url}", "--token-file=tokens", "vms").code == 0
        assert (len(server.asked), len(other.asked)) == (3, 1)
    (tmp_path / ".env").write_text("VMSTACK_URL=http://a b\n")
    ended = run_process(tmp_path, "status")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("VMSTACK_URL: 'http://a b' is not where a scheduler listens")
    (tmp_path / ".env").unlink()
    (tmp_path / "tokens").write_text("two words\n")
    ended = run("--token-file", str(tmp_path / "tokens"), "status")
    assert (ended.code, "holds no token" in ended.err) == (2, True)


def test_a_terminal_gets_bars_and_colours(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    look = {"TERM": "xterm-256color", "COLUMNS": "200", "NO_COLOR": ""}
    with scripted(says(HOSTS), at=NO_VMS) as server, os.fdopen(ours, "rb", buffering=0) as screen:
        ended = subprocess.run(
            command(f"--url={server.url}", "status"),
            cwd=tmp_path,
            env=environment({**look, "PYTHONIOENCODING": "utf-8"}),
            stdout=theirs,
            stderr=subprocess.PIPE,
            timeout=START_S,
            check=False,
        )
        shown = screen.read(1 << 16)
        os.close(theirs)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"\x1b[31mdown" in shown
    assert "░░░░".encode() in shown
    assert b"2 of 3 up" in shown


def test_nothing_a_host_says_reaches_the_terminal_as_a_command() -> None:
    evil = host_document("a\x1b[2Jb", problem="x\ry\u202e", labels={"[red]": "\u009b1m"})
    with scripted(says([evil]), at=NO_VMS) as server:
        for name in ("status", "hosts"):
            out = ask(server, name).out
            assert out.replace("\n", "").isprintable()
            assert r"a\x1b[2Jb" in out
    with scripted(refuses("no\x1b[2J")) as server:
        assert ask(server, "vms").err == "because of no\\x1b[2J\n"


def test_what_the_locale_cannot_write_is_escaped(tmp_path: Path) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    with scripted(says([vm_document(level=None, labels={"place": "Zürich"})])) as server:
        ended = run_process(tmp_path, f"--url={server.url}", "vms", settings=ascii_only)
    assert (ended.code, ended.err) == (0, "")
    assert r"place=Z\xfcrich" in ended.out


def test_a_reader_that_has_enough_is_no_failure(tmp_path: Path) -> None:
    many = [vm_document(f"vm-{number}") for number in range(5000)]
    with scripted(says(many)) as server:
        running = subprocess.Popen(
            command(f"--url={server.url}", "vms"),
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert running.stdout is not None
        assert running.stdout.readline().startswith(b"VM ")
        running.stdout.close()
        assert running.stderr is not None
        with closing(running.stderr) as told:
            assert told.read() == b""
        assert running.wait(START_S) == 128 + signal.SIGPIPE


def test_a_closed_output_is_no_failure(tmp_path: Path) -> None:
    with scripted(says(HOSTS), at=NO_VMS) as server:
        for closed in ("stdout", "stderr"):
            number = {"stdout": 1, "stderr": 2}[closed]
            line = f'exec "$@" {number}>&-'
            ended = subprocess.run(
                ["sh", "-c", line, "sh", *command(f"--url={server.url}", "status")],
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                timeout=START_S,
                check=False,
            )
            assert (ended.returncode, ended.stderr) == (0, b""), closed
            assert bool(ended.stdout) == (closed == "stderr")


PLACED = b'id: 7\nevent: placed\ndata: {"name": "web1", "cpus": [1, 2]}\n\n'


def test_events() -> None:
    with scripted(raw(STREAM, PLACED)) as server:
        ended = ask(server, "events", "--after=6")
        assert server.asked[0].headers["last-event-id"] == "6"
        assert (ended.code, ended.out) == (3, "placed name=web1 cpus=[1, 2]\n")
        assert "go on with 'python -m schedulerclient events --after=7'" in ended.err
        about = {"name": "web1", "cpus": [1, 2]}
        assert ask(server, "--json", "events").json == {"id": 7, "event": "placed", "data": about}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(DEPLOY, "interrupted; what was asked may or may not be done"), (("vms",), "")],
    ids=["a change", "a look"],
)
def test_interrupted(tmp_path: Path, arguments: Sequence[str], told: str) -> None:
    with scripted(hangs) as server:
        running = subprocess.Popen(
            command(f"--url={server.url}", *arguments),
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        eventually(lambda: server.asked)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=START_S)
    assert running.returncode == 130
    assert err.startswith(told)
    assert "Traceback" not in err
