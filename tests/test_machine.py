"""Described machines: the shipped files are made by the command, and Linux numbers CPUs like it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.errors import TopologyError
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.topology import Topology, exclude

ROOT = Path(__file__).parent.parent
EPYC = "--sockets=2 --cores=64 --threads=2 --l3-cores=4 --numa-distance=32 --max-freq-khz=2000000"
COMMANDS = {
    "topology_EPYC-7662.json": f"{EPYC} --memory-mib=1031752",
    "topology_EPYC-7662-exp.json": f"{EPYC} --memory-mib=1031742 --exclude=0-11,128-139",
    "topology_i7-1185G7.json": "--cores=4 --threads=2 --memory-mib=31776 --max-freq-khz=4800000",
}


def describe(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "schedulerlocal.describe", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_shipped_files_are_made_by_the_command(name: str, tmp_path: Path) -> None:
    output = tmp_path / name
    done = describe(*COMMANDS[name].split(), f"--output={output}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert output.read_text() == (ROOT / "debug" / name).read_text()


def test_debug_readme_gives_these_commands() -> None:
    cells = (ROOT / "debug" / "README.md").read_text().split("`")
    given_there = {
        frozenset(shlex.split(cell)) for cell in cells if cell.startswith("--") and " " in cell
    }
    assert given_there == {
        frozenset([*command.split(), f"--output=debug/{name}"])
        for name, command in COMMANDS.items()
    }


def shipped(name: str) -> dict[str, dict[str, object]]:
    document: dict[str, dict[str, object]] = json.loads((ROOT / "debug" / name).read_text())
    return document


@pytest.mark.parametrize(
    ("name", "listed", "host_count", "memory_mib", "first_cpu"),
    [
        ("topology_EPYC-7662.json", 256, 256, 1_031_752, 0),
        ("topology_EPYC-7662-exp.json", 232, 256, 1_031_742, 12),
        ("topology_i7-1185G7.json", 8, 8, 31_776, 0),
    ],
    ids=lambda value: value.removesuffix(".json") if isinstance(value, str) else None,
)
def test_what_shipped_files_say(
    name: str, listed: int, host_count: int, memory_mib: int, first_cpu: int
) -> None:
    document = shipped(name)
    cpus = document["cpuset"]["cpu_list"]
    assert isinstance(cpus, list)
    assert len(cpus) == listed
    assert cpus[0]["cpu_id"] == first_cpu
    assert document["cpuset"]["host_count"] == host_count
    assert document["memset"] == {"total": memory_mib, "allowed": memory_mib}
    ids = {cpu["cpu_id"] for cpu in cpus}
    for cpu in cpus:
        assert {*cpu["sib_smt"], *cpu["sib_cpu"]} < ids
        assert len(cpu["sib_smt"]) == 1


def test_distances_of_an_epyc() -> None:
    epyc = machine_topology(
        Machine(sockets=2, cores=64, threads=2, l3_cores=4, numa_distance=32, memory_mib=1_031_752)
    )
    # The other thread, the same L3, the same socket, the other one.
    assert [int(epyc.distances[0, other]) for other in (128, 3, 131, 4, 63, 64, 255)] == [
        10, 40, 40, 50, 50, 72, 72,
    ]  # fmt: skip
    for path in ("topology_EPYC-7662.json", "topology_EPYC-7662-exp.json"):
        written = shipped(path)["cpuset"]["distances"]
        assert isinstance(written, dict)
        for cpu in ("12", "200"):
            assert written[cpu] == {
                other: int(epyc.distances[int(cpu), int(other)])
                for other in written
                if other != cpu
            }


@pytest.mark.parametrize(
    ("machine", "distances_of_cpu_0"),
    [
        (Machine(cores=2, memory_mib=1), [0, 40]),
        (Machine(cores=2, l3_cores=0, memory_mib=1), [0, 40]),
        (Machine(cores=2, threads=2, private_caches=2, memory_mib=1), [0, 30, 10, 30]),
        (Machine(cores=2, private_caches=0, l3_cores=0, memory_mib=1), [0, 10]),
        (Machine(cores=4, l3_cores=2, memory_mib=1), [0, 40, 50, 50]),
        (Machine(sockets=2, cores=1, memory_mib=1), [0, 60]),
        (
            Machine(sockets=2, nodes_per_socket=2, cores=2, memory_mib=1, numa_distance=32),
            [0, 52, 72, 72],
        ),
    ],
    ids=[
        "L3 by default of the node",
        "no L3",
        "two private caches",
        "no caches",
        "two L3 groups",
        "two sockets",
        "two nodes per socket",
    ],
)
def test_shapes(machine: Machine, distances_of_cpu_0: list[int]) -> None:
    assert machine_topology(machine).distances[0].tolist() == distances_of_cpu_0


@given(
    sockets=st.integers(1, 4),
    nodes=st.integers(1, 3),
    groups=st.integers(1, 3),
    group_cores=st.integers(1, 4),
    threads=st.integers(1, 4),
)
def test_every_machine_is_regular(
    sockets: int, nodes: int, groups: int, group_cores: int, threads: int
) -> None:
    cores = nodes * groups * group_cores
    topology: Topology = machine_topology(
        Machine(
            sockets=sockets,
            nodes_per_socket=nodes,
            cores=cores,
            threads=threads,
            l3_cores=group_cores,
            memory_mib=1,
        )
    )
    all_cores = sockets * cores
    assert topology.ids == tuple(range(all_cores * threads))
    assert topology.host_count == len(topology.ids)
    for cpu in topology.cpus:
        assert topology.core_of[cpu.id] == tuple(
            range(cpu.id % all_cores, len(topology.ids), all_cores)
        )
        sharing = [other.id for other in topology.cpus if other.caches[-1] == cpu.caches[-1]]
        assert len(sharing) == group_cores * threads
        assert {topology.node_of[other] for other in sharing} == {cpu.node}
    assert (topology.distances == topology.distances.T).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "give --cores and --memory-mib, or --this-machine"),
        ("--cores=4", "give --memory-mib, or"),
        ("--cores=0 --memory-mib=1", "--cores of at least 1"),
        ("--cores=4 --memory-mib=0", "--memory-mib of at least 1"),
        ("--cores=-4 --memory-mib=1", "not a whole number"),
        ("--cores=4_0 --memory-mib=1", "not a whole number"),
        ("--cores=many --memory-mib=1", "'many' is not a whole number"),
        ("--cores --memory-mib=1", "expected one argument"),
        ("--cores=4 --memory-mib=1 --l3-cores=3", "--l3-cores=3 does not divide the 4 cores"),
        ("--cores=4 --memory-mib=1 --nodes-per-socket=3", "does not divide the 4 cores"),
        ("--cores=4 --memory-mib=1 --private-caches=16", "at most 15"),
        ("--cores=4 --memory-mib=1 --numa-distance=9", "--numa-distance must be from 10"),
        ("--cores=4 --memory-mib=1 --socket-distance=999", "--socket-distance must be from 10"),
        ("--sockets=8 --cores=1024 --threads=2 --memory-mib=1", "16384 CPUs, more than"),
        ("--cores=4 --memory-mib=1 --exclude=3-1", "'3-1' is not a range of CPUs"),
        ("--cores=4 --memory-mib=1 --exclude=2-9", "CPUs 4-9, which the machine does not have"),
        ("--cores=4 --memory-mib=1 --exclude=0-3", "leaves no CPU"),
        ("--this-machine --cores=4", "drop --cores"),
        ("--core=4", "unrecognized arguments: --core=4"),
        ("extra", "unrecognized arguments: extra"),
    ],
)
def test_wrong_usage(arguments: str, words: str, tmp_path: Path) -> None:
    output = tmp_path / "none.json"
    done = describe(*arguments.split(), f"--output={output}")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not output.exists()


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    done = describe("--cores=1", "--memory-mib=1", f"--output={tmp_path}")
    assert done.returncode == 1
    assert f"{tmp_path} cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1


def test_standard_output_may_be_closed_early() -> None:
    shape = COMMANDS["topology_EPYC-7662.json"]
    command = f"{shlex.quote(sys.executable)} -m schedulerlocal.describe {shape}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 10"], cwd=ROOT, capture_output=True, check=False
    )
    assert (done.stdout, done.stderr) == (b'{"cpuset":', b"")


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"sockets": 0}, "--sockets of at least 1"),
        ({"threads": -1}, "--threads of at least 1"),
        ({"max_freq_khz": -1}, "--max-freq-khz must be 0 or more"),
        ({"private_caches": 16}, "--private-caches must be at most 15"),
        ({"numa_distance": 9}, "--numa-distance must be from 10"),
        ({"socket_distance": 256}, "--socket-distance must be from 10"),
        ({"cores": 8193}, "8193 CPUs, more than the 8192"),
        ({"nodes_per_socket": 3}, "does not divide the 4 cores of a socket"),
        ({"l3_cores": 3}, "does not divide the 4 cores of a NUMA node"),
        ({"l3_cores": -1}, "does not divide the 4 cores of a NUMA node"),
        ({"nodes_per_socket": 2, "l3_cores": 4}, "does not divide the 2 cores of a NUMA node"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_machines(figures: dict[str, int], words: str) -> None:
    with pytest.raises(TopologyError, match=words):
        Machine(**{"cores": 4, "memory_mib": 1, **figures})


def test_excluded_cpus_do_not_exist() -> None:
    machine = machine_topology(Machine(cores=4, threads=2, memory_mib=1))
    rest = exclude(machine, (0, 1, 4))
    assert rest.ids == (2, 3, 5, 6, 7)
    assert rest.core_of == {2: (2, 6), 3: (3, 7), 5: (5,), 6: (2, 6), 7: (3, 7)}
    assert rest.host_count == 8
    kept = list(rest.ids)
    assert (rest.distances == machine.distances[kept][:, kept]).all()
    with pytest.raises(TopologyError, match="every CPU of the host is excluded"):
        exclude(machine, machine.ids)
