"""The command line: what it asks for, what it prints, and the code it ends with."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from schedulerclient.cli import main
from schedulerclient.client import DEFAULT_URL, TIMEOUT_S
from schedulerclient.commands import COMMANDS
from schedulerprocess.options import exit_code
from tests.scripted import (
    Say,
    Scripted,
    hangs,
    host_document,
    raw,
    refuses,
    resets,
    says,
    scripted,
    vm_document,
)
from tests.servers import ROOT, START_S, eventually

IMAGE = "/images/a,b.qcow2"
SIZE = ("--cpu=2", "--mem=0.3", "--oc=1.5")
DEPLOY = ("deploy", "web1", *SIZE, f"--image={IMAGE}")
ASKED = {"name": "web1", "vcpus": 2, "memory_mib": 308, "level": "1.5", "image": IMAGE}
VM = says(vm_document(), 201)
DONE = says({"success": True, "reason": None})
NO_VMS = {"/v1/vms": says([])}


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("VMSTACK_URL", "VMSTACK_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(main, arguments)
    return Ended(code, out.getvalue(), err.getvalue())


def ask(server: Scripted, *arguments: str) -> Ended:
    return run(f"--url={server.url}", *arguments)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "schedulerclient", *arguments]


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("VMSTACK_")}
    return {**inherited, "PYTHONPATH": str(ROOT), **(settings or {})}


def run_process(
    directory: Path, *arguments: str, settings: Mapping[str, str] | None = None
) -> Ended:
    """As a process of its own, in *directory*."""
    ended = subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


ALL_OPTIONS = (
    *("--disk=in-place", "--max-cpu=4", "--max-mem=1", "--host=h", "--policy=best-fit"),
    *("--avoid=h1,h2", "--avoid=h3", "--affinity=db,tier=1", "--anti-affinity=app=shop"),
    *("--spread=rack", "--label", "app=shop", "--label=note=a=b, c", "--no-start"),
    "--request-id=mine-1",
)
ALL_ASKED = {
    **ASKED,
    "disk": "in-place",
    "max_vcpus": 4,
    "max_memory_mib": 1024,
    "host": "h",
    "policy": "best-fit",
    "avoid": ["h1", "h2", "h3"],
    "affinity": ["db", "tier=1"],
    "anti_affinity": ["app=shop"],
    "spread": "rack",
    "labels": {"app": "shop", "note": "a=b, c"},
    "start": False,
    "request_id": "mine-1",
}


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (DEPLOY, ASKED),
        ((*DEPLOY, *ALL_OPTIONS), ALL_ASKED),
        ((f"--deploy=web1,2,0.3,1.5,{IMAGE}",), ASKED),
        (("--deploy", f"web1,2,.3,3/2,{IMAGE}", "--json"), ASKED),
    ],
    ids=["plain", "all options", "older", "older, otherwise written"],
)
def test_deploy(arguments: Sequence[str], asked: object) -> None:
    with scripted(VM) as server:
        ended = ask(server, *arguments)
        assert [(each.method, each.target) for each in server.asked] == [("POST", "/v1/vms")]
        assert server.asked[0].document == asked
    assert (ended.code, ended.err) == (0, "")
    if "--json" in arguments:
        assert ended.json == vm_document()
    else:
        assert ended.out == "web1 is on epyc-1\n"


def test_deploying_the_same_again_says_so() -> None:
    with scripted(says(vm_document())) as server:
        assert ask(server, *DEPLOY).out == "web1 is already on epyc-1\n"


@pytest.mark.parametrize(
    "arguments", [("remove", "web1"), ("--remove=web1",)], ids=["new", "older"]
)
def test_remove(arguments: Sequence[str]) -> None:
    with scripted(DONE) as server:
        assert ask(server, *arguments) == Ended(0, "web1 is removed\n", "")
        assert [(each.method, each.target) for each in server.asked] == [("DELETE", "/v1/vms/web1")]


def test_remove_goes_on_after_a_refusal() -> None:
    removing = says({"success": True, "reason": "h is down", "status": "removing"}, 202)
    with scripted(DONE, refuses("unknown-vm", 404), DONE) as server:
        ended = ask(server, "--json", "remove", "a", "b", "a", "c")
        assert [each.target[-1] for each in server.asked] == ["a", "b", "c"]
    assert (ended.code, ended.err) == (1, "because of unknown-vm\n")
    assert [answer["success"] for answer in json.loads(ended.out).values()] == [True, False, True]
    with scripted(removing, refuses("unknown-vm", 404)) as server:
        ended = ask(server, "remove", "a", "b")
    assert (ended.code, ended.out) == (5, "a will be removed, but is not yet: h is down\n")
    with scripted(DONE, resets()) as server:
        ended = ask(server, "remove", "a", "b", "c")
        assert len(server.asked) == 2
    assert (ended.code, ended.out) == (3, "a is removed\n")
    assert ended.err.endswith("not known to be removed: b, c\n")


POWER = {"start": (), "shutdown": ("--force",), "reboot": (), "suspend": (), "resume": ()}


@pytest.mark.parametrize(("verb", "options"), POWER.items(), ids=POWER)
def test_power(verb: str, options: Sequence[str]) -> None:
    with scripted(says(vm_document(state="down"))) as server:
        assert ask(server, f"vm-{verb}", "web1", *options) == Ended(0, "web1 is down\n", "")
        assert server.asked[0].target == f"/v1/vms/web1/{verb}"
        assert server.asked[0].document == ({"force": True} if options else {})


def test_resize() -> None:
    effect = {"vcpus": "unchanged", "memory_mib": "next-boot"}
    with scripted(says(vm_document(takes_effect=effect))) as server:
        ended = ask(server, "vm-resize", "web1", "--mem=1.5")
        assert ended == Ended(0, "web1: vCPUs unchanged, memory at its next boot\n", "")
        assert server.asked[0].document == {"memory_mib": 1536}


@pytest.mark.parametrize(
    "arguments",
    [("drain", "h"), ("resume", "h"), ("maintenance", "h"), ("fence", "h", "--yes")],
    ids=lambda arguments: arguments[0],
)
def test_host_verbs(arguments: Sequence[str]) -> None:
    with scripted(says(host_document(state="draining"))) as server:
        ended = ask(server, *arguments)
        assert (server.asked[0].method, server.asked[0].target) == (
            "POST",
            f"/v1/hosts/h/{arguments[0]}",
        )
    assert ended.code == 0
    assert re.search(r"^epyc-1 +draining ", ended.out, re.MULTILINE)


def test_hosts_are_added_and_labelled() -> None:
    with scripted(says(host_document(), 201)) as server:
        assert ask(server, "add-host", "h:8099", "--label=rack=r1").code == 0
        assert server.asked[0].document == {"url": "h:8099", "labels": {"rack": "r1"}}
    labelled = host_document(labels={"rack": "r1", "kind": "big", "a": "b"})
    with scripted(says(labelled)) as server:
        assert ask(server, "label", "epyc-1", "rack=r2", "kind-", "new=").code == 0
        assert server.asked[1].method == "PATCH"
        assert server.asked[1].document == {"labels": {"rack": "r2", "a": "b", "new": ""}}
    with scripted(refuses("unknown-host", 404)) as server:
        assert ask(server, "label", "other", "rack=r2").code == 1
        assert [asked.method for asked in server.asked] == ["GET"]


EXPLANATION = {
    "host": "epyc-2",
    "policy": "progress",
    "hosts": [
        {"host": "epyc-1", "score": -1.5, "reason": None},
        {"host": "epyc-3", "score": None, "reason": "no room"},
        {"host": "epyc-2", "score": 4.0, "reason": None},
    ],
}


def test_explain_shows_the_best_host_first() -> None:
    with scripted(says(EXPLANATION)) as server:
        ended = ask(server, "explain", *SIZE)
        assert server.asked[0].target == "/v1/vms?dry_run=1"
        assert {**server.asked[0].document, "name": "x", "image": IMAGE} == {**ASKED, "name": "x"}
    assert ended.out.splitlines() == [
        "HOST    SCORE  REASON",
        "epyc-2    4.0",
        "epyc-1   -1.5",
        "epyc-3      –  no room",
        "",
        "it would go to epyc-2 by policy progress",
    ]
    with scripted(says({**EXPLANATION, "host": None})) as server:
        ended = ask(server, "--json", "explain", *SIZE)
    assert (ended.code, ended.json) == (4, {**EXPLANATION, "host": None})


HOSTS = [
    host_document(
        levels=[{"level": "3.0", "cpus": 2, "vcpus": 6}, {"level": "1.0", "cpus": 4, "vcpus": 4}],
        cpus={"total": 256, "free": 250},
    ),
    host_document("big", levels=[{"level": "3.0", "cpus": 1, "vcpus": 1}], vms=7),
    host_document(
        "gone", state="down", reachable=False, problem="timed out", levels=[], conflicts=["web7"]
    ),
]


@pytest.mark.parametrize("arguments", [("status",), ("--status",)], ids=["new", "older"])
def test_status(arguments: Sequence[str]) -> None:
    with scripted(says(HOSTS), at=NO_VMS) as server:
        ended = ask(server, *arguments)
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "HOST    STATE      CPUS USED   OF  GB USED      OF  VMS  LEVELS: VCPUS ON CPUS",
        "epyc-1  up                 6  256     24.0  1024.0    1  1.0: 4 on 4, 3.0: 6 on 2",
        "big     up                 2  256     24.0  1024.0    7  3.0: 1 on 1",
        "gone    down               2  256     24.0  1024.0    1",
        "total   2 of 3 up         10  768     72.0  3072.0    9",
        "",
        "LEVEL  CPUS OWNED  VCPUS",
        "  1.0           4      4",
        "  3.0           3      7",
        "total           7     11",
        "",
        "gone is down: timed out",
        "1 VM on gone is promised elsewhere or nowhere: web7",
    ]


def test_lists() -> None:
    vms = [vm_document(), vm_document("db", host="epyc-2", level=None, memory_mib=None)]
    with scripted(says(vms)) as server:
        assert ask(server, "vms").out.splitlines() == [
            "VM    HOST    STATUS  STATE    LEVEL  VCPUS  GB  LABELS",
            "web1  epyc-1  placed  running    1.5      2   2  app=shop",
            "db    epyc-2  placed  running      –      2   –  app=shop",
        ]
        assert ask(server, "vms", "--host=epyc-2", "--json").json == vms[1:]
    with scripted(says(HOSTS), at=NO_VMS) as server:
        assert ask(server, "hosts").out.splitlines()[1].split() == (
            "epyc-1 up epyc-1:8099 1.2 1 rack=r1".split()
        )
        assert ask(server, "hosts", "--json").json == HOSTS
    with scripted(says(vm_document())) as server:
        lines = ask(server, "vm", "web1").out.splitlines()
        assert lines[0].split() == ["name", "web1"]
        assert "pinned to     0,128" in lines
        assert not any(line.startswith("because") for line in lines)
    with scripted(says({"total": 5, "hosts": [{"host": "a", "fits": 5}]})) as server:
        ended = ask(server, "capacity", *SIZE)
        assert server.asked[0].target == "/v1/capacity?cpu=2&mem=0.30078125&oc=1.5"
    assert ended == Ended(0, "HOST   FITS\na         5\ntotal     5\n", "")


ATTEMPTS = [{"host": "epyc-1", "code": "no-capacity", "reason": "no room: 2 CPUs"}]
CODES: dict[str, tuple[Say, int, int]] = {
    "no room": (refuses("no-capacity", attempts=ATTEMPTS), 4, 4),
    "refused": (refuses("name-taken"), 1, 1),
    "without code": (says({"success": False, "reason": "no"}), 1, 1),
    "not ready": (refuses("not-ready", 503), 1, 1),
    "outcome unknown": (refuses("host-unreachable", 503, outcome="unknown"), 5, 5),
    "garbage": (raw(b"garbage"), 3, 3),
    "reset": (resets(), 3, 3),
    "silence": (hangs, 3, 3),
}


@pytest.mark.parametrize(("answer", "change", "read"), CODES.values(), ids=CODES)
def test_exit_codes(answer: Say, change: int, read: int) -> None:
    with scripted(answer) as server:
        for arguments, code in ((DEPLOY, change), (("vm-start", "a"), change), (("vms",), read)):
            ended = ask(server, "--timeout=0.1", *arguments)
            assert (ended.code, ended.out) == (code, ""), arguments
            assert "Traceback" not in ended.err
            assert ("may or may not be done" in ended.err) == (code == 3 and arguments != ("vms",))


def test_whether_a_host_that_is_away_was_asked() -> None:
    with scripted(refuses("host-unreachable", 503)) as server:
        told = {
            5: (("remove", "a"), ("vm-resize", "a", "--cpu=1")),
            1: (DEPLOY, ("add-host", "h"), ("drain", "h"), ("status",)),
        }
        for code, commands in told.items():
            for arguments in commands:
                assert ask(server, *arguments).code == code, arguments


def test_a_refusal_tells_what_each_host_said() -> None:
    with scripted(refuses("no-capacity", attempts=ATTEMPTS)) as server:
        ended = ask(server, "--json", *DEPLOY)
    assert ended.err == ("because of no-capacity\n  epyc-1: no room: 2 CPUs (no-capacity)\n")
    reason = "because of no-capacity"
    assert ended.json == {
        "success": False, "reason": reason, "code": "no-capacity", "attempts": ATTEMPTS
    }  # fmt: skip


WRONG = {
    "nothing to do": ((), "say what to do"),
    "unknown command": (("migrate",), "'migrate'"),
    "unknown option": (("status", "--verbose"), "--verbose"),
    "abbreviated option": (("--stat",), "--stat"),
    "two things": (("--status", "--remove=a"), "--remove and --status"),
    "old and new": (("--status", "vms"), "--status and vms"),
    "too few parts": (("--deploy=a,2,2,2",), "--deploy=NAME,CPU,GB,LEVEL,IMAGE"),
    "empty deploy": (("--deploy=",), "--deploy=NAME,CPU,GB,LEVEL,IMAGE"),
    "empty remove": (("--remove=",), "'' is not a name"),
    "older with a bad level": (("--deploy=a,2,2,0.5,/i",), "0.5"),
    "size left out": (("deploy", "a", "--cpu=2", "--image=/i"), "--mem"),
    "name": (("deploy", "ä", *SIZE, "--image=/i"), "is not a name"),
    "cpu": (("explain", "--cpu=1.5", *SIZE[1:]), "whole number from 1 to 4096"),
    "memory": (("explain", "--cpu=1", "--mem=1e3", "--oc=2"), "amount in GB"),
    "no memory": (("explain", "--cpu=1", "--mem=0", "--oc=2"), "amount in GB"),
    "level": (("capacity", "--cpu=1", "--mem=1", "--oc=65"), "1 to 64"),
    "given twice": (("explain", *SIZE, "--cpu=2"), "given twice"),
    "given before and after": (("--timeout=1", "vms", "--timeout=1"), "given twice"),
    "a label twice": ((*DEPLOY, "--label=a=b", "--label=a=c"), "given twice"),
    "no label": ((*DEPLOY, "--label=a"), "write it like rack=r1"),
    "less than itself": ((*DEPLOY, "--max-cpu=1"), "more than the maximum"),
    "nothing to resize": (("vm-resize", "a"), "--cpu, --mem or both"),
    "fence unsure": (("fence", "h"), "--yes"),
    "a list": ((*DEPLOY, "--avoid=a,,b"), "is not a list"),
    "timeout": (("--timeout=0", "vms"), "seconds"),
    "no name": (("vm", ".."), "'..' is not a name"),
    "token file": (("--token-file=/nowhere", "vms"), "cannot read the token file /nowhere"),
    "event": (("events", "--after=x"), "is not the id of an event"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "told"), WRONG.values(), ids=WRONG)
def test_wrong_usage_is_told_in_a_line(arguments: Sequence[str], told: str) -> None:
    with scripted(hangs) as server:
        ended = ask(server, *arguments)
        assert server.asked == []
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert told in ended.err


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


STREAM = b"HTTP/1.1 200 OK\r\n\r\n: listening\n\n"
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
