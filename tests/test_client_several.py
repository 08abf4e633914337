"""The client of several global schedulers: whom it asks, what it asks again, and what never."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

import pytest

from schedulerclient.client import Client, Power
from schedulerclient.faults import Refused, Unreachable
from tests.clientrig import DONE, VM, WEB1, run
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
from tests.servers import eventually

UNSURE = {"status": 503, "outcome": "unknown"}


@dataclass
class Seats:
    """Who leads, as scripted schedulers tell it."""

    leader: str = ""
    epoch: int = 1
    asked: list[str] = field(default_factory=list)

    def told_by(self, name: str) -> Say:
        def say(line: socket.socket, ending: Event) -> None:
            self.asked.append(name)
            leading = name == self.leader
            document = {"leading": leading, "shared": True, "url": "", "epoch": self.epoch}
            says(document)(line, ending)

        return say

    def passes_to(self, name: str, answer: Say) -> Say:
        """*answer*, after which that one leads."""

        def say(line: socket.socket, ending: Event) -> None:
            self.leader, self.epoch = name, self.epoch + 1
            answer(line, ending)

        return say


@contextmanager
def two(seats: Seats, *of_a: Say, b: tuple[Say, ...] = (VM,)) -> Iterator[tuple[Scripted, ...]]:
    """Schedulers a and b, and what they answer."""
    with (
        scripted(*of_a, at={"/v1/leader": seats.told_by("a")}) as one,
        scripted(*b, at={"/v1/leader": seats.told_by("b")}) as other,
    ):
        yield one, other


def of(*servers: Scripted, timeout_s: float = 10.0) -> Client:
    return Client([server.url for server in servers], timeout_s=timeout_s)


def nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def methods(server: Scripted) -> list[str]:
    return [asked.method for asked in server.asked]


def test_a_change_goes_to_the_one_that_leads_and_only_there() -> None:
    seats = Seats("b")
    with two(seats, VM) as (a, b):
        client = of(a, b)
        assert client.deploy(WEB1).created
        assert client.power("web1", Power.START).name == "web1"
        assert (methods(a), methods(b)) == ([], ["POST", "POST"])
        # it is remembered
        assert seats.asked == ["a", "b"]


def test_what_reads_is_asked_of_the_last_that_answered() -> None:
    with two(Seats("a"), says([]), b=(says([]),)) as (a, b):
        client = Client([nowhere(), b.url, a.url])
        client.vms()
        client.vms()
        assert (len(a.asked), len(b.asked)) == (0, 2)
    with pytest.raises(Unreachable, match=r"refused; .*refused"):
        Client([nowhere(), nowhere()]).vms()


@pytest.mark.parametrize(
    "bad",
    [resets(), raw(b"SSH-2.0-OpenSSH_9.2\r\n"), refuses("not-ready", 503), says("hello", 500)],
    ids=["reset", "no HTTP", "starting", "failing"],
)
def test_a_reader_goes_on_to_the_next(bad: Say) -> None:
    with two(Seats("a"), bad, b=(says([]),)) as (a, b):
        assert of(a, b).vms() == ()
        assert (len(a.asked), len(b.asked)) == (1, 1)


def test_who_does_not_know_a_vm_may_be_behind() -> None:
    unknown = refuses("unknown-vm", 404)
    with two(Seats("b"), unknown, b=(says(vm_document()),)) as (a, b):
        assert of(a, b).vm("web1").name == "web1"
    with two(Seats("b"), unknown, b=(unknown,)) as (a, b), pytest.raises(Refused) as refused:
        of(a, b).vm("web1")
    assert refused.value.code == "unknown-vm"
    fresh = says(host_document("fresh"))
    with two(Seats("b"), says(host_document()), b=(fresh,)) as (a, b):
        assert of(a, b).host("h", fresh=True).name == "fresh"


CHANGES: dict[str, tuple[Callable[[Client], object], Say]] = {
    "deploy": (lambda client: client.deploy(WEB1), VM),
    "removal": (lambda client: client.remove("web1"), DONE),
    "verb": (lambda client: client.power("web1", Power.REBOOT), VM),
    "host": (lambda client: client.add_host("h"), says(host_document())),
}
NOT_DONE = {
    "not the leader": refuses("not-leader", 503),
    "starting": refuses("not-ready", 503),
    "no store": refuses("store-unavailable", 503),
    "busy": refuses("overloaded", 503),
}
MAYBE_DONE = {
    "reset": resets(),
    "garbage": raw(b"garbage"),
    "lost the lead": refuses("host-unreachable", **UNSURE),  # type: ignore[arg-type]
    "store lost": refuses("store-unavailable", **UNSURE),  # type: ignore[arg-type]
}
AGAIN = ("deploy", "removal")


@pytest.mark.parametrize("bad", NOT_DONE)
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_not_done_is_asked_of_the_next_leader(change: str, bad: str) -> None:
    seats = Seats("a")
    call, good = CHANGES[change]
    with two(seats, seats.passes_to("b", NOT_DONE[bad]), b=(good,)) as (a, b):
        if change in AGAIN or bad == "not the leader":
            assert call(of(a, b))
            assert (len(a.asked), len(b.asked)) == (1, 1)
        else:
            # a verb may be done already when the store fails
            with pytest.raises(Refused):
                call(of(a, b))
            assert (len(a.asked), len(b.asked)) == (1, 0)


@pytest.mark.parametrize("bad", MAYBE_DONE)
@pytest.mark.parametrize("change", CHANGES)
def test_what_may_be_done_is_asked_again_only_where_that_is_safe(change: str, bad: str) -> None:
    seats = Seats("a")
    call, good = CHANGES[change]
    with two(seats, seats.passes_to("b", MAYBE_DONE[bad]), b=(good,)) as (a, b):
        if change in AGAIN:
            assert call(of(a, b))
        else:
            with pytest.raises((Refused, Unreachable)) as problem:
                call(of(a, b))
            match problem.value:
                case Refused(outcome_unknown=unsure) | Unreachable(maybe_done=unsure):
                    assert unsure
        assert (len(a.asked), len(b.asked)) == (1, 1 if change in AGAIN else 0)


def test_a_removal_that_was_done_already_is_done() -> None:
    seats = Seats("a")
    gone = refuses("unknown-vm", 404)
    with two(seats, seats.passes_to("b", resets()), b=(gone,)) as (a, b):
        assert of(a, b).remove("web1").done
    # one that was never asked before knows better
    with two(Seats("b"), DONE, b=(gone,)) as (a, b), pytest.raises(Refused) as refused:
        of(a, b).remove("web1")
    assert refused.value.code == "unknown-vm"


def test_an_outcome_a_host_keeps_to_itself_is_told_at_once() -> None:
    with two(Seats("a"), refuses("host-unreachable", **UNSURE)) as (a, b):  # type: ignore[arg-type]
        with pytest.raises(Refused) as refused:
            of(a, b).deploy(WEB1)
        assert refused.value.outcome_unknown
        assert (len(a.asked), len(b.asked)) == (1, 0)


def test_a_refusal_that_tells_nothing_leaves_the_outcome_unknown() -> None:
    seats = Seats("a")
    first = seats.passes_to("b", resets())
    with two(seats, first, b=(refuses("unauthorized", 401),)) as (a, b):
        with pytest.raises(Unreachable) as problem:
            of(a, b).deploy(WEB1)
        assert problem.value.maybe_done
        assert len(b.asked) == 1
    seats.leader = "a"
    with two(seats, first, b=(refuses("no-capacity"),)) as (a, b):
        with pytest.raises(Refused) as refused:
            of(a, b).deploy(WEB1)
        assert refused.value.code == "no-capacity"


@pytest.mark.parametrize("change", CHANGES)
def test_a_leader_that_is_gone_is_left_for_the_next(change: str) -> None:
    seats = Seats("b")
    call, good = CHANGES[change]
    with two(seats, good) as (a, b):
        with two(seats, VM, b=(VM,)) as (_, gone):
            client = of(a, gone)
            client.deploy(WEB1)
            assert methods(gone) == ["POST"]
        # nobody listens there any more
        seats.leader, seats.epoch = "a", 2
        assert call(client)
        assert (len(a.asked), len(b.asked)) == (1, 0)


def test_a_leader_that_fell_silent_is_left_for_the_next() -> None:
    seats = Seats("a")
    with two(seats, hangs) as (a, b):
        client = of(a, b, timeout_s=30.0)
        done: list[bool] = []
        asking = Thread(target=lambda: done.append(client.deploy(WEB1).created))
        asking.start()
        eventually(lambda: a.asked)
        seats.leader, seats.epoch = "b", 2
        asking.join(20)
        assert done == [True]
        assert (len(a.asked), len(b.asked)) == (1, 1)


def test_it_waits_for_a_leader_until_its_time_is_up() -> None:
    told: list[str] = []
    with two(Seats(), refuses("not-leader", 503)) as (a, b):
        client = Client(f"{a.url}, {b.url}", timeout_s=0.6, tell=told.append)
        with pytest.raises(Refused) as refused:
            client.deploy(WEB1)
        # whoever answers may pass it on, or have become the leader
        assert len(a.asked) > 1
        assert b.asked == []
    assert refused.value.code == "not-leader"
    assert len(told) == 1
    assert "waiting for one that leads" in told[0]


def test_one_alone_that_waits_for_its_lead_is_waited_for() -> None:
    with scripted(refuses("not-leader", 503), refuses("not-leader", 503), VM) as server:
        assert Client(server.url).deploy(WEB1).created
        assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("standing", "why"),
    [
        (says({"leading": True, "shared": False, "url": "", "epoch": 0}), "with no other"),
        (refuses("not-found", 404), "does not know who leads"),
    ],
    ids=["one with a cluster of its own", "a local one"],
)
def test_who_is_of_no_cluster_is_not_told_to_change_anything(standing: Say, why: str) -> None:
    with scripted(VM, at={"/v1/leader": standing}) as stranger:
        with pytest.raises(Refused, match=why) as refused:
            Client([nowhere(), stranger.url]).deploy(WEB1)
        assert refused.value.code == "not-shared"
        assert stranger.asked == []


def test_the_token_goes_to_no_address_that_was_not_named() -> None:
    with scripted(VM) as elsewhere:
        head = f"HTTP/1.1 307 T\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
        answer = raw(head.encode())
        with two(Seats("a"), answer) as (a, b):
            client = Client([a.url, b.url], "s3cret", timeout_s=0.5)
            with pytest.raises(Unreachable):
                client.power("web1", Power.START)
            assert "vmstack-redirect" not in a.asked[0].headers
        assert elsewhere.asked == []


@pytest.mark.parametrize("text", ["http://a,", ",a", "a,,b", "a,http://a:8100", "a b,c"])
def test_what_are_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like http://127|given twice"):
        Client(text)
    ended = run(f"--url={text}", "vms")
    assert (ended.code, ended.err.count("\n")) == (2, 1)


def test_leader_tells_who_leads() -> None:
    with two(Seats("b", 7), VM) as (a, b):
        away = nowhere()
        ended = run(f"--url={a.url},{b.url},{away}", "leader")
        assert ended.code == 0
        assert [line.split()[:3] for line in ended.out.splitlines()[1:4]] == [
            [a.url, "follows", "7"],
            [b.url, "leads", "7"],
            [away, "away", "–"],
        ]
        assert ended.out.endswith(f"\n{b.url} leads, epoch 7\n")
        ended = run(f"--url={a.url},{b.url}", "leader", "--json")
        assert isinstance(ended.json, dict)
        assert (ended.json["leader"], ended.json["epoch"]) == (b.url, 7)
        assert not ended.json["schedulers"][a.url]["leading"]
    with two(Seats(), VM) as (a, b):
        ended = run(f"--url={a.url},{b.url}", "leader")
        assert (ended.code, "none of these leads" in ended.out) == (1, True)
    assert run(f"--url={away}", "leader").code == 3


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: listening\n\n"


def event(sequence: int, kind: str = "deployed") -> bytes:
    return b'id: %d\nevent: %s\ndata: {"vm": "web1"}\n\n' % (sequence, kind.encode())


def test_a_listener_follows_the_lead() -> None:
    seats = Seats("b")
    told: list[str] = []
    first = seats.passes_to("a", raw(STREAM, event(7)))
    with two(seats, raw(STREAM, event(3), event(4), every_s=0.01), b=(first,)) as (a, b):
        client = Client([a.url, b.url], timeout_s=5.0, tell=told.append)
        events = client.events(after=6)
        heard = [next(events) for _ in range(4)]
        assert [each.sequence for each in heard[:3]] == [7, 3, 4]
        assert [each.source for each in heard[:2]] == [b.url, a.url]
        # each has numbers of its own, so only the same one is asked to go on after the last
        assert b.asked[0].headers["last-event-id"] == "6"
        assert "last-event-id" not in a.asked[0].headers
        assert a.asked[1].headers["last-event-id"] == "4"
    assert len(told) == 1
    assert "what happened between is missed" in told[0]


def test_a_listener_leaves_who_leads_no_longer() -> None:
    seats = Seats("a")

    def succeeded(line: socket.socket, ending: Event) -> None:
        raw(STREAM)(line, ending)
        seats.leader = "b"
        line.sendall(event(1, "leader"))
        ending.wait(20)

    with two(seats, succeeded, b=(raw(STREAM, event(9)),)) as (a, b):
        events = of(a, b).events()
        assert [next(events).kind, next(events).source] == ["leader", b.url]
