"""The command line and the library against a cluster of real processes."""

from __future__ import annotations

import doctest
from contextlib import ExitStack
from pathlib import Path

import pytest

import schedulerclient.client
from schedulerclient.client import Client
from schedulerprocess.options import DONE
from tests.clientrig import run
from tests.servers import (
    IMAGE,
    ROOT,
    eventually,
    global_service,
    host_settings,
    local_hosts,
    local_service,
    urls,
)

SIZE = ("--cpu=2", "--mem=0.5", "--oc=1.5")
EPYC = f"--topology={ROOT / 'debug' / 'topology_EPYC-7662.json'}"
QUICK = {"SCG_DELAY": "0.1"}


def test_a_cluster_is_driven_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = f"--image={IMAGE}"
    with (
        local_hosts(tmp_path, "alpha", "beta") as hosts,
        global_service(tmp_path, *urls(hosts), settings=QUICK) as cluster,
    ):

        def told(*arguments: str, code: int = DONE) -> str:
            ended = run(f"--url={cluster.url}", *arguments)
            assert ended.code == code, ended
            return ended.out + ended.err

        assert told("deploy", "web1", *SIZE, image, "--label=app=web", "--host=alpha") == (
            "web1 is on alpha\n"
        )
        assert told(f"--deploy=web1,2,0.5,1.5,{IMAGE}") == "web1 is already on alpha\n"
        assert "go to beta by" in told("explain", *SIZE, "--anti-affinity=app=web")
        assert told("explain", "--cpu=64", "--mem=1", "--oc=1", code=4)
        assert told("deploy", "big", "--cpu=64", "--mem=1", "--oc=1", image, code=4)
        assert "name" in told("deploy", "web1", "--cpu=1", "--mem=1", "--oc=1", image, code=1)
        assert "2 of 2 up" in told("--status")
        # until the next look at it, a host may be thought fuller than it is
        eventually(lambda: "1.5: 2 on 2" in told("status"))
        assert "web1  alpha  placed" in told("vms")
        assert "total" in told("capacity", *SIZE)
        told("label", "alpha", "rack=r1", "kind=old")
        assert "rack=r1\n" in told("label", "alpha", "kind-")
        assert "draining" in told("drain", "beta")
        told("resume", "beta")
        assert "simulated" in told("console", "web1", "--lines=3")
        assert "simulated" in told("console", "web1", "--json")
        assert "unknown-vm" in told("console", "nobody", "--json", code=1)
        assert told("vm-suspend", "web1") == "web1 is suspended\n"
        assert "at its next boot" in told("vm-resize", "web1", "--cpu=1")
        told("remove", "web1", "web2", code=1)
        told("deploy", "web3", *SIZE, image, "--host=alpha")
        told("deploy", "web4", *SIZE, image, "--host=alpha")
        hosts["alpha"].stop()
        assert "not yet" in told("--remove=web3", code=5)
        eventually(lambda: "alpha is down" in told("status"))
        assert "maintenance" in told("fence", "alpha", "--yes")
        assert "1 VM of alpha is lost: web4" in told("status")
        assert "promised" in told("remove-host", "alpha", code=1)
        told("remove", "web4")
        assert told("remove-host", "alpha") == "alpha is removed\n"
        assert "alpha" not in told("hosts")


def test_the_example_of_the_library_is_true(tmp_path: Path) -> None:
    with ExitStack() as stack:
        hosts = {}
        for name in ("epyc-1", "epyc-2"):
            (tmp_path / name).mkdir()
            settings = host_settings(tmp_path, name)
            host = local_service(tmp_path / name, EPYC, settings=settings)
            hosts[name] = stack.enter_context(host)
        cluster = stack.enter_context(global_service(tmp_path, *urls(hosts)))
        finder = doctest.DocTestFinder(recurse=False)
        found = finder.find(schedulerclient.client, extraglobs={"url": cluster.url})
        results = doctest.DocTestRunner().run(found[0])
        assert results.failed == 0
        assert results.attempted
        assert next(Client(cluster.url).events(after=0)).sequence
