"""Smaller promises about VMs on a real hypervisor, each seen from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hypervisorlab import Lab, wait_for_line
from tests.realhost import RealHost, real_host, refusal
from tests.servers import eventually

CPUS = tuple(sorted(os.sched_getaffinity(0)))


@pytest.fixture
def host(lab: Lab, tmp_path: Path) -> RealHost:
    return real_host(lab, tmp_path)


def starts_by_itself(host: RealHost, name: str) -> bool:
    with host.domain(name) as domain:
        return bool(domain.autostart())


def define(host: RealHost, name: str, *, autostart: bool) -> None:
    """A VM of somebody else's."""
    connection = host.lab.connect()
    connection.defineXML(host.lab.domain_xml(name)).setAutostart(int(autostart))
    connection.close()


def test_an_adopted_vm_no_longer_starts_by_itself(host: RealHost) -> None:
    stranger, other = host.lab.name("stranger"), host.lab.name("other")
    for name in (stranger, other):
        define(host, name, autostart=True)
    with host.service(OVSB_CRITICAL_SIZE="0") as driver:
        driver.done(stranger, "adopt", {"level": "2"})
        assert not starts_by_itself(host, stranger)
        assert starts_by_itself(host, other)  # which is nobody's business


@pytest.mark.parametrize("repair", ["on", "report"])
def test_autostart_that_was_switched_on_is_repaired(host: RealHost, repair: str) -> None:
    name = host.lab.name()
    with host.service() as driver:
        driver.deployed(name, start=False)
        assert not starts_by_itself(host, name)
        driver.service.stop()
    with host.domain(name) as domain:
        domain.setAutostart(1)
    with host.service(SCL_REPAIR=repair) as driver:
        with driver.service.listening(after=0) as events:
            told = events.wait_for("repair", vm=name)
        assert (told["before"], told["after"]) == ("autostart on", "autostart off")
        assert told["done"] is (repair == "on")
        assert starts_by_itself(host, name) is (repair == "report")


def test_a_console_is_shown_and_goes_with_its_vm(host: RealHost) -> None:
    name, stranger = host.lab.name(), host.lab.name("stranger")
    define(host, stranger, autostart=False)
    with host.service() as driver:
        driver.deployed(name)
        wait_for_line(host.console(name), "^guest up")
        shown = driver.service.ask("GET", f"/v1/vms/{name}/console?lines=400")
        assert shown.status == 200
        assert "guest up: cpus=1" in shown.body.decode()
        last = driver.service.ask("GET", f"/v1/vms/{name}/console?lines=1&bytes=10").body
        assert len(last) <= 10
        # as virtlogd would, in whose place QEMU writes the log here
        host.console(name).with_name(f"{name}.log.0").write_text("older\n")
        shown = driver.service.ask("GET", f"/v1/vms/{name}/console")
        assert shown.body.startswith(b"older\n")

        assert refusal(driver.service.ask("GET", f"/v1/vms/{stranger}/console")) == (
            409,
            "wrong-state",
        )
        driver.done(stranger, "adopt", {"level": "2"})
        assert refusal(driver.service.ask("GET", f"/v1/vms/{stranger}/console")) == (
            409,
            "wrong-state",
        )
        driver.removed(name)
        refused = driver.service.ask("GET", f"/v1/vms/{name}/console")
        assert refusal(refused) == (404, "unknown-vm")
        eventually(lambda: not list(host.console(name).parent.glob(f"{name}.log*")))
