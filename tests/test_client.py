"""The client library: what it asks, of which address, and the events it is told."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schedulerclient.client
from schedulerclient.answers import Event
from schedulerclient.client import Client, HostVerb, Power, Where
from schedulerclient.eventstream import read_events
from schedulerclient.faults import Refused, Unreachable
from schedulerclient.transport import read_address
from schedulercommon.levels import gb_to_mib, parse_decimal, parse_level
from schedulercommon.model import VmSpec
from tests.clientrig import DONE, TAKES, WEB1
from tests.scripted import Asked, host_document, raw, refuses, says, scripted, vm_document
from tests.servers import IMAGE, ROOT, local_service


def test_the_example_in_the_docstring_works() -> None:
    unknown = refuses("unknown-vm", 404)
    hosts = [host_document(), host_document("epyc-2", cpus={"total": 256, "free": 256})]
    vm = vm_document()
    with scripted(says(vm, 201), says(vm), says(hosts), DONE, unknown) as server:
        finder = doctest.DocTestFinder(recurse=False)
        found = finder.find(schedulerclient.client, extraglobs={"url": server.url})
        results = doctest.DocTestRunner().run(found[0])
        assert (results.failed, results.attempted) == (0, 12)
        assert [asked.method for asked in server.asked] == ["POST", "POST", "GET", "DELETE", "GET"]
        assert server.asked[0].document["avoid"] == ["epyc-2"]


WEB1_DOCUMENT = {
    "name": "web1",
    "vcpus": 2,
    "memory_mib": 2048,
    "level": "1.5",
    "image": IMAGE,
}
EVERYWHERE = Where(
    host="h",
    avoid=("a", "b"),
    affinity=("db",),
    anti_affinity=("app=shop",),
    spread="rack",
    policy="best-fit",
)
EXPLANATION = {"host": None, "policy": "progress", "hosts": []}
REQUESTS: dict[str, tuple[Callable[[Client], object], object, Asked]] = {
    "vms": (lambda client: client.vms(), [], Asked("GET", "/v1/vms", {})),
    "vm": (lambda client: client.vm("a b/c"), vm_document(), Asked("GET", "/v1/vms/a%20b%2Fc", {})),
    "deploy": (
        lambda client: client.deploy(WEB1),
        vm_document(),
        Asked("POST", "/v1/vms", {}, WEB1_DOCUMENT),
    ),
    "deploy somewhere": (
        lambda client: client.deploy(WEB1, EVERYWHERE),
        vm_document(),
        Asked(
            "POST",
            "/v1/vms",
            {},
            {
                **WEB1_DOCUMENT,
                "host": "h",
                "avoid": ["a", "b"],
                "affinity": ["db"],
                "anti_affinity": ["app=shop"],
                "spread": "rack",
                "policy": "best-fit",
            },
        ),
    ),
    "explain": (
        lambda client: client.explain(WEB1),
        EXPLANATION,
        Asked("POST", "/v1/vms?dry_run=1", {}, WEB1_DOCUMENT),
    ),
    "suspend": (
        lambda client: client.power("web1", Power.SUSPEND),
        vm_document(),
        Asked("POST", "/v1/vms/web1/suspend", {}, {}),
    ),
    "shutdown": (
        lambda client: client.power("web1", Power.SHUTDOWN, force=True),
        vm_document(),
        Asked("POST", "/v1/vms/web1/shutdown", {}, {"force": True}),
    ),
    "resize": (
        lambda client: client.resize("web1", vcpus=4),
        vm_document(**TAKES),
        Asked("POST", "/v1/vms/web1/resize", {}, {"vcpus": 4}),
    ),
    "remove": (
        lambda client: client.remove("web1"),
        {"success": True, "reason": None},
        Asked("DELETE", "/v1/vms/web1", {}),
    ),
    "hosts": (lambda client: client.hosts(), [], Asked("GET", "/v1/hosts", {})),
    "host": (
        lambda client: client.host("h"),
        host_document(),
        Asked("GET", "/v1/hosts/h", {}),
    ),
    "add host": (
        lambda client: client.add_host("h:8099", {"rack": "r1"}),
        host_document(),
        Asked("POST", "/v1/hosts", {}, {"url": "h:8099", "labels": {"rack": "r1"}}),
    ),
    "label host": (
        lambda client: client.label_host("h", {}),
        host_document(),
        Asked("PATCH", "/v1/hosts/h", {}, {"labels": {}}),
    ),
    "fence": (
        lambda client: client.tell_host("h", HostVerb.FENCE),
        host_document(),
        Asked("POST", "/v1/hosts/h/fence", {}, {}),
    ),
    "room": (
        lambda client: client.room(vcpus=2, memory_mib=1536, level=Fraction(4, 3)),
        {"total": 0, "hosts": []},
        Asked("GET", "/v1/capacity?cpu=2&mem=1.5&oc=4%2F3", {}),
    ),
}


@pytest.mark.parametrize(("call", "answer", "asked"), REQUESTS.values(), ids=REQUESTS)
def test_every_method_asks_one_thing(
    call: Callable[[Client], object], answer: object, asked: Asked
) -> None:
    with scripted(says(answer)) as server:
        call(Client(server.url))
        assert server.asked == [asked]


def test_what_is_asked_is_what_the_scheduler_takes() -> None:
    from schedulercommon.clusterwire import PlaceRequest
    from schedulercommon.wire import read_model

    spec = VmSpec(
        name="web1",
        vcpus=2,
        memory_mib=2048,
        level=Fraction(4, 3),
        image=IMAGE,
        disk="in-place",
        max_vcpus=4,
        max_memory_mib=4096,
        labels=(("app", "shop"),),
        request_id="mine-1",
        start=False,
    )
    with scripted(says(vm_document())) as server:
        Client(server.url).deploy(spec, EVERYWHERE)
        taken = read_model(PlaceRequest, server.asked[0].document)
    assert taken.spec() == spec
    assert (taken.host, taken.avoid, taken.affinity) == ("h", ["a", "b"], ["db"])
    assert (taken.anti_affinity, taken.spread, taken.policy) == (["app=shop"], "rack", "best-fit")


@given(st.integers(1, 1 << 30))
@settings(max_examples=30, deadline=None)
def test_memory_reaches_the_capacity_route_exactly(memory_mib: int) -> None:
    with scripted(says({"total": 0, "hosts": []})) as server:
        Client(server.url).room(vcpus=1, memory_mib=memory_mib, level=Fraction(2))
        told = parse_qs(urlsplit(server.asked[0].target).query)["mem"][0]
    assert gb_to_mib(parse_decimal(told)) == memory_mib


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://10.0.0.1:8200", "http://10.0.0.1:8200"),
        ("http://10.0.0.1:8200/", "http://10.0.0.1:8200"),
        ("HTTP://Node", "http://node:8100"),
        ("node:81", "http://node:81"),
        ("node", "http://node:8100"),
        ("https://node", "https://node:443"),
        ("[::1]:8100", "http://[::1]:8100"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert str(read_address(text)) == address
    assert str(read_address(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "http://", ":8100", "node:99999", "node:0", "node:x", "ftp://node", "http://node/v1"),
        *("http://node?a=1", "http://me@node", "no de", "nöde", "::1", "node\n", "http://[::1"),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="write it like http://127"):
        Client(text)


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_cannot_leave_its_path(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        Client().remove(name)


def test_the_token_is_sent_and_not_shown() -> None:
    with scripted(says([])) as server:
        client = Client(server.url, "s3cret")
        client.vms()
        assert server.asked[0].headers["authorization"] == "Bearer s3cret"
        assert "s3cret" not in repr(client)
        Client(server.url).vms()
        assert "authorization" not in server.asked[1].headers
    with pytest.raises(ValueError, match="visible ASCII"):
        Client("node", "two\r\nlines")


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: listening\n\n"
PLACED = b'id: 7\nevent: placed\ndata: {"name": "web1"}\n\n'


def test_events_come_as_they_happen_until_the_scheduler_ends() -> None:
    with scripted(raw(STREAM, PLACED, b":\n\n", PLACED[:9], every_s=0.05)) as server:
        events = Client(server.url, timeout_s=0.1).events(after=6)
        assert next(events) == Event(7, "placed", {"name": "web1"})
        with pytest.raises(Unreachable, match="ended its stream"):
            next(events)
        assert server.asked == [Asked("GET", "/v1/events", {})]
        assert server.asked[0].headers["last-event-id"] == "6"


def test_events_refused() -> None:
    with scripted(refuses("not-ready", 503)) as server, pytest.raises(Refused) as refused:
        next(Client(server.url).events())
    assert refused.value.code == "not-ready"


@given(st.lists(st.sampled_from(STREAM.split(b"\n") + PLACED.split(b"\n")) | st.binary()))
def test_any_stream_of_events_can_be_read(lines: list[bytes]) -> None:
    whole = b"\n".join(lines) + b"\n\n" + PLACED
    assert list(read_events(BytesIO(whole)))[-1] == Event(7, "placed", {"name": "web1"})


def test_a_local_scheduler_understands_it_too(tmp_path: Path) -> None:
    with local_service(tmp_path) as service:
        client = Client(f"127.0.0.1:{service.port}")
        made = client.deploy(WEB1)
        assert made.created
        assert (made.vm.name, made.vm.level, made.vm.host) == ("web1", parse_level("1.5"), "")
        assert not client.deploy(WEB1).created
        assert client.power("web1", Power.SUSPEND).state == "suspended"
        assert client.resize("web1", memory_mib=1024).vm.memory_mib == 1024
        with pytest.raises(Refused) as refused:
            client.vm("web2")
        assert refused.value.code == "unknown-vm"
        kinds = {event.kind for event, _ in zip(client.events(after=0), range(2), strict=False)}
        assert kinds
        assert client.remove("web1").done
        assert client.vms() == ()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("schedulerclient.client", ("pydantic", "rich", "aiohttp", "dotenv", "numpy")),
        ("schedulerclient.cli", ("http.client", "pydantic", "rich", "aiohttp", "dotenv")),
    ],
)
def test_importing_it_is_quick(module: str, unwanted: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print('loaded', *sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(ended.stdout.split())
    assert {"loaded", module} <= loaded
    assert not loaded & set(unwanted)
