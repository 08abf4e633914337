"""A running local scheduler and its host: VMs that change by themselves, and recordings."""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from schedulerlocal.core.cpulist import parse_cpulist
from tests.servers import SIMULATED, HostFile, Service, body, eventually, local_service, run_local

#: After a change behind the service's back; the periodic pass comes every tenth of a second.
NOTICED_S = 2.0


@pytest.fixture
def host_file(tmp_path: Path) -> HostFile:
    return HostFile(tmp_path)


@pytest.fixture
def service(tmp_path: Path, host_file: HostFile) -> Iterator[Service]:
    """With a VM at level 1 and one at level 2, its host's file followed."""
    with local_service(tmp_path, settings=host_file.settings()) as running:
        for name, level in (("one", "1"), ("two", "2")):
            assert running.ask("POST", "/v1/vms", body(name, 2, level)).status == 201
        yield running


def test_vms_lost_and_changed_are_noticed(service: Service, host_file: HostFile) -> None:
    pinned = host_file.vms["two"]["pins"]
    with service.listening() as listener:
        begun_s = time.monotonic()
        host_file.drop("one")
        assert listener.wait_for("vanished", vm="one")["before"].startswith("2 vCPUs")
        eventually(lambda: service.get("/listvm") == ["two"], NOTICED_S)
        assert service.get("/status")["cpu"]["avail"] == 6

        host_file.edit("two", pins="3")
        repaired = listener.wait_for("repair", vm="two", before="3", done=True)
        eventually(lambda: host_file.vms["two"]["pins"] == repaired["after"], NOTICED_S)
        assert set(parse_cpulist(pinned)) <= set(parse_cpulist(repaired["after"]))

        host_file.edit("two", state="suspended")
        listener.wait_for("state", vm="two", before="running", after="suspended")
        host_file.edit("two", vcpus=4)
        listener.wait_for("changed", vm="two")
        assert service.get("/v1/vms/two")["vcpus"] == 4
        assert service.get("/status")["cpu"]["subset"]["2.0"]["palloc"] == 4
        assert time.monotonic() - begun_s < 4 * NOTICED_S
    refused = service.ask("DELETE", "/v1/vms/one")
    assert (refused.status, refused.json["code"]) == (404, "unknown-vm")


def test_a_vm_not_made_here_is_counted_and_left_alone(
    service: Service, host_file: HostFile
) -> None:
    free_mib = service.get("/status")["mem"]["avail"]
    with service.listening() as listener:
        host_file.edit("guest", vcpus=3, memory_mib=512, foreign=True)
        listener.wait_for("appeared", vm="guest")
        assert "guest" in service.get("/listvm")
        status = service.get("/status")
        assert status["mem"]["avail"] == free_mib - 512
        assert status["cpu"]["subset"]["1.0"] | {"vpotential": 0} == {
            "pcap": 5,
            "palloc": 5,
            "vavail": 0.0,
            "vpotential": 0,
        }
        host = service.get("/v1/host")
        assert host["foreign"] == ["guest"]
        assert any("guest" in sentence and "adopt" in sentence for sentence in host["warnings"])
        for method, path, document in (
            ("DELETE", "/v1/vms/guest", None),
            ("GET", "/remove?name=guest", None),
            ("POST", "/v1/vms/guest/resize", {"vcpus": 1}),
            ("POST", "/v1/vms/guest/shutdown", None),
        ):
            refused = service.ask(method, path, document)
            assert (refused.status, refused.json["code"]) == (409, "wrong-state")
            assert "adopt" in refused.json["reason"]
        taken = service.ask("POST", "/v1/vms", body("guest", 3, "1"))
        assert (taken.status, taken.json["code"]) == (409, "name-taken")
        assert "pins" not in host_file.vms["guest"] or not host_file.vms["guest"]["pins"]

        adopted = service.ask("POST", "/v1/vms/guest/adopt", {"level": "2"})
        assert (adopted.status, adopted.json["level"]) == (200, "2.0")
        listener.wait_for("adopted", vm="guest")
    host = service.get("/v1/host")
    assert (host["foreign"], host["warnings"]) == ([], [])
    pinned = adopted.json["pinned_cpus"]
    assert list(parse_cpulist(host_file.vms["guest"]["pins"])) == pinned
    assert service.ask("DELETE", "/v1/vms/guest").status == 200
    assert service.get("/status")["mem"]["avail"] == free_mib


def test_repairs_can_be_left_to_the_operator(tmp_path: Path, host_file: HostFile) -> None:
    settings = host_file.settings(SCL_REPAIR="report")
    with local_service(tmp_path, settings=settings) as service:
        assert service.ask("POST", "/v1/vms", body("two", 2)).status == 201
        with service.listening() as listener:
            host_file.edit("two", pins="3")
            assert listener.wait_for("repair", vm="two")["done"] is False
            written = host_file.path.stat().st_mtime_ns
            # the next passes see the same, and say and do nothing; another change is told
            host_file.edit("two", state="suspended")
            kind, about = next(iter(listener))
            assert (kind, about["vm"]) == ("state", "two")
        assert host_file.vms["two"]["pins"] == "3"
        assert host_file.path.stat().st_mtime_ns > written


def test_a_file_broken_meanwhile_stops_changes_until_it_is_mended(
    service: Service, host_file: HostFile
) -> None:
    whole = host_file.path.read_text()
    host_file.path.write_text(whole[:-4])
    refused = service.ask("DELETE", "/v1/vms/one")
    assert (refused.status, refused.json["code"]) == (502, "hypervisor-failed")
    assert "SCL_SIMULATED_STATE" in refused.json["reason"]
    assert sorted(service.get("/listvm")) == ["one", "two"]
    host_file.path.write_text(whole)
    assert service.ask("DELETE", "/v1/vms/one").status == 200
    assert list(host_file.vms) == ["two"]


# --- what --debug records -------------------------------------------------------------------------


def vms_over_time(path: Path) -> dict[str, set[tuple[str, str, str]]]:
    """By timestamp, the (name, vCPUs, level) of the VMs."""
    there: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    with path.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["rec"] == "vm" and row["res"] == "cpu":
                there[row["tmp"]].add((row["vm_cmn"], row["config"], row["sb_oc"]))
    return there


def test_what_is_recorded_live_replays_to_the_same_vms(tmp_path: Path) -> None:
    live, again = tmp_path / "live", tmp_path / "again"
    recorded = live / "monitoring.csv"

    def now_recorded(*names: str) -> bool:
        there = list(vms_over_time(recorded).values()) if recorded.exists() else []
        return any({name for name, _, _ in each} == set(names) for each in there)

    live.mkdir()
    arguments = (SIMULATED, "--debug=1", f"--output={live}")
    with local_service(tmp_path, *arguments, settings={"SCL_DELAY": "0.1"}) as service:
        for name, vcpus, level in (("one", 2, "1"), ("two", 2, "2"), ("three", 3, "3")):
            assert service.ask("POST", "/v1/vms", body(name, vcpus, level)).status == 201
        eventually(lambda: now_recorded("one", "two", "three"))
        assert service.ask("DELETE", "/v1/vms/one").status == 200
        assert service.ask("POST", "/v1/vms", body("four", 2, "1")).status == 201
        assert service.ask("POST", "/v1/vms/two/resize", {"vcpus": 3}).status == 200
        eventually(lambda: now_recorded("two", "three", "four"))
        assert service.stop() == 0
    ended = run_local(
        tmp_path,
        f"--load={recorded}",
        f"--topology={live / 'topology_local.json'}",
        "--debug=1",
        f"--output={again}",
    )
    assert ended.returncode == 0, ended.stderr
    assert vms_over_time(again / "monitoring.csv") == vms_over_time(recorded)
