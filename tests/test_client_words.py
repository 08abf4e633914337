"""What people may write: as much as the scheduler takes, and what is wrong told in plain words."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schedulerclient import written
from schedulerclient.arguments import read_arguments
from schedulercommon import clusterwire, wire
from schedulercommon.errors import UsageError
from tests.clientrig import DEPLOY, DONE, SIZE, Ended, _nobodys_settings, ask, run_process
from tests.scripted import Say, hangs, http, raw, refuses, resets, says, scripted, vm_document

__all__ = ["_nobodys_settings"]

REGULAR = re.compile(r"pattern|\[\^|\{\d|\\x0|\^\[|\]\*|regular")

USAGE = {
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
WRONG = {
    "image": (("deploy", "a", *SIZE, "--image=hello.qcow2"), "'hello.qcow2' is not a path from /"),
    "older": (("--deploy=a,1,1,1,hello.qcow2",), "'hello.qcow2' is not a path from /"),
    "root": (("deploy", "a", *SIZE, "--image=/"), "'/' is not a path"),
    "image of two lines": (("deploy", "a", *SIZE, "--image=/a\nb"), "leave out control characters"),
    "image too long": (("deploy", "a", *SIZE, f"--image=/{'a' * 4095}"), "at most 4095"),
    "no UTF-8": (("deploy", "a", *SIZE, "--image=/\udcff"), "not UTF-8"),
    "name in bytes": (("vm", "\udcff"), r"'\udcff' is not a name"),
    "request id": ((*DEPLOY, "--request-id=a b"), "is not an id; write 1 to 128 letters"),
    "host": ((*DEPLOY, "--host=a/b"), "'a/b' is not the name of a host"),
    "avoid": ((*DEPLOY, "--avoid=a,b c"), "'b c' is not the name of a host"),
    "policy": ((*DEPLOY, "--policy=best fit"), "'best fit' is not a policy"),
    "affinity": ((*DEPLOY, "--affinity=a b"), "'a b' is not a name"),
    "anti-affinity": ((*DEPLOY, "--anti-affinity=a b=c"), "'a b' is not the name of a label"),
    "spread": ((*DEPLOY, "--spread=-"), "'-' is not the name of a label"),
    "label": ((*DEPLOY, "--label=a b=c"), "'a b' is not the name of a label"),
    "label's text": ((*DEPLOY, f"--label=a={'b' * 254}"), "it may have 253"),
    "label's control": (("label", "h", "a=\x1b[2J"), "leave out control characters"),
    "host's URL": (("add-host", "no de"), "'no de' is not where a local scheduler listens"),
    "too many": ((*DEPLOY, f"--avoid={','.join(['h'] * 65)}"), "--avoid names 65; it may name 64"),
    "vms of nobody": (("vms", "--host="), "'' is not a name"),
    "unknown before missing": (("deploy", "a", "--cpus=2"), "--cpus here; the nearest is --cpu"),
    "unknown with its value": (("deploy", "--cpus", "2", "a"), "no option --cpus here"),
    "unknown like nothing": (("status", "--zzz"), "no option --zzz here; see"),
    "too early": (("--cpu=2", "deploy", "a"), "write it after the command"),
    "unknown, abbreviated": (("vms", "--hos=a"), "the nearest is --host"),
    "command": (("stauts",), "no command 'stauts'; the nearest is status; see"),
    "command like nothing": (("migrate",), "no command 'migrate'; see"),
    "command after options": (("--timeout", "3", "vm-stop", "a"), "the nearest is vm-start"),
}  # fmt: skip


def told_at_once(*arguments: str) -> str:
    """What is told in one line of a wrong command, before anybody was asked anything."""
    with scripted(hangs) as server:
        ended = ask(server, *arguments)
        assert server.asked == []
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    return ended.err


@pytest.mark.parametrize(("arguments", "told"), USAGE.values(), ids=USAGE)
def test_wrong_usage_is_told_in_a_line(arguments: Sequence[str], told: str) -> None:
    assert told in told_at_once(*arguments)


@pytest.mark.parametrize(("arguments", "told"), WRONG.values(), ids=WRONG)
def test_wrong_words_are_told_in_plain_ones(arguments: Sequence[str], told: str) -> None:
    err = told_at_once(*arguments)
    assert told in err
    assert not REGULAR.search(err)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "--cpus", "status"),
        ("remove", "--", "--cpus"),
        ("remove", "--timeout", "5", "a"),
        ("label", "h", "a-", "--", "b-"),
    ],
    ids=["a value", "after --", "with a value", "labels to drop"],
)
def test_words_that_are_no_options(arguments: Sequence[str]) -> None:
    if arguments[0] == "--url":
        with pytest.raises(UsageError, match="expected one argument"):
            read_arguments(arguments)
    else:
        assert read_arguments(arguments).command == arguments[0]


def _takes(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except ArgumentTypeError:
        return False
    return True


# (what reads it, what the scheduler checks)
SAME: dict[str, tuple[Callable[[str], object], str]] = {
    "name": (written.name, wire.NAME_PATTERN),
    "policy": (written.policy, wire.NAME_PATTERN),
    "image": (written.image, wire.IMAGE_PATTERN),
    "request id": (written.request_id, wire.REQUEST_ID_PATTERN),
    "label": (written.label_name, wire.LABEL_PATTERN),
    "label's text": (lambda text: written.label(f"a={text}"), wire.TEXT_PATTERN),
    "host": (written.host, clusterwire.HOST_PATTERN),
    "host's URL": (written.host_url, clusterwire.URL_PATTERN),
    "selector": (written.selectors, clusterwire.SELECTOR_PATTERN),
}
letters = st.sampled_from("aZ09.-_:/=[] \n\x00\x7f\ud800~é") | st.characters()
texts = st.text(letters, max_size=5) | st.builds(
    lambda start, letter, count: start + letter * count,
    *(st.sampled_from(("", "/", "a=")), letters, st.integers(0, 300)),
)


@pytest.mark.parametrize(("read", "pattern"), SAME.values(), ids=SAME)
@given(text=texts.filter(lambda text: "," not in text))
@example(text="a\n")
@example(text="a" * 63)
@example(text="a" * 64)
@example(text="a" * 253)
@example(text="/" + "a" * 4094)
@example(text="/" + "a" * 4095)
@settings(max_examples=60, deadline=None)
def test_what_is_taken_here_the_scheduler_takes(
    read: Callable[[str], object], pattern: str, text: str
) -> None:
    whole = re.fullmatch(pattern[1:-1], text) is not None
    can_be_sent = not any("\ud800" <= character <= "\udfff" for character in text)
    assert _takes(read, text) == (whole and can_be_sent)


def test_hosts_are_removed() -> None:
    with scripted(DONE) as server:
        assert ask(server, "remove-host", "h/1") == Ended(0, "h/1 is removed\n", "")
        assert [(each.method, each.target) for each in server.asked] == [
            ("DELETE", "/v1/hosts/h%2F1")
        ]
        assert ask(server, "remove-host", "h", "--json").json == {"success": True, "reason": None}
    with scripted(refuses("wrong-state")) as server:
        assert ask(server, "remove-host", "h") == Ended(1, "", "because of wrong-state\n")
    with scripted(resets()) as server:
        ended = ask(server, "remove-host", "h")
        assert len(server.asked) == 1
    assert ended.code == 3
    assert ended.err.endswith("may or may not be done; 'python -m schedulerclient hosts' tells\n")


LOCAL = says({"service": "VMStack local scheduler of epyc-1", "routes": {}})


@pytest.mark.parametrize(
    "arguments", [("status",), ("vms",), DEPLOY, ("remove", "a"), ("events",)], ids=lambda a: a[0]
)
def test_a_local_scheduler_is_told_nothing(arguments: Sequence[str]) -> None:
    with scripted(DONE, at={"/": LOCAL}) as server:
        ended = ask(server, *arguments)
        assert server.asked == []
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(
        "that is a local scheduler (epyc-1); the client wants the global one, usually port 8100"
    )


@pytest.mark.parametrize(
    "first",
    [refuses("not-found", 404), says([]), http(b"<html>"), raw(), says({"service": 1})],
    ids=["none", "a list", "a page", "nothing", "a number"],
)
def test_a_first_page_that_tells_nothing_is_no_obstacle(first: Say) -> None:
    with scripted(says([]), at={"/": first}) as server:
        assert ask(server, "vms").code == 0
    with scripted(refuses("not-found", 404), at={"/": first}) as server:
        ended = ask(server, "vms")
    assert ended.code == 1
    assert "is that the global scheduler, usually port 8100" in ended.err


def test_one_that_is_silent_is_asked_for_nothing_else() -> None:
    with scripted(DONE, at={"/": hangs}) as server:
        ended = ask(server, "--timeout=0.1", "remove", "a")
        assert server.asked == []
    assert ended.code == 3
    assert "may or may not" not in ended.err


@pytest.mark.parametrize(
    ("state", "told"),
    [("down", "at once"), ("running", "live"), (None, "live")],
)
def test_when_a_size_counts(state: str | None, told: str) -> None:
    effect = {"vcpus": "live", "memory_mib": "next-boot"}
    with scripted(says(vm_document(takes_effect=effect, state=state))) as server:
        ended = ask(server, "vm-resize", "web1", "--cpu=3", "--mem=2")
    assert ended.out == f"web1: vCPUs {told}, memory at its next boot\n"


def test_the_help_of_a_deploy_says_what_its_options_do() -> None:
    told = " ".join(run_process(Path.cwd(), "deploy", "--help").out.split())
    assert "vCPUs it can be given without a reboot; more takes a reboot" in told
    assert "memory it can be given without a reboot, GB; more takes a reboot" in told
    assert "overlay: a disk of its own on the image; in-place: the image itself" in told
