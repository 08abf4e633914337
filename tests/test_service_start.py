"""Starting a service that cannot start, or is told to stop before it has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from time import monotonic

import pytest

from schedulercommon.errors import ConfigError
from schedulerlocal.config import ServiceSettings, machine_name
from tests.servers import local_service

PATIENCE_S = 20


def test_a_service_that_hangs_while_starting_still_ends_when_told(tmp_path: Path) -> None:
    file = tmp_path / "vms.json"
    # pinned to what its level does not own, so that the start wants to move it, and hangs
    vm = {"name": "a", "vcpus": 1, "memory_mib": 64, "level": "1.0", "pins": "0-3"}
    file.write_text(json.dumps({"vms": [vm]}))
    settings = {
        "SCL_SIMULATED_STATE": str(file),
        "SCL_SIMULATED_FAULTS": "hang@1,hang@2,hang@3",
        "SCL_CALL_TIMEOUT": str(3 * PATIENCE_S),
    }
    with local_service(tmp_path, settings=settings, ready=False) as service:
        assert service.ask("GET", "/healthz").status == 200
        assert service.ask("GET", "/readyz").status == 503
        began_s = monotonic()
        assert service.stop() == 0
        assert monotonic() - began_s < PATIENCE_S
    assert "Traceback" not in service.told
    assert json.loads(file.read_text())["vms"][0]["name"] == "a"


@pytest.mark.parametrize("path", [".", "..", "/", "state/.."])
def test_a_state_file_that_is_a_folder_is_a_wrong_setting(path: str) -> None:
    with pytest.raises(ConfigError, match=r"SCL_SIMULATED_STATE: '.*' is a folder; name a file"):
        ServiceSettings.from_env({"SCL_SIMULATED_STATE": path})


@pytest.mark.parametrize(
    ("told", "files", "name"),
    [
        ("node7.example.org", {}, "node7.example.org"),
        ("(none)", {"hostname": "node8\n"}, "node8"),
        ("(none)", {"hostname": "(none)\n", "machine-id": f"{'1f' * 16}\n"}, "host-1f1f1f1f1f1f"),
        ("", {"machine-id": ""}, "localhost"),
        ("(none)", {}, "localhost"),
    ],
    ids=["told", "from its file", "from its id", "empty", "nothing known"],
)
def test_a_machine_without_a_name_gets_one(
    tmp_path: Path, told: str, files: dict[str, str], name: str
) -> None:
    (tmp_path / "etc").mkdir()
    for file, text in files.items():
        (tmp_path / "etc" / file).write_text(text)
    assert machine_name(tmp_path, told) == name


OWN_STDERR = "JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2)"
"""What systemd tells a service whose stderr is its journal."""


@pytest.mark.parametrize(
    ("told", "timed"),
    [(OWN_STDERR, False), ("JOURNAL_STREAM=8:12345", True), ("unset JOURNAL_STREAM", True)],
    ids=["to the journal", "to another file", "anywhere else"],
)
def test_a_journal_notes_the_time_by_itself(tmp_path: Path, told: str, timed: bool) -> None:
    by = ("sh", "-c", f'export {told}; exec "$@"' if "=" in told else f'{told}; exec "$@"', "sh")
    with local_service(tmp_path, by=by) as service:
        assert service.ask("GET", "/remove?name=nobody").status == 404
        assert service.stop() == 0
        logged = [line for line in service.heard().splitlines() if " INFO " in f" {line}"]
    assert logged
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} " if timed else ""
    for line in logged:
        assert re.match(f"{time}INFO ", line), line
