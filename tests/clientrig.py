"""The command line as a test calls it, in this process or one of its own, and what it is told."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest

from schedulerclient.cli import main
from schedulercommon.model import VmSpec
from schedulerprocess.options import exit_code
from tests.scripted import Scripted, host_document, says, vm_document
from tests.servers import IMAGE, ROOT, START_S

ODD_IMAGE = "/images/a,b.qcow2"
SIZE = ("--cpu=2", "--mem=0.3", "--oc=1.5")
DEPLOY = ("deploy", "web1", *SIZE, f"--image={ODD_IMAGE}")
WEB1 = VmSpec(name="web1", vcpus=2, memory_mib=2048, level=Fraction(3, 2), image=IMAGE)
VM = says(vm_document(), 201)
DONE = says({"success": True, "reason": None})
TAKES = {"takes_effect": {"vcpus": "live", "memory_mib": "unchanged"}}
NO_VMS = {"/v1/vms": says([])}


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("VMSTACK_URL", "VMSTACK_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(main, arguments)
    return Ended(code, out.getvalue(), err.getvalue())


def ask(server: Scripted, *arguments: str) -> Ended:
    return run(f"--url={server.url}", *arguments)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "schedulerclient", *arguments]


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("VMSTACK_")}
    return {**inherited, "PYTHONPATH": str(ROOT), **(settings or {})}


def run_process(
    directory: Path, *arguments: str, settings: Mapping[str, str] | None = None
) -> Ended:
    """As a process of its own, in *directory*."""
    ended = subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


HOSTS = [
    host_document(
        levels=[{"level": "3.0", "cpus": 2, "vcpus": 6}, {"level": "1.0", "cpus": 4, "vcpus": 4}],
        cpus={"total": 256, "free": 250},
    ),
    host_document("big", levels=[{"level": "3.0", "cpus": 1, "vcpus": 1}], vms=7),
    host_document(
        "gone", state="down", reachable=False, problem="timed out", levels=[], conflicts=["web7"]
    ),
]


STREAM = b"HTTP/1.1 200 OK\r\n\r\n: listening\n\n"
