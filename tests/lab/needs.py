"""What a lab takes, and what becomes of tests that want one where there can be none.

They fail: nobody is to take a run without them for one that tried the real thing. Whoever knows
better says so with VMSTACK_TESTS_WITHOUT_LIBVIRT=1, and they are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.guest import cache_directory, guest_parts

SCHEMAS = Path("/usr/share/libvirt/schemas")
WITHOUT = "VMSTACK_TESTS_WITHOUT_LIBVIRT"

_PROGRAMS = ("libvirtd", "qemu-system-x86_64", "qemu-img", "unshare", "mount")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_MISSING = pytest.StashKey[str]()


def missing() -> str:
    """Why there can be no lab here, and how to mend it; nothing where there can be one."""
    lacking = [name for name in _PROGRAMS if not shutil.which(name, path=_PATH)]
    if not SCHEMAS.is_dir():
        lacking.append(str(SCHEMAS))
    if importlib.util.find_spec("libvirt") is None:
        lacking.append("libvirt-python")
    if guest_parts(cache_directory()) is None:
        lacking.append("a guest's kernel")
    if lacking:
        return (
            f"need {', '.join(lacking)}; on Debian 12 or 13 `make test`, run as root or by someone"
            " with sudo, installs all of it"
        )
    if os.geteuid() != 0:
        return "start a libvirtd of their own, which takes root; run `sudo make test`"
    mounts = subprocess.run(
        ["unshare", "--mount", "--net", "mount", "--bind", "/etc", "/etc"],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounts.returncode:
        return (
            "mount folders of their own, and here nobody may"
            f" ({mounts.stderr.strip()}); a container must be privileged for it"
        )
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where there can be no lab the first test that wants it fails, saying so once for all."""
    if not item.get_closest_marker("real"):
        return
    known = _MISSING in item.config.stash
    if not known:
        item.config.stash[_MISSING] = missing()
    if why := item.config.stash[_MISSING]:
        if os.environ.get(WITHOUT) == "1":
            pytest.skip(f"tests of the real hypervisor {why}")
        if known:
            pytest.skip("as little as the test of the real hypervisor that failed")
        pytest.fail(
            f"tests of the real hypervisor {why}, or leave them out with {WITHOUT}=1",
            pytrace=False,
        )
