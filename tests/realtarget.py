"""A real host asked for what it must not do, and how to tell that nothing came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

from schedulerlocal.adapters.domainmetadata import METADATA_URI
from tests.hypervisorlab import libvirt, part
from tests.realhost import Driver
from tests.servers import Answer

METADATA = f"metadata/{{{METADATA_URI}}}vm"


@dataclass
class Target:
    """A running service and what it may not change."""

    driver: Driver

    @property
    def images(self) -> Path:
        return self.driver.host.image.parent

    def define(self, name: str, **more: Any) -> Answer:
        """Ask for a VM that is not started."""
        return self.driver.deploy(name, start=False, **more)

    def published(self, name: str, image: str, **more: str) -> Answer:
        """The same by curl, of one that is."""
        asked = {"name": name, "cpu": "1", "mem": "0.25", "oc": "2", "qcow2": image, **more}
        return self.driver.service.ask("GET", f"/deploy?{urlencode(asked, errors='surrogatepass')}")

    def config(self, name: str) -> ET.Element:
        """The domain as libvirt would start it."""
        with self.driver.host.domain(name) as domain:
            return ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def noted(self, name: str) -> Any:
        return json.loads(self.config(name).findtext(METADATA, ""))

    def all_there_is(self) -> dict[str, object]:
        host, get = self.driver.host, self.driver.service.get
        assert self.driver.service.ask("GET", "/healthz").status == 200
        return {
            **{path: get(path) for path in ("/v1/host", "/v1/vms", "/status")},
            "domains": {name: ET.tostring(self.config(name)) for name in host.domains()},
            "disks": sorted(host.disks.iterdir()),
            "notes": host.notes,
        }

    @property
    def journal(self) -> bytes:
        return (self.driver.host.directory / "journal" / "journal.jsonl").read_bytes()

    def refused(
        self, expected: tuple[int, str], ask: Callable[[], Answer], *, begun: bool = False
    ) -> str:
        """What is said to *ask*, once it is known that nothing else came of it.

        It is noted in the journal only if it was *begun*.
        """
        before, journal = self.all_there_is(), self.journal
        answer = ask()
        assert (answer.status, answer.json["code"]) == expected, answer.body
        assert answer.json["success"] is False
        assert self.all_there_is() == before
        assert begun or self.journal == journal
        sentence = str(answer.json["reason"])
        assert "\n" not in sentence
        assert len(sentence) < 1000
        assert "Traceback" not in self.driver.service.heard()
        return sentence


def shape(domain: ET.Element, name: str, noted: Any, console: Path) -> str:
    """A domain without what tells one VM from another of its size."""
    stands_for = {
        name: "NAME",
        part(domain, "uuid").text: "UUID",
        noted["disk_path"]: "DISK",
        str(console): "CONSOLE",
    }
    for element in domain.iter():
        element.text = stands_for.get(element.text, element.text)
        for attribute, value in element.items():
            element.set(attribute, stands_for.get(value, value))
    metadata = part(domain, "metadata")
    assert [each.tag for each in metadata] == [METADATA.partition("/")[2]]
    domain.remove(metadata)
    return ET.tostring(domain, encoding="unicode")


def paths(domain: ET.Element) -> set[str]:
    """Every path that *domain*, its metadata left out, names anywhere."""
    domain = ET.fromstring(ET.tostring(domain))
    for metadata in domain.findall("metadata"):
        domain.remove(metadata)
    texts = [text for each in domain.iter() for text in (each.text, *each.attrib.values())]
    return {text for text in texts if text and "/" in text}
