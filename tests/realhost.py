"""A local scheduler on the laboratory's libvirtd, and what a test asks of the two."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hypervisorlab import BOOT_S, Lab, libvirt
from tests.servers import Answer, Service, eventually, local_service

MEMORY_MIB = 160


@dataclass
class RealHost:
    """``directory`` holds the service's state, and outlives it."""

    lab: Lab
    directory: Path
    image: Path

    @contextmanager
    def service(self, *template: str, ready: bool = True, **settings: str) -> Iterator[Driver]:
        """*template* has arguments for the kernels of guests made from now on."""
        ours = {**self.settings(*template), **settings}
        with local_service(self.directory, "--debug=0", settings=ours, ready=ready) as service:
            yield Driver(service, self)

    def settings(self, *template: str) -> dict[str, str]:
        return {
            "SCL_HYPERVISOR": "libvirt",
            "QEMU_URL": self.lab.uri,
            "QEMU_TYPE": "qemu",
            "QEMU_NETWORK": "none",
            "QEMU_TEMPLATE": str(self.lab.template(*template)),
            "SCL_IMAGE_DIRS": str(self.image.parent),
            "SCL_DISK_DIR": str(self.disks),
            "SCL_RESERVED_MEMORY_MIB": "0",
            "SCL_VM_OVERHEAD_MIB": "64",
            "SCL_DELAY": "60",  # what is seen sooner was told by an event
        }

    @property
    def disks(self) -> Path:
        return self.directory / "disks"

    @property
    def overlays(self) -> list[str]:
        """VMs that have a disk of their own, by name."""
        return sorted(path.name.partition("@")[0] for path in self.disks.iterdir())

    @property
    def notes(self) -> list[Path]:
        """Disks that are noted to go."""
        folder = self.directory / "journal" / "disks"
        return sorted(folder.iterdir()) if folder.exists() else []

    def console(self, name: str) -> Path:
        return self.directory / "journal" / "console" / f"{name}.log"

    def domains(self) -> dict[str, bool]:
        """Whether it runs, for each domain there is."""
        connection = self.lab.connect()
        try:
            # both are known without asking again, when it may be gone
            return {each.name(): each.ID() != -1 for each in connection.listAllDomains()}
        finally:
            connection.close()

    @contextmanager
    def domain(self, name: str) -> Iterator[libvirt.virDomain]:
        """What an administrator with virsh has in hand."""
        connection = self.lab.connect()
        try:
            yield connection.lookupByName(name)
        finally:
            connection.close()


def real_host(lab: Lab, directory: Path) -> RealHost:
    host = RealHost(lab, directory, lab.disk(lab.name("image")))
    host.disks.mkdir()
    return host


@dataclass
class Driver:
    """Requests to a running service."""

    service: Service
    host: RealHost

    def deploy(self, name: str, vcpus: int = 1, level: str = "2", **more: Any) -> Answer:
        sizes = {"vcpus": vcpus, "memory_mib": MEMORY_MIB, "level": level}
        body = {"name": name, **sizes, "image": str(self.host.image), **more}
        return self.service.ask("POST", "/v1/vms", body)

    def deployed(self, name: str, vcpus: int = 1, level: str = "2", **more: Any) -> Any:
        """The same, which has to succeed."""
        return self.ok(self.deploy(name, vcpus, level, **more), 201)

    def do(self, name: str, verb: str, body: object = None) -> Answer:
        return self.service.ask("POST", f"/v1/vms/{name}/{verb}", body)

    def done(self, name: str, verb: str, body: object = None) -> Any:
        return self.ok(self.do(name, verb, body))

    def remove(self, name: str) -> Answer:
        return self.service.ask("DELETE", f"/v1/vms/{name}")

    def removed(self, name: str) -> None:
        self.ok(self.remove(name))

    def wait_until_all_burn(self, names: Iterable[str]) -> None:
        """Who does so already does not keep the others from it."""
        left = set(names)

        def look() -> bool:
            for name in sorted(left):
                if "guest burns" in self.host.console(name).read_text(errors="replace"):
                    self.done(name, "suspend")
                    left.remove(name)
            return not left

        eventually(look, BOOT_S)
        for name in names:
            self.done(name, "resume")

    def vm(self, name: str) -> Any:
        return self.service.get(f"/v1/vms/{name}")

    def vms(self) -> list[str]:
        return sorted(self.service.get("/listvm"))

    def states(self) -> dict[str, str]:
        return {vm["name"]: vm["state"] for vm in self.service.get("/v1/vms")}

    def ok(self, answer: Answer, status: int = 200) -> Any:
        assert answer.status == status, answer.body
        return answer.json


def refusal(answer: Answer) -> tuple[int, str]:
    content = json.loads(answer.body)
    assert content["success"] is False
    assert content["reason"]
    return answer.status, content["code"]
