"""What the client library makes of answers: as they should be, refusals, and what is none."""

from __future__ import annotations

import socket
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedulerclient.answers import Vm, read_vm
from schedulerclient.client import Client
from schedulerclient.faults import Attempt, Refused, Unreachable
from tests.clientrig import TAKES, WEB1
from tests.scripted import (
    Say,
    hangs,
    host_document,
    http,
    raw,
    refuses,
    resets,
    says,
    scripted,
    vm_document,
)


def test_answers_become_values() -> None:
    later = {"moon": "full"}
    removing = {"success": True, "reason": "its host is down", "status": "removing"}
    verdicts = [
        {"host": "a", "score": 1, "reason": None},
        {"host": "b", "score": None, "reason": "full"},
    ]
    with scripted(
        says([vm_document(**later)]),
        says([host_document(**later)]),
        says(removing, 202),
        says(vm_document(**TAKES)),
        says({"host": "a", "policy": "progress", "hosts": verdicts}),
        says({"total": 5, "hosts": [{"host": "a", "fits": 3}, {"host": "b", "fits": 2}]}),
    ) as server:
        client = Client(server.url)
        [vm] = client.vms()
        assert (vm.name, vm.host, vm.level, vm.runs_at) == ("web1", "epyc-1", Fraction(3, 2), 1)
        assert (vm.labels, vm.pinned_cpus, vm.document["moon"]) == (
            {"app": "shop"},
            (0, 128),
            "full",
        )
        [host] = client.hosts()
        assert (host.cpus.used, host.seen_s_ago, host.levels[0].vcpus) == (2, 1.25, 2)
        removal = client.remove("web1")
        assert (removal.done, removal.reason) == (False, "its host is down")
        assert client.resize("web1", vcpus=2).vcpus == "live"
        explanation = client.explain(WEB1)
        assert [verdict.score for verdict in explanation.hosts] == [1.0, None]
        assert client.room(vcpus=1, memory_mib=1, level=Fraction(1)).hosts == {"a": 3, "b": 2}


def test_what_a_host_was_not_asked_for_is_none() -> None:
    unknown = dict.fromkeys(("level", "vcpus", "memory_mib", "image", "runs_at", "state"))
    nothing = dict.fromkeys(("pinned_cpus", "memory_nodes"))
    vm = read_vm(vm_document(**unknown, **nothing))
    assert (vm.level, vm.vcpus, vm.state, vm.pinned_cpus) == (None, None, None, None)
    assert read_vm({"name": "a"}) == Vm(
        name="a", host="", status="", state=None, level=None, runs_at=None, vcpus=None,
        memory_mib=None, image=None, labels={}, owner="", request_id="", reason=None, conflicts=(),
        pinned_cpus=None, memory_nodes=None,
    )  # fmt: skip


def test_refusals_tell_all_the_scheduler_said() -> None:
    attempts = [{"host": "a", "code": "no-capacity", "reason": "full", "more": 1}, "garbage"]
    with scripted(refuses("no-capacity", attempts=attempts)) as server:
        with pytest.raises(Refused, match="because of no-capacity") as refused:
            Client(server.url).deploy(WEB1)
        assert refused.value.code == "no-capacity"
        assert refused.value.attempts == (Attempt("a", "no-capacity", "full"),)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        (says({"success": False, "reason": "no"}), "", "no"),
        (says({"success": False, "reason": None, "code": 7}, 400), "", "refused, and no reason"),
        (refuses("later-invented", 500), "later-invented", "because of"),
    ],
    ids=["200 all the same", "without reason", "a new code"],
)
def test_the_body_decides_what_is_a_refusal(answer: Say, code: str, reason: str) -> None:
    with scripted(answer) as server, pytest.raises(Refused, match=reason) as refused:
        Client(server.url).remove("web1")
    assert refused.value.code == code


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
BAD: dict[str, Say] = {
    "closes at once": raw(),
    "resets at once": resets(),
    "resets within": resets(OK + b"[1"),
    "less than promised": http(b"[", length=9),
    "no HTTP": raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "a head without end": raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000),
    "a line without end": raw(b"HTTP/1.1 200 " + b"x" * 100_000),
    "no JSON": http(b"<html>hello</html>"),
    "no UTF-8": http(b'{"name": "\xff"}'),
    "nested deeply": http(b"[" * 100_000),
    "an endless number": http(b"9" * 100_000),
    "empty": http(b""),
    "another JSON": says("hello"),
    "an object of another kind": says({"a": 1}),
    "a field of another type": says({"name": 1, "success": "yes"}),
    "another's 404": http(b"<html>not found</html>", 404),
    "a failure without code": says({"success": False, "reason": "oops"}, 500),
    "a failure in JSON": says({"success": True, "name": "web1"}, 500),
    "a redirection": raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"),
    "hangs": hangs,
    "trickles its head": raw(*[b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 200], every_s=0.02),
    "trickles its body": raw(OK.replace(b"9", b"900"), *[b" "] * 200, every_s=0.02),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
def test_no_usable_answer(answer: Say) -> None:
    with scripted(answer) as server:
        client = Client(server.url, timeout_s=0.3)
        start_s = time.monotonic()
        with pytest.raises(Unreachable, match=r"^[^\n]+$") as read:
            client.vm("web1")
        assert not read.value.maybe_done
        before = len(server.asked)
        with pytest.raises(Unreachable) as changed:
            client.remove("web1")
        assert changed.value.maybe_done
        assert len(server.asked) == before + 1
        assert time.monotonic() - start_s < 3


def test_a_read_that_breaks_off_is_asked_once_more() -> None:
    with scripted(resets(), says([])) as server:
        assert Client(server.url).vms() == ()
        assert len(server.asked) == 2
    with scripted(resets(), raw(), says([])) as server:
        with pytest.raises(Unreachable):
            Client(server.url).vms()
        assert len(server.asked) == 2
    explanation = says({"host": None, "policy": "", "hosts": []})
    with scripted(resets(), explanation) as server:
        assert Client(server.url).explain(WEB1).host is None


def test_one_that_takes_too_long_is_not() -> None:
    with scripted(hangs) as server:
        with pytest.raises(Unreachable, match=r"did not answer within 0.1 s"):
            Client(server.url, timeout_s=0.1).vms()
        assert len(server.asked) == 1


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match=rf"127\.0\.0\.1:{port}: connection refused") as problem:
        Client(f"127.0.0.1:{port}").deploy(WEB1)
    assert not problem.value.maybe_done


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(list(vm_document())), json_values, max_size=4))
@settings(max_examples=50)
def test_any_vm_is_read_or_senseless(about: dict[str, Any]) -> None:
    try:
        vm = read_vm(vm_document(**about))
    except ValueError:
        return
    assert vm.name == about.get("name", "web1")
