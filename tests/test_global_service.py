"""The global scheduler over real local ones: placing, removing, what happens when hosts go away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import (
    IMAGE,
    Service,
    body,
    eventually,
    global_service,
    host_settings,
    local_hosts,
    local_service,
    urls,
)

FAST = {"SCG_DELAY": "0.2"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A global scheduler over three hosts of 8 CPUs; tests remove what they place."""
    directory = tmp_path_factory.mktemp("cluster")
    with (
        local_hosts(directory, "a", "b", "c") as hosts,
        global_service(directory, *urls(hosts), settings=FAST) as service,
    ):
        yield service


def placed_on(service: Service, *names: str) -> list[str]:
    where = service.get("/listvm")
    return [where[name] for name in names]


def remove(service: Service, *names: str) -> None:
    for name in names:
        assert service.ask("DELETE", f"/v1/vms/{name}").json["success"] is True


def test_published_routes(cluster: Service) -> None:
    query = f"name=example&cpu=2&mem=2&oc=2&qcow2={IMAGE}"
    for _ in range(2):
        assert cluster.get(f"/deploy?{query}") == {"success": True, "reason": None}
    host = cluster.get("/listvm")["example"]
    assert host in ("a", "b", "c")
    levels = cluster.get("/status")[host]["cpu"]["subset"]
    assert levels["2.0"] == {"pcap": 2, "palloc": 2, "vavail": 2.0, "vpotential": 12.0}
    assert cluster.get("/remove?name=example") == {"success": True, "reason": None}
    assert cluster.get("/listvm") == {}
    gone = cluster.ask("GET", "/remove?name=example")
    assert (gone.status, gone.json["code"]) == (404, "unknown-vm")


def test_a_vm_as_posted_is_the_vm_as_got(cluster: Service) -> None:
    posted = cluster.ask("POST", "/v1/vms", body("web", 2, "1.5", labels={"app": "web"}))
    assert posted.status == 201
    assert posted.json["state"] == "running"
    assert cluster.get("/v1/vms/web") == posted.json
    again = cluster.ask("POST", "/v1/vms", body("web", 2, "1.5", labels={"app": "web"}))
    assert (again.status, again.json) == (200, posted.json)
    other = cluster.ask("POST", "/v1/vms", body("web", 3, "1.5"))
    assert (other.status, other.json["code"]) == (409, "name-taken")
    listed = cluster.get("/v1/vms")
    assert [vm["name"] for vm in listed] == ["web"]
    remove(cluster, "web")


def test_verbs_reach_the_host(cluster: Service) -> None:
    assert cluster.ask("POST", "/v1/vms", body("busy", 1, "2")).status == 201
    assert cluster.ask("POST", "/v1/vms/busy/suspend").json["state"] == "suspended"
    wrong = cluster.ask("POST", "/v1/vms/busy/suspend")
    assert (wrong.status, wrong.json["code"]) == (409, "wrong-state")
    assert cluster.ask("POST", "/v1/vms/busy/resume").json["state"] == "running"
    resized = cluster.ask("POST", "/v1/vms/busy/resize", {"vcpus": 2}).json
    assert resized["vcpus"] == 2
    assert cluster.get("/v1/vms/busy")["vcpus"] == 2
    remove(cluster, "busy")


def test_round_robin_goes_round(cluster: Service) -> None:
    names = [f"r{number}" for number in range(6)]
    for name in names:
        assert cluster.ask("POST", "/v1/vms", body(name, policy="distributed")).status == 201
    hosts = placed_on(cluster, *names)
    assert hosts[:3] == hosts[3:]
    assert sorted(hosts[:3]) == ["a", "b", "c"]
    remove(cluster, *names)


def test_first_fit_takes_hosts_in_the_order_of_the_list(cluster: Service) -> None:
    for name in ("f1", "f2"):
        assert cluster.ask("POST", "/v1/vms", body(name, policy="first-fit")).status == 201
    assert placed_on(cluster, "f1", "f2") == ["a", "a"]
    remove(cluster, "f1", "f2")


def test_constraints(cluster: Service) -> None:
    def place(name: str, **wishes: object) -> str:
        answer = cluster.ask("POST", "/v1/vms", body(name, **wishes))
        assert answer.status == 201, answer.json
        return str(answer.json["host"])

    assert place("c1", host="b", labels={"app": "db"}) == "b"
    assert place("c2", affinity=["c1"]) == "b"
    assert place("c3", avoid=["b", "c"]) == "a"
    assert place("c4", anti_affinity=["app=db", "c3"]) == "c"
    assert place("c5", affinity=["app=none-yet"], avoid=["a", "b"]) == "c"
    nobody = cluster.ask("POST", "/v1/vms", body("c6", host="a", avoid=["a"]))
    assert (nobody.status, nobody.json["code"]) == (409, "no-capacity")
    missing = cluster.ask("POST", "/v1/vms", body("c6", host="z"))
    assert (missing.status, missing.json["code"]) == (404, "unknown-host")
    unknown = cluster.ask("POST", "/v1/vms", body("c6", affinity=["c99"]))
    assert (unknown.status, unknown.json["code"]) == (400, "bad-request")
    remove(cluster, "c1", "c2", "c3", "c4", "c5")


def test_spread_over_racks(cluster: Service) -> None:
    for host, rack in (("a", "one"), ("b", "one"), ("c", "two")):
        labelled = cluster.ask("PATCH", f"/v1/hosts/{host}", {"labels": {"rack": rack}})
        assert labelled.json["labels"] == {"rack": rack}
    racks = {"a": "one", "b": "one", "c": "two"}
    names = [f"s{number}" for number in range(4)]
    for name in names:
        order = body(name, labels={"app": "s"}, spread="rack")
        assert cluster.ask("POST", "/v1/vms", order).status == 201
    on = [racks[host] for host in placed_on(cluster, *names)]
    assert sorted(on) == ["one", "one", "two", "two"]
    remove(cluster, *names)


def test_dry_run_explains_every_host_and_does_nothing(cluster: Service) -> None:
    cluster.ask("POST", "/v1/hosts/c/drain")
    answer = cluster.ask("POST", "/v1/vms?dry_run=1", body("dry", avoid=["b"])).json
    assert (answer["host"], answer["policy"]) == ("a", "progress")
    verdicts = {each["host"]: each for each in answer["hosts"]}
    assert verdicts["a"]["score"] is not None
    assert verdicts["b"]["reason"] == "is to be avoided"
    assert verdicts["c"]["reason"] == "is draining"
    assert cluster.get("/listvm") == {}
    assert cluster.ask("POST", "/v1/hosts/c/resume").json["state"] == "up"


def test_capacity_counts_what_fits(cluster: Service) -> None:
    query = "/v1/capacity?cpu=2&mem=2&oc=1"
    found = eventually(lambda: (c := cluster.get(query))["total"] == 12 and c)
    assert {each["host"]: each["fits"] for each in found["hosts"]} == {"a": 4, "b": 4, "c": 4}
    names = [f"k{number}" for number in range(12)]
    for name in names:
        assert cluster.ask("POST", "/v1/vms", body(name, 2, "1")).status == 201
    full = cluster.ask("POST", "/v1/vms", body("k12", 2, "1"))
    assert (full.status, full.json["code"]) == (409, "no-capacity")
    assert cluster.get(query)["total"] == 0
    # what was given back can be had at once
    remove(cluster, "k3")
    assert cluster.ask("POST", "/v1/vms", body("k3", 2, "1")).status == 201
    remove(cluster, *names)
    eventually(lambda: cluster.get(query)["total"] == 12)


def test_a_host_that_dies_is_noticed_and_returns(tmp_path: Path) -> None:
    with local_hosts(tmp_path, "a", "b") as hosts:
        port = hosts["b"].port
        with global_service(tmp_path, *urls(hosts), settings=FAST) as service:
            assert service.ask("POST", "/v1/vms", body("on-b", host="b")).status == 201
            assert service.ask("POST", "/v1/vms", body("also-b", host="b")).status == 201
            hosts["b"].stop(9)
            with service.listening(after=0) as events:
                events.wait_for("host", host="b", state="suspect")
                events.wait_for("host", host="b", state="down")
            assert service.get("/v1/hosts/b")["state"] == "down"
            # the rest works, and nothing new goes there
            for number in range(3):
                answer = service.ask("POST", "/v1/vms", body(f"new{number}"))
                assert (answer.status, answer.json["host"]) == (201, "a")
            later = service.ask("DELETE", "/v1/vms/on-b")
            assert (later.status, later.json["status"]) == (202, "removing")
            taken = service.ask("POST", "/v1/vms", body("on-b", host="a"))
            assert (taken.status, taken.json["code"]) == (409, "name-taken")
            assert service.get("/v1/vms/on-b")["status"] == "removing"
            settings = host_settings(tmp_path, "b", SCL_PORT=str(port))
            with local_service(tmp_path / "b", settings=settings) as back:
                eventually(lambda: service.ask("GET", "/v1/vms/on-b").status == 404)
                assert back.get("/listvm") == ["also-b"]
                assert service.get("/v1/vms/also-b")["status"] == "placed"


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    with local_hosts(tmp_path, "a", "b") as hosts:
        with global_service(tmp_path, *urls(hosts), settings=FAST) as service:
            for number in range(4):
                vm = body(f"vm{number}", labels={"n": str(number)})
                assert service.ask("POST", "/v1/vms", vm).status == 201
            service.ask("POST", "/v1/hosts/b/drain")
            before = service.get("/v1/vms")
            assert service.stop() == 0
        with global_service(tmp_path, *urls(hosts), settings=FAST) as service:
            assert service.get("/v1/vms") == before
            assert service.get("/v1/hosts/b")["state"] == "draining"
            again = service.ask("POST", "/v1/vms", body("vm1", labels={"n": "1"}))
            assert again.status == 200


def test_a_second_global_on_the_same_store_refuses_to_start(tmp_path: Path) -> None:
    with (
        global_service(tmp_path, settings=FAST),
        pytest.raises(AssertionError, match="another global scheduler"),
        global_service(tmp_path, settings=FAST),
    ):
        pass
