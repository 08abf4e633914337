"""What a start on a real hypervisor finds out before it takes a request."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from schedulerlocal.adapters.domaincheck import CHECKED, CHECKED_UUID
from tests.hypervisorlab import Lab
from tests.realhost import RealHost, real_host
from tests.servers import run_local


@pytest.fixture
def host(lab: Lab, tmp_path: Path) -> RealHost:
    return real_host(lab, tmp_path)


def template(devices: str = "", *, os: str = '<type arch="x86_64">hvm</type>') -> str:
    return f"<domain><os>{os}</os><devices>{devices}</devices></domain>"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (template(os='<type arch="sparc">hvm</type>'), "sparc"),
        (template(os='<type machine="pc-1864">hvm</type>'), "PCI|machine"),
        (template('<disk><target dev="vda" bus="ether"/></disk>'), "ether"),
        (template('<watchdog model="bulldog"/>'), "bulldog"),
        ('<domain><clock offset="utc" basis="utc"/><devices/></domain>', "clock"),
    ],
    ids=["architecture", "machine", "bus", "watchdog", "schema"],
)
def test_a_template_libvirt_refuses_ends_the_start(host: RealHost, text: str, said: str) -> None:
    path = host.directory / "template.xml"
    path.write_text(text)
    ended = run_local(host.directory, settings={**host.settings(), "QEMU_TEMPLATE": str(path)})
    assert ended.returncode == 1
    (told,) = [line for line in ended.stderr.splitlines() if " INFO " not in line]
    assert re.search(f"QEMU_TEMPLATE {path} makes no domain: .*({said}).*; mend the file", told)
    assert host.domains() == {}


@pytest.mark.parametrize(
    "wrong",
    [{"QEMU_MACHINE": "pc-1864"}, {"QEMU_LOC": "/bin/true"}],
    ids=["machine", "emulator"],
)
def test_settings_libvirt_refuses_end_the_start(host: RealHost, wrong: dict[str, str]) -> None:
    ended = run_local(host.directory, settings={**host.settings(), "QEMU_TEMPLATE": "", **wrong})
    assert ended.returncode == 1
    (told,) = [line for line in ended.stderr.splitlines() if " INFO " not in line]
    assert "no VM can be made with these settings" in told
    assert next(iter(wrong)) in told
    assert host.domains() == {}


def test_what_a_crash_left_of_the_check_goes_with_the_next_start(host: RealHost) -> None:
    connection = host.lab.connect()
    left = ET.fromstring(host.lab.domain_xml(CHECKED))
    ET.SubElement(left, "uuid").text = CHECKED_UUID
    connection.defineXML(ET.tostring(left, encoding="unicode"))
    connection.close()
    assert host.domains() == {CHECKED: False}
    with host.service() as driver:
        assert driver.vms() == []
        assert host.domains() == {}
