"""The command line: what it asks for, what it prints, and the code it ends with."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest

from tests.clientrig import (
    DEPLOY,
    DONE,
    HOSTS,
    NO_VMS,
    ODD_IMAGE,
    SIZE,
    VM,
    Ended,
    _nobodys_settings,
    ask,
)
from tests.scripted import (
    Say,
    hangs,
    host_document,
    raw,
    refuses,
    resets,
    says,
    scripted,
    vm_document,
)

__all__ = ["_nobodys_settings"]

ASKED = {"name": "web1", "vcpus": 2, "memory_mib": 308, "level": "1.5", "image": ODD_IMAGE}
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
        ((f"--deploy=web1,2,0.3,1.5,{ODD_IMAGE}",), ASKED),
        (("--deploy", f"web1,2,.3,3/2,{ODD_IMAGE}", "--json"), ASKED),
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
        assert {**server.asked[0].document, "name": "x", "image": ODD_IMAGE} == {
            **ASKED,
            "name": "x",
        }
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
