from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.lighthost import LightHost, LightVm
from benchmarks.processes import LightLocals, light_locals
from schedulercommon.errors import NameTaken
from schedulercommon.levels import parse_level
from schedulercommon.model import Rejection, VmSpec
from schedulerlocal.adapters.topologyjson import read_topology
from schedulerlocal.core.host import Host
from schedulerlocal.core.planner import plan_deploy, plan_remove
from schedulerlocal.core.state import HostState
from schedulerlocal.core.status import published_status
from tests.servers import IMAGE, ROOT, START_S, TOPOLOGY, eventually

HOST = Host(read_topology(TOPOLOGY))
LEVELS = ("1", "4/3", "1.5", "2", "3")
CPUS, MEMORY_MIB = 4, 8192

VMS = st.builds(
    LightVm,
    vcpus=st.integers(1, 6),
    memory_mib=st.integers(1, 12_000),
    level=st.sampled_from([parse_level(level) for level in LEVELS]),
    image=st.just(IMAGE),
)
NAMES = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(NAMES, st.none() | VMS), max_size=30))
def test_it_admits_and_reports_as_a_real_host(changes: list[tuple[str, LightVm | None]]) -> None:
    light, real = LightHost(HOST.cpus, HOST.memory_mib), HostState(HOST, {})
    for name, vm in changes:
        if vm is None:
            if name in light.vms:
                assert light.remove(name) is None
                real = plan_remove(real, name).after
        elif name in light.vms:
            same = light.vms[name] == vm
            assert isinstance(light.deploy(name, vm), NameTaken) is not same
        else:
            spec = VmSpec(name=name, vcpus=vm.vcpus, memory_mib=vm.memory_mib, level=vm.level)
            outcome = plan_deploy(real, spec)
            refusal = light.deploy(name, vm)
            if isinstance(outcome, Rejection):
                assert str(refusal) == outcome.sentence
            else:
                assert refusal is None
                real = outcome.after
        assert light.status() == published_status(real)


@pytest.fixture(scope="module")
def plain() -> Iterator[LightLocals]:
    with light_locals(2, f"--cpus={CPUS}", f"--memory={MEMORY_MIB}") as locals_:
        yield locals_


@pytest.fixture(scope="module")
def coded() -> Iterator[LightLocals]:
    with light_locals(2, f"--cpus={CPUS}", f"--memory={MEMORY_MIB}", "--coded", "--etag") as each:
        yield each


@pytest.fixture(params=["plain", "coded"])
def either(request: pytest.FixtureRequest) -> LightLocals:
    return _well(request.getfixturevalue(request.param))


@pytest.fixture
def faulty(plain: LightLocals) -> LightLocals:
    return _well(plain)


def _well(locals_: LightLocals) -> LightLocals:
    locals_.heal()
    locals_.tell(fault="lose")
    locals_.tell(ask="mark")
    return locals_


def connect(locals_: LightLocals, host: int = 0, timeout_s: float = START_S) -> Any:
    port = int(locals_.urls[host].rpartition(":")[2])
    return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)


def ask(
    locals_: LightLocals, path: str, host: int = 0, method: str = "GET", **headers: str
) -> tuple[int, Any]:
    """Status, and the body: parsed if it is JSON, else as it is."""
    connection = connect(locals_, host)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        return response.status, json.loads(body) if is_json else body.decode()
    finally:
        connection.close()


def talk(connection: Any, path: str) -> bytes:
    """The body of the answer, whatever it is; the connection is closed then."""
    try:
        connection.request("GET", path)
        body: bytes = connection.getresponse().read()
        return body
    finally:
        connection.close()


def deploy(name: str, cpu: int = 1, mem: str = "1", oc: str = "1") -> str:
    return f"/deploy?name={name}&cpu={cpu}&mem={mem}&oc={oc}&qcow2={IMAGE}"


DONE = {"success": True, "reason": None}


def test_a_vm_comes_and_goes(either: LightLocals) -> None:
    assert ask(either, deploy("a", cpu=2, mem="1.5", oc="2")) == (200, DONE)
    assert ask(either, "/listvm") == (200, ["a"])
    assert ask(either, "/listvm", host=1) == (200, [])
    status = ask(either, "/status")[1]
    assert status["cpu"] == {
        "avail": 2,
        "subset": {"2.0": {"pcap": 2, "palloc": 2, "vavail": 2.0, "vpotential": 4.0}},
    }
    assert status["mem"]["avail"] == MEMORY_MIB - 1536
    assert either.dump() == {either.urls[0]: {"a": [2, 1536, "2.0", IMAGE]}, either.urls[1]: {}}
    assert ask(either, "/remove?name=a") == (200, DONE)
    assert ask(either, "/listvm") == (200, [])


def test_an_escaped_image_is_the_same_image(either: LightLocals) -> None:
    assert ask(either, deploy("a")) == (200, DONE)
    assert ask(either, deploy("a").replace("/var/lib", "%2Fvar%2Flib")) == (200, DONE)
    assert either.dump()[either.urls[0]] == {"a": [1, 1024, "1.0", IMAGE]}


@pytest.mark.parametrize(
    ("path", "code", "status"),
    [
        (deploy("b", cpu=4), "no-capacity", 409),
        (deploy("b", mem="7.5"), "no-capacity", 409),
        (deploy("a", cpu=2), "name-taken", 409),
        (deploy("b", oc="0.5"), "bad-request", 400),
        (deploy("b", mem="-1"), "bad-request", 400),
        (deploy("b") + "&more=1", "bad-request", 400),
        ("/deploy?name=b", "bad-request", 400),
        ("/remove?name=b", "unknown-vm", 404),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(
    plain: LightLocals, coded: LightLocals, path: str, code: str, status: int
) -> None:
    for each in (plain, coded):
        _well(each)
        assert ask(each, deploy("a")) == (200, DONE)
    old_status, old = ask(plain, path)
    assert (old_status, old["success"], set(old)) == (200, False, {"success", "reason"})
    assert ask(coded, path) == (status, {**old, "code": code})
    assert list(plain.dump()[plain.urls[0]]) == ["a"]


@pytest.mark.parametrize("path", ["/v1/host", "/v1/requests/x", "/progress?cpu=1", "/readyz", "/"])
def test_it_knows_the_published_routes_only(either: LightLocals, path: str) -> None:
    for method in ("GET", "DELETE", "POST"):
        assert ask(either, path, method=method) == (404, "404: Not Found")


def test_an_etag_is_for_who_asks_for_it(plain: LightLocals, coded: LightLocals) -> None:
    for each, tagged in ((_well(plain), False), (_well(coded), True)):
        connection = connect(each)
        connection.request("GET", "/status")
        with connection.getresponse() as response:
            response.read()
            tag = response.headers.get("ETag")
        connection.close()
        assert (tag is not None) is tagged
        known = {"If-None-Match": tag or '"1"'}
        assert ask(each, "/status", **known)[0] == (304 if tagged else 200)
        assert ask(each, deploy("a")) == (200, DONE)
        assert ask(each, "/status", **known)[0] == 200


CHANGE = deploy("a")


@pytest.mark.parametrize("scope", ["all", "changes"])
@pytest.mark.parametrize(
    ("fault", "symptom", "done"),
    [
        ("hang", TimeoutError, False),
        ("reset", ConnectionResetError, False),
        ("forget-half", ConnectionResetError, True),
        ("trickle", TimeoutError, True),
        ("garbage", (http.client.BadStatusLine, ValueError), False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_concerns_its_host_and_routes(
    faulty: LightLocals, fault: str, symptom: Any, done: bool, scope: str
) -> None:
    faulty.fault(0, fault, scope)
    for path in (CHANGE, "/status"):
        if path == "/status" and scope == "changes":
            assert ask(faulty, path)[0] == 200
            continue
        with pytest.raises(symptom):
            json.loads(talk(connect(faulty, timeout_s=0.1), path))
    assert ask(faulty, deploy("b"), host=1) == (200, DONE)
    assert [list(vms) for vms in faulty.dump().values()] == [["a"] if done else [], ["b"]]
    faulty.heal()
    assert ask(faulty, CHANGE) == (200, DONE)


def test_garbage_is_of_both_kinds(faulty: LightLocals) -> None:
    faulty.fault(0, "garbage")
    met = set()
    for _ in range(2):
        connection = connect(faulty)
        connection.request("GET", "/status")
        try:
            met.add(connection.getresponse().status)
        except http.client.BadStatusLine:
            met.add(0)
        connection.close()
    assert met == {0, 200}


def test_who_lies_says_it_has_room_and_refuses(faulty: LightLocals) -> None:
    faulty.fault(0, "lies")
    status = ask(faulty, "/status")[1]
    assert status["cpu"]["avail"] > 10 * CPUS
    assert status["mem"]["avail"] > 10 * MEMORY_MIB
    refusal_status, refusal = ask(faulty, CHANGE)
    assert (refusal_status, refusal["code"]) == (409, "no-capacity")
    assert faulty.dump()[faulty.urls[0]] == {}


def test_who_refuses_connections_comes_back_on_the_same_port(faulty: LightLocals) -> None:
    assert ask(faulty, CHANGE) == (200, DONE)
    idle = connect(faulty)
    idle.request("GET", "/status")
    idle.getresponse().read()
    faulty.fault(0, "refuse")
    with pytest.raises(ConnectionRefusedError):
        ask(faulty, "/status")
    idle.auto_open = 0
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        talk(idle, "/status")
    faulty.heal()
    assert ask(faulty, "/listvm") == (200, ["a"])


def test_a_slow_change_is_done_though_nobody_waits(faulty: LightLocals) -> None:
    faulty.fault(0, "slow:0.2", "changes")
    connection = connect(faulty, timeout_s=0.05)
    connection.request("GET", CHANGE)
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    eventually(lambda: faulty.dump()[faulty.urls[0]])


def test_a_host_loses_its_vms(faulty: LightLocals) -> None:
    for host in (0, 1):
        assert ask(faulty, CHANGE, host=host) == (200, DONE)
    faulty.fault(0, "lose")
    assert [list(vms) for vms in faulty.dump().values()] == [[], ["a"]]
    assert ask(faulty, "/status")[1]["cpu"] == {"avail": CPUS, "subset": {}}


def test_what_was_asked_is_counted(faulty: LightLocals) -> None:
    ask(faulty, "/status")
    begun_s = time.monotonic()
    eventually(lambda: time.monotonic() - begun_s > 0.05)
    ask(faulty, "/status")
    ask(faulty, "/listvm")
    assert faulty.tell(ask="asked") == [{"/status": 2, "/listvm": 1}, {}]
    count, longest_gap_s, age_s = faulty.tell(ask="polls", host=0)[0]
    assert count == 2
    assert 0.05 < longest_gap_s < START_S
    assert age_s < START_S


@pytest.mark.parametrize(
    "command",
    [{}, {"fault": "fire"}, {"host": 9, "fault": "hang"}, {"ask": "why"}, {"fault": "slow:x"}],
    ids=json.dumps,
)
def test_nonsense_commands_are_answered(plain: LightLocals, command: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        plain.tell(**command)
    assert plain.tell(ask="mark") == {"ok": True}


def test_latency_comes_before_every_answer() -> None:
    with light_locals(1, "--latency=0.05") as slow:
        begun_s = time.monotonic()
        assert ask(slow, CHANGE) == (200, DONE)
        assert time.monotonic() - begun_s >= 0.05


def test_a_request_may_come_in_pieces(plain: LightLocals) -> None:
    port = int(plain.urls[0].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=START_S) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /listvm HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            line.sendall(bytes([byte]))
        answer = b"".join(iter(lambda: line.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("end", ["stdin", "SIGTERM"])
def test_it_ends_by_itself(end: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lightlocals", "--hosts=3"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        assert len(set(json.loads(process.stdout.readline()))) == 3
        if end == "stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0
        assert process.stderr
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def test_wrong_usage_is_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.lightlocals", "--hosts=0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
