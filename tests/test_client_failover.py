"""The client of two real global schedulers on a real PostgreSQL: the one that leads ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest

from benchmarks.ports import free_port
from schedulerclient.client import Client
from schedulerclient.faults import Unreachable
from tests.clientrig import WEB1, run
from tests.postgres import Postgres
from tests.servers import IMAGE, Service, eventually, global_service, local_hosts, urls


@dataclass(frozen=True)
class Real:
    """Two global schedulers over two hosts, whose first change is slow, and one database."""

    hosts: dict[str, Service]
    schedulers: list[Service]

    @property
    def url(self) -> str:
        return ",".join(service.url for service in self.schedulers)

    @property
    def leader(self) -> Service:
        return next(each for each in self.schedulers if each.get("/v1/leader")["leading"])

    def there(self) -> list[str]:
        """What runs, on all hosts."""
        return sorted(name for host in self.hosts.values() for name in host.get("/listvm"))


@pytest.fixture
def real(tmp_path: Path, postgres: Postgres) -> Iterator[Real]:
    settings = {
        "SCG_STORE": postgres.database("client"),
        "SCG_CLUSTER": "test",
        "SCG_LEASE": "1",
        "SCG_DELAY": "0.2",
    }
    with ExitStack() as stack:
        slow = {"SCL_SIMULATED_FAULTS": "slow@1:2"}
        hosts = stack.enter_context(local_hosts(tmp_path, "alpha", "beta", settings=slow))
        started = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            own = {**settings, "SCG_PORT": str(free_port())}
            service = global_service(tmp_path / name, *urls(hosts), settings=own)
            started.append(stack.enter_context(service))
        eventually(lambda: sum(each.get("/v1/leader")["leading"] for each in started) == 1)
        yield Real(hosts, started)


def test_a_real_leader_that_is_killed_in_the_middle_is_outlasted(real: Real) -> None:
    client = Client(real.url, timeout_s=30.0)
    leader = real.leader
    other = next(each for each in real.schedulers if each is not leader)
    done: list[str] = []
    heard: list[str] = []

    def deploy() -> None:
        done.append(client.deploy(WEB1).vm.name)

    def listen() -> None:
        with suppress(Unreachable):  # in the end both are ended
            heard.extend(each.source for each in client.events())

    deploying = Thread(target=deploy)
    deploying.start()
    Thread(target=listen, daemon=True).start()
    eventually(lambda: [vm["status"] for vm in leader.get("/v1/vms")] == ["pending"])
    assert real.there() == []
    leader.process.kill()
    deploying.join(30)
    assert done == ["web1"]
    assert real.there() == ["web1"]
    assert not client.deploy(WEB1).created
    size = ("--cpu=1", "--mem=1", "--oc=2", f"--image={IMAGE}")
    assert run(f"--url={real.url}", "deploy", "web2", *size).code == 0
    assert {vm.name for vm in client.vms()} == {"web1", "web2"}
    ended = run(f"--url={real.url}", "leader")
    assert (ended.code, f"{other.url} leads" in ended.out) == (0, True)

    def heard_of() -> bool:
        client.remove("web2")
        run(f"--url={real.url}", "deploy", "web2", *size)
        return other.url in heard

    eventually(heard_of)


def test_a_real_leader_that_stops_answering_is_outlasted(real: Real) -> None:
    client = Client(real.url, timeout_s=30.0)
    assert client.deploy(WEB1).created
    leader = real.leader
    leader.process.send_signal(signal.SIGSTOP)
    try:
        assert client.remove("web1").done
        assert client.vms() == ()
    finally:
        leader.process.send_signal(signal.SIGCONT)
    # and through one that follows: it knows who leads
    assert Client(leader.url, timeout_s=30.0).deploy(WEB1).created
    assert real.there() == ["web1"]
