"""The import rules that no linter knows: what pure code may use, and who may touch the world."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("schedulercommon", "schedulerprocess", "schedulerweb", "schedulerlocal"),
    *("schedulerglobal", "schedulerclient", "clustersim"),
)
TIERS = ("schedulerlocal", "schedulerglobal")
SHARED = {"schedulercommon", "schedulerprocess", "schedulerweb"}

# Pure folders, and what of our own each may import. Folders that are not there yet have no files.
PURE = {
    "schedulercommon": ("schedulercommon",),
    "schedulerlocal/core": ("schedulerlocal.core", "schedulercommon"),
    "schedulerglobal/core": ("schedulerglobal.core", "schedulercommon"),
}
THIRD_PARTY = {"numpy"}
# Single files that may use one library more.
EXTRA = {f"schedulercommon/{file}.py": {"pydantic"} for file in ("wire", "clusterwire")}
# What acts, waits, watches the clock, rolls dice or looks around.
WORLDLY = {
    *("asyncio", "concurrent", "contextvars", "ctypes", "glob", "http", "io", "logging"),
    *("multiprocessing", "os", "pathlib", "random", "secrets", "select", "shutil", "signal"),
    *("socket", "sqlite3", "subprocess", "sys", "tempfile", "threading", "time", "urllib"),
}
# Passed in as an argument, chance is no side effect; only the type may be named.
HARMLESS = {"random.Random"}
WORLDLY_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Each import with its line, as the longest dotted name it spells."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{package}.{alias.name}") for alias in node.names)


def inside(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def impurities(source: str, own: tuple[str, ...], libraries: set[str]) -> list[str]:
    """What keeps *source* from being pure, one sentence each."""
    found = []
    for line, name in imports(source):
        top = name.partition(".")[0]
        if inside(name, own) or top in libraries or name in HARMLESS:
            continue
        if top in WORLDLY or top not in sys.stdlib_module_names:
            found.append(f"line {line} imports {name}")
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=called)) if called in WORLDLY_CALLS:
                found.append(f"line {node.lineno} calls {called}")
    return found


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PURE_FILES = [(path, own) for folder, own in PURE.items() for path in python_files(folder)]
ALL_FILES = [path for package in PACKAGES for path in python_files(package)]


def test_there_is_something_to_check() -> None:
    names = {module_name(path) for path, _ in PURE_FILES}
    assert {"schedulercommon.sizing", "schedulerlocal.core.planner"} <= names
    assert len(ALL_FILES) > len(PURE_FILES)


@pytest.mark.parametrize(
    ("path", "own"), PURE_FILES, ids=[module_name(path) for path, _ in PURE_FILES]
)
def test_pure_code_imports_nothing_of_the_world(path: Path, own: tuple[str, ...]) -> None:
    libraries = THIRD_PARTY | EXTRA.get(path.relative_to(ROOT).as_posix(), set())
    assert impurities(path.read_text(), own, libraries) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os", ["line 1 imports os"]),
        ("import os.path as p", ["line 1 imports os.path"]),
        ("from time import monotonic", ["line 1 imports time.monotonic"]),
        ("import random", ["line 1 imports random"]),
        ("from random import Random", []),
        ("from random import random", ["line 1 imports random.random"]),
        ("def f():\n    import asyncio", ["line 2 imports asyncio"]),
        ("import pandas as pd", ["line 1 imports pandas"]),
        ("import numpy as np\nfrom numpy.typing import NDArray", []),
        ("from fractions import Fraction", []),
        ("from schedulercommon.model import VmSpec", []),
        ("from schedulerlocal.core import state", []),
        (
            "from schedulerlocal.config import HostSettings",
            ["line 1 imports schedulerlocal.config.HostSettings"],
        ),
        ("from schedulerlocal.corelike import x", ["line 1 imports schedulerlocal.corelike.x"]),
        ("from . import state", ["line 1 imports ..state"]),
        ("open('trace')", ["line 1 calls open"]),
    ],
)
def test_the_check_itself_sees(source: str, found: list[str]) -> None:
    assert impurities(source, PURE["schedulerlocal/core"], THIRD_PARTY) == found


def test_schedulercommon_knows_neither_tier() -> None:
    wrong = [
        f"{path.name}:{line} {name}"
        for path in python_files("schedulercommon")
        for line, name in imports(path.read_text())
        if inside(name, PACKAGES) and not inside(name, ["schedulercommon"])
    ]
    assert wrong == []


@pytest.mark.parametrize("tier", TIERS)
def test_tiers_do_not_know_each_other(tier: str) -> None:
    others = set(PACKAGES) - SHARED - {tier}
    wrong = [
        f"{module_name(path)}:{line} {name}"
        for path in python_files(tier)
        for line, name in imports(path.read_text())
        if inside(name, others)
    ]
    assert wrong == []


def test_tests_share_through_rigs_and_not_through_each_other() -> None:
    found = [
        f"{path.name}:{line} {name}"
        for path in python_files("tests")
        for line, name in imports(path.read_text())
        if inside(name, ["tests"])
    ]
    assert found
    assert [each for each in found if " tests.test_" in each] == []


def test_libvirt_is_imported_in_one_file_at_most() -> None:
    users = {
        module_name(path)
        for path in ALL_FILES
        for _, name in imports(path.read_text())
        if inside(name, ["libvirt", "libvirt_qemu", "libvirtmod"])
    }
    assert users <= {"schedulerlocal.adapters.libvirt"}


def reads_environment(source: str) -> bool:
    names = {name for _, name in imports(source)}
    used = {
        f"os.{node.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    return bool((names | used) & {"os.environ", "os.environb", "os.getenv", "os.putenv"})


def test_only_configuration_reads_the_environment() -> None:
    readers = {module_name(path) for path in ALL_FILES if reads_environment(path.read_text())}
    assert readers == {"schedulerprocess.settings"}


def test_no_file_outgrows_a_reader() -> None:
    long = {
        module_name(path): lines
        for path in ALL_FILES
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


HEAVY = ("pandas", "scipy", "matplotlib", "rich", "pydantic", "libvirt")


@pytest.mark.parametrize("module", ["schedulerlocal.__main__", "schedulerlocal.config"])
def test_starting_imports_nothing_heavy(module: str) -> None:
    program = (
        f"import sys, importlib; importlib.import_module({module!r});"
        f"print('loaded', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.split()) == (0, ["loaded"]), ended.stderr
