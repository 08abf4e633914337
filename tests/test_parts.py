"""How ``make test`` runs its parts: here a test or two for each, in a checkout of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT, START_S, eventually

CONFIG = """
[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
addopts = ["--strict-markers", "--import-mode=importlib"]
markers = ["real: ", "alone: ", "no_cover: "]
"""
CONFTEST = """
import os, time
from contextlib import suppress
from pathlib import Path
import pytest

pytest_plugins = ["tests.interruption", "tests.parts"]
DIARY = Path("diary")

def wait_for(word):
    while word not in DIARY.read_text().split():
        time.sleep(0.01)

def note(word):
    with DIARY.open("a") as diary:
        diary.write(f"{word}\\n")

@pytest.fixture
def lab(): ...

@pytest.fixture
def tell():
    def tell(word):
        note(word)
        assert word not in os.environ.get("FAILING", "").split()
        if other := dict(watched="guests", guests="watched").get(word):
            if os.environ["MEANWHILE"] == "wait for the other":
                wait_for(other)
            if os.environ["MEANWHILE"] == "go on":
                time.sleep(60)
        if word in ("watched", "beside") and os.environ["MEANWHILE"] == "be deaf":
            with suppress(KeyboardInterrupt):
                time.sleep(60)
    yield tell
    note("cleared")
"""
TESTS = {
    "decisions": "def test_it(tell): tell('watched')",
    "client": "def test_it(tell): tell('beside')",
    "guests": "def test_it(tell, lab): tell('guests')",
    "speed": "import pytest\n@pytest.mark.alone\ndef test_it(tell): tell('alone')\n",
}
#: Words that tests tell, in the order of the parts.
WORDS = ("watched", "beside", "guests", "alone")


class Checkout:
    """What ``make test`` needs of one, with tests that write a diary."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in ("scripts/testing.py", "tests/interruption.py", "tests/parts.py"):
            self._file(name, (ROOT / name).read_text())
        self._file("pyproject.toml", CONFIG)
        self._file("tests/conftest.py", CONFTEST)
        for name, text in TESTS.items():
            self._file(f"tests/test_{name}.py", text)

    def _file(self, name: str, text: str) -> None:
        (self._directory / name).parent.mkdir(exist_ok=True)
        (self._directory / name).write_text(text)

    @property
    def told(self) -> list[str]:
        """What was told so far, but for what tests did after themselves."""
        return [word for word in self.noted if word in WORDS]

    @property
    def noted(self) -> list[str]:
        diary = self._directory / "diary"
        return diary.read_text().split() if diary.exists() else []

    def begin(self, *command: str, meanwhile: str = "", failing: str = "") -> subprocess.Popen[str]:
        ours = {"MEANWHILE": meanwhile, "FAILING": failing, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return subprocess.Popen(
            [*command, sys.executable, "scripts/testing.py"],
            cwd=self._directory,
            env={**os.environ, **ours},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, meanwhile: str = "", failing: str = "") -> tuple[int, str]:
        process = self.begin(*command, meanwhile=meanwhile, failing=failing)
        out = process.communicate(timeout=START_S)[0]
        return process.returncode, out

    def failed_last(self) -> set[str]:
        """Tests that ``pytest --lf`` would run."""
        found = subprocess.run(
            [sys.executable, "-m", "pytest", "--lf", "--lfnf=none", "--collect-only", "-q"],
            cwd=self._directory,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return set(re.findall(r"^tests/test_(\w+)\.py::", found.stdout, re.MULTILINE))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


several_cpus = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="then there is no beside"
)


@several_cpus
def test_two_parts_run_beside_each_other_and_the_last_by_itself(checkout: Checkout) -> None:
    code, out = checkout.run(meanwhile="wait for the other")
    assert code == 0, out
    assert sorted(checkout.told) == sorted(WORDS)
    assert checkout.noted[-2:] == ["alone", "cleared"]
    assert "cleared" in checkout.noted[:-2]
    # each told of what it ran, one after the other
    passed = re.findall(r"^--- (?:.*\n)+?(\d) passed", out, re.MULTILINE)
    assert passed == ["1", "2", "1"]


def test_with_one_cpu_every_part_runs_by_itself(checkout: Checkout) -> None:
    cpu = min(os.sched_getaffinity(0))
    code, out = checkout.run("taskset", "--cpu-list", str(cpu))
    assert code == 0, out
    assert checkout.told == list(WORDS)
    assert re.findall(r"(\d) passed", out) == ["1", "2", "1"]


@pytest.mark.parametrize("word", ["watched", "beside", "guests", "alone"])
def test_a_failure_anywhere_is_one_and_all_else_is_run(checkout: Checkout, word: str) -> None:
    code, out = checkout.run(failing=word)
    assert code == 1
    assert sorted(checkout.told) == sorted(WORDS)
    assert len(re.findall("^FAILED", out, re.MULTILINE)) == 1


def test_what_failed_in_any_part_is_what_failed_last(checkout: Checkout) -> None:
    assert checkout.run(failing="watched guests alone")[0] == 1
    assert checkout.failed_last() == {"decisions", "guests", "speed"}
    assert checkout.run(failing="guests")[0] == 1
    assert checkout.failed_last() == {"guests"}


@several_cpus
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both_and_both_clear_up(checkout: Checkout, number: signal.Signals) -> None:
    process = checkout.begin(meanwhile="go on")
    eventually(lambda: {"watched", "guests"} <= set(checkout.told))
    process.send_signal(number)
    out = process.communicate(timeout=START_S)[0]
    assert process.returncode == 128 + number
    assert out.endswith(f"--- interrupted by {number.name}\n")
    assert out.count("KeyboardInterrupt") >= 2
    assert checkout.noted.count("cleared") == len(checkout.told)
    assert "alone" not in checkout.told


@several_cpus
def test_a_test_that_swallows_an_interruption_is_the_last(checkout: Checkout) -> None:
    process = checkout.begin(meanwhile="be deaf")
    eventually(lambda: {"watched", "beside"} <= set(checkout.told))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=START_S)
    assert process.returncode == 130
    assert sorted(checkout.told) == ["beside", "watched"]
