"""What the house promises on paper is there: settings, commands, links and files."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from dotenv import dotenv_values

from schedulerglobal.config import GlobalSettings
from schedulerlocal.config import HostSettings, LibvirtSettings, ServiceSettings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DOTENV = (ROOT / "dotenv").read_text()
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] + [
    str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md"))
]

SETTINGS = """
    TOPO_EXCLUDE SCL_HOST_CPUS SCL_SMT_ISOLATION OVSB_CRITICAL_SIZE SCL_VM_OVERHEAD_MIB
    SCL_RESERVED_MEMORY_MIB SCL_NAME SCL_URL SCL_PORT SCL_DELAY SCL_HYPERVISOR SCL_SIMULATED_STATE
    SCL_SIMULATED_FAULTS SCL_CALL_TIMEOUT SCL_STATE_DIR SCL_IMAGE_DIRS SCL_DISK_DIR SCL_TOKEN_FILE
    SCL_REPAIR SCL_CPU_MODEL QEMU_URL QEMU_LOC QEMU_MACHINE QEMU_TYPE QEMU_TEMPLATE QEMU_NETWORK
    SCG_URL SCG_PORT SCG_DELAY SCG_NODE_URL_LIST SCG_TOKEN_FILE SCG_LOCAL_TOKEN_FILE SCG_STORE
    SCG_CLUSTER SCG_LEASE SCG_OWN_URL SCG_POLICY SCG_SEED SCG_CALL_TIMEOUT VMSTACK_URL
    VMSTACK_TOKEN_FILE
""".split()
# Worked out at start, or none: their lines are commented out.
COMPUTED = """
    SCL_VM_OVERHEAD_MIB SCL_RESERVED_MEMORY_MIB SCL_NAME SCL_HYPERVISOR SCL_SIMULATED_STATE
    SCL_STATE_DIR SCL_DISK_DIR SCL_TOKEN_FILE SCL_CPU_MODEL QEMU_LOC QEMU_MACHINE QEMU_TEMPLATE
    SCG_TOKEN_FILE SCG_LOCAL_TOKEN_FILE SCG_CLUSTER SCG_OWN_URL SCG_SEED VMSTACK_TOKEN_FILE
""".split()


def test_dotenv_has_every_setting_once() -> None:
    written = re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", DOTENV, re.MULTILINE)
    assert sorted(written) == sorted(SETTINGS)


def test_dotenv_sets_what_is_not_computed() -> None:
    values = dotenv_values(ROOT / "dotenv", interpolate=False)
    assert None not in values.values()
    assert set(values) == set(SETTINGS) - set(COMPUTED)


def test_dotenv_explains_every_setting() -> None:
    lines = DOTENV.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"(# )?[A-Z][A-Z_]+=", line):
            told = number
            while re.match(r"(# )?[A-Z][A-Z_]+=", lines[told]):
                told -= 1
            assert lines[told].startswith("# "), f"dotenv line {number + 1} is unexplained"


def test_dotenv_values_are_the_defaults() -> None:
    values = dotenv_values(ROOT / "dotenv", interpolate=False)
    given = {name: value for name, value in values.items() if value}
    assert "OVSB_CRITICAL_SIZE" in given
    assert HostSettings.from_env(given) == HostSettings.from_env({})
    assert ServiceSettings.from_env(given) == ServiceSettings.from_env({})
    assert LibvirtSettings.from_env(given) == LibvirtSettings.from_env({})
    assert GlobalSettings.from_env(given) == GlobalSettings.from_env({})


def test_dotenv_has_what_the_code_reads() -> None:
    setting = r'"((?:SCL|SCG|QEMU|TOPO|OVSB|VMSTACK)_[A-Z_]+)"'
    read = set()
    for config in ROOT.glob("scheduler*/config.py"):
        read |= set(re.findall(setting, config.read_text()))
    assert "SCL_SMT_ISOLATION" in read
    assert read <= set(SETTINGS)


def make_targets() -> set[str]:
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"^  make ([a-z-]+)", shown, re.MULTILINE))


def test_make_alone_lists_the_targets() -> None:
    assert {"setup", "demo", "demo-replay", "test", "check", "bench", "help"} <= make_targets()


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_named_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", text, re.MULTILINE))
    assert named <= make_targets()
    assert named or page != "README.md"


def test_first_screen_sets_everything_up() -> None:
    first_screen = README.splitlines()[:40]
    assert {"make demo", "make test"} <= {line.partition("#")[0].strip() for line in first_screen}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    missing = [target for target in targets if not ((ROOT / page).parent / target).exists()]
    assert missing == []
    assert targets or page != "README.md"


def test_files_named_in_readme_exist() -> None:
    # Inputs and sources; what runs write is named too, under results/demo/ or as ignored files.
    named = set(re.findall(r"\b(?:debug|results|docs|scripts|tests)/[\w./-]*\w", README))
    ignored = tuple((ROOT / ".gitignore").read_text().split())
    missing = [
        name for name in named if not f"{name}/".startswith(ignored) and not (ROOT / name).exists()
    ]
    assert {"results/monitoring.csv", "debug/topology_EPYC-7662-exp.json"} <= named
    assert missing == []


@pytest.mark.parametrize(
    "module", sorted(set(re.findall(r"python3? -m ((?:scheduler|cluster)[\w.]+)", README)))
)
def test_commands_named_in_readme_exist(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and line[0] not in "#-")


def test_requirements_agree() -> None:
    runtime, offline = pins("requirements.txt"), pins("requirements-offline.txt")
    assert set(runtime) - set(offline) == {"libvirt-python"}
    assert {name: runtime[name] for name in offline} == offline
    assert not set(pins("requirements-dev.txt")) & set(runtime)
    assert "-r requirements-offline.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()


def test_every_package_is_checked() -> None:
    """A new top-level package has to enter the import contracts too."""
    there = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]
    assert set(contracts["root_packages"]) == there - {"scripts"}
