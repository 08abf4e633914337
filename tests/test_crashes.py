"""Killed at any point of any change and started again: nothing is lost, doubled or half-done."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from schedulerlocal.core.cpulist import parse_cpulist
from tests.servers import Service, local_service

IMAGE = "/var/lib/libvirt/images/hello.qcow2"
#: Level 2 and 3 borrow free CPUs, so that every change re-pins somebody.
THERE = {
    "one": (2, 1, "1"),
    "two": (2, 1, "2"),
    "also": (3, 1, "2"),
    "three": (1, 1, "3"),
    "more": (1, 1, "3"),
}


def deploy_path(name: str, cpu: int, mem: int, level: str) -> str:
    query = {"name": name, "cpu": cpu, "mem": mem, "oc": level, "qcow2": IMAGE}
    return f"/deploy?{urlencode(query)}"


def body(name: str, vcpus: int, level: str, **more: object) -> dict[str, object]:
    sizes = {"vcpus": vcpus, "memory_mib": 1024, "level": level, "image": IMAGE}
    return {"name": name, **sizes, **more}


CHANGES: dict[str, tuple[str, str, dict[str, object] | None]] = {
    "deploy": ("POST", "/v1/vms", body("new", 2, "2")),
    "deploy at level 1": ("POST", "/v1/vms", body("new", 2, "1")),
    "deploy, left down": ("POST", "/v1/vms", body("new", 1, "2", start=False)),
    "remove": ("DELETE", "/v1/vms/one", None),
    "remove from a level shared": ("DELETE", "/v1/vms/also", None),
    "resize up": ("POST", "/v1/vms/one/resize", {"vcpus": 3, "memory_mib": 2048}),
    "resize down": ("POST", "/v1/vms/also/resize", {"vcpus": 1}),
}


def settings(directory: Path, faults: str = "") -> dict[str, str]:
    return {
        "SCL_SIMULATED_STATE": str(directory / "host.json"),
        "SCL_SIMULATED_FAULTS": faults,
        "SCL_DELAY": "3600",
    }


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a host with VMs at three levels."""
    directory = tmp_path_factory.mktemp("furnished")
    with local_service(directory, settings=settings(directory)) as service:
        for name, (cpu, mem, level) in THERE.items():
            assert service.get(deploy_path(name, cpu, mem, level))["success"]
        assert service.stop() == 0
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def furnish(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def check_agreement(service: Service, directory: Path) -> dict[str, Any]:
    """State, hypervisor and journal tell the same; returns the VMs by name."""
    vms = {vm["name"]: vm for vm in service.get("/v1/vms")}
    assert sorted(service.get("/listvm")) == sorted(vms)
    host = service.get("/v1/host")
    assert host["warnings"] == []
    owned: dict[int, str] = {}
    for level in host["levels"]:
        for cpu in level["cpus"]:
            assert cpu not in owned, f"CPU {cpu} belongs to two levels"
            owned[cpu] = level["level"]
        there = [vm for vm in vms.values() if vm["runs_at"] == level["level"]]
        assert sorted(level["vms"]) == sorted(vm["name"] for vm in there)
        # a smaller size waits for the VM's next boot, and the larger counts until then
        assert level["vcpus"] >= sum(vm["vcpus"] for vm in there)
    for vm in vms.values():
        for cpu in vm["pinned_cpus"]:
            assert owned.get(cpu, vm["runs_at"]) == vm["runs_at"]
    simulated = json.loads((directory / "host.json").read_text())
    domains = {vm["name"]: vm for vm in simulated["vms"]}
    assert sorted(domains) == sorted(vms)
    for name, vm in vms.items():
        assert list(parse_cpulist(domains[name]["pins"])) == vm["pinned_cpus"]
        assert domains[name]["state"] == vm["state"]
    return vms


@pytest.mark.parametrize("label", CHANGES)
def test_killed_at_any_point(label: str, tmp_path: Path, furnished: dict[str, bytes]) -> None:
    change = CHANGES[label]
    point = 0
    while crash_and_recover(label, change, tmp_path, furnished, f"crash@{point + 1}"):
        point += 1
    assert point >= 2, "a change passes several points"
    # the last point done, its answer never given
    assert crash_and_recover(label, change, tmp_path, furnished, f"crash-after@{point}")


def crash_and_recover(
    label: str,
    change: tuple[str, str, dict[str, object] | None],
    tmp_path: Path,
    furnished: dict[str, bytes],
    fault: str,
) -> bool:
    """Whether *fault* struck while *change* was carried out; if so, everything was put right."""
    method, path, payload = change
    directory = tmp_path / fault
    furnish(directory, furnished)
    with local_service(directory, settings=settings(directory, fault)) as service:
        try:
            assert service.ask(method, path, payload).status < 300
        except (OSError, http.client.HTTPException):
            assert service.stop() == -9
        else:
            return False
    with local_service(directory, settings=settings(directory)) as service:
        assert set(THERE) - {"one", "two", "also"} <= set(check_agreement(service, directory))
        # asked for again, the change happens, or turns out to have happened, once
        again = service.ask(method, path, payload)
        assert again.status < 300 or (method, again.status) == ("DELETE", 404)
        expected = set(THERE) | ({"new"} if label.startswith("deploy") else set())
        expected -= {path.rpartition("/")[2]} if method == "DELETE" else set()
        assert set(check_agreement(service, directory)) == expected
        generation = service.get("/v1/host")["generation"]
        service.stop(9)
    if fault.endswith("@1"):
        with local_service(directory, settings=settings(directory)) as service:
            assert service.get("/v1/host")["generation"] > generation
            assert set(check_agreement(service, directory)) == expected
    return True


@pytest.mark.parametrize("restart", [False, True], ids=["same process", "restarted"])
def test_a_cancelled_request_is_refused_for_good(tmp_path: Path, restart: bool) -> None:
    request = body("new", 1, "2", request_id="request-1")
    with local_service(tmp_path, settings=settings(tmp_path)) as service:
        answer = service.ask("DELETE", "/v1/requests/request-1")
        assert (answer.status, answer.json["outcome"]) == (200, "cancelled")
        if not restart:
            refused = service.ask("POST", "/v1/vms", request)
            assert (refused.status, refused.json["code"]) == (409, "request-cancelled")
            return
        assert service.stop(9) == -9
    with local_service(tmp_path, settings=settings(tmp_path)) as service:
        refused = service.ask("POST", "/v1/vms", request)
        assert (refused.status, refused.json["code"]) == (409, "request-cancelled")
        assert service.get("/listvm") == []


def test_a_request_whose_vm_was_removed_makes_no_other(tmp_path: Path) -> None:
    request = body("new", 1, "2", request_id="request-1")
    with local_service(tmp_path, settings=settings(tmp_path)) as service:
        assert service.ask("POST", "/v1/vms", request).status == 201
        assert service.ask("DELETE", "/v1/vms/new").status == 200
        assert service.stop(9) == -9
    for _ in range(2):
        with local_service(tmp_path, settings=settings(tmp_path)) as service:
            refused = service.ask("POST", "/v1/vms", request)
            assert (refused.status, refused.json["code"]) == (409, "request-cancelled")
            assert service.get("/listvm") == []
            assert service.stop(9) == -9


@pytest.mark.parametrize("restart", [False, True], ids=["same process", "restarted"])
def test_cancelling_a_finished_deploy_reports_it(tmp_path: Path, restart: bool) -> None:
    request = body("new", 1, "2", request_id="request-1")
    with local_service(tmp_path, settings=settings(tmp_path)) as service:
        assert service.ask("POST", "/v1/vms", request).status == 201
        if restart:
            service.stop(9)
        else:
            assert service.ask("DELETE", "/v1/requests/request-1").json["outcome"] == "deployed"
            assert service.get("/listvm") == ["new"]
            return
    with local_service(tmp_path, settings=settings(tmp_path)) as service:
        assert service.ask("DELETE", "/v1/requests/request-1").json["outcome"] == "deployed"
        assert service.get("/listvm") == ["new"]
        assert service.ask("DELETE", "/v1/vms/new").status in (200, 204)
        assert service.ask("POST", "/v1/vms", request).json["code"] == "request-cancelled"
