"""Topologies from /sys: recorded machines, what kernels and firmware leave out, this one live.

``tests/sysfs/`` holds recordings by ``scripts/record_sysfs.sh``, one file's line per line:

- ``two-sockets``: 2 sockets of 16 cores of 2 threads, a node each; threads share the level 2 cache.
- ``five-nodes``: 2 sockets of 2 dies, 64 CPUs of which 5 and 17 are offline and 30 and 31
  isolated; the ids of index 3 contradict who shares it; a fifth node has memory only.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from schedulercommon.errors import TopologyError
from schedulerlocal.adapters.sysfs import read_sysfs
from schedulerlocal.adapters.topologyjson import read_topology, write_topology
from schedulerlocal.core.topology import Topology

ROOT = Path(__file__).parent.parent
CPU = "sys/devices/system/cpu"
NODE = "sys/devices/system/node"
Tree = dict[str, str]
"""Path to text."""


def unfold(recording: str) -> Tree:
    tree: Tree = {}
    for line in recording.splitlines():
        path, text = line.split(":", 1)
        tree[path] = tree.get(path, "") + text + "\n"
    return tree


def recorded(name: str) -> Tree:
    return unfold((ROOT / "tests" / "sysfs" / f"{name}.txt").read_text())


def unpacked(tree: Tree, root: Path) -> Path:
    for path, text in tree.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def without(tree: Tree, pattern: str) -> Tree:
    kept = {path: text for path, text in tree.items() if not re.search(pattern, path)}
    assert len(kept) < len(tree), "nothing to leave out"
    return kept


def changed(tree: Tree, pattern: str, text: Callable[[re.Match[str]], str]) -> Tree:
    found = {
        path: text(match) + "\n" if (match := re.search(pattern, path)) else before
        for path, before in tree.items()
    }
    assert found != tree, "nothing to change"
    return found


def levels(topology: Topology) -> set[int]:
    return {int(each) for each in np.unique(topology.distances)}


def test_two_sockets(tmp_path: Path) -> None:
    topology = read_sysfs(unpacked(recorded("two-sockets"), tmp_path))
    assert topology.ids == tuple(range(64))
    assert topology.host_count == 64
    assert topology.numa_distances == {0: (10, 32), 1: (32, 10)}
    assert topology.node_of == {cpu: cpu // 32 for cpu in range(64)}
    assert topology.core_of[62] == (62, 63)
    assert {cpu.max_freq_khz for cpu in topology.cpus} == {0}
    assert (topology.memory_total_mib, topology.memory_allowed_mib) == (957, 957)
    assert topology.node_memory_mib == {0: 589, 1: 367}
    assert topology.notes == ()
    # Two threads meet at index 2, a socket at index 3.
    assert [int(topology.distances[0, other]) for other in (1, 2, 31, 32, 63)] == [
        30, 40, 40, 72, 72,
    ]  # fmt: skip
    assert topology.cpus[63].caches == (63, 63, 31, 1)  # the kernel's own ids


def test_offline_isolated_and_memory_only(tmp_path: Path) -> None:
    topology = read_sysfs(unpacked(recorded("five-nodes"), tmp_path))
    assert topology.ids == tuple(cpu for cpu in range(64) if cpu not in (5, 17))
    assert topology.host_count == 64
    assert topology.nodes == (0, 1, 2, 3, 4)
    assert topology.numa_distances[1] == (12, 10, 32, 32, 40)
    assert topology.node_of == {cpu: cpu // 16 for cpu in topology.ids}
    assert topology.node_memory_mib is not None
    assert topology.node_memory_mib[4] == 249
    assert sum(topology.node_memory_mib.values()) <= topology.memory_total_mib == 1208
    # Recorded ids of index 3 differ for CPUs that share it; who shares it decides.
    assert levels(topology) == {0, 40, 52, 72}
    groups: dict[int, set[int]] = {}
    for cpu in topology.cpus:
        groups.setdefault(cpu.caches[3], set()).add(cpu.id // 16)
    assert groups == {0: {0}, 1: {1}, 2: {2}, 3: {3}}
    offline, isolated, ids = topology.notes
    assert "offline: 5,17" in offline
    assert "isolated from" in isolated
    assert isolated.endswith(": 30-31")
    assert "ids of cache index 3 contradict" in ids


def test_frequency(tmp_path: Path) -> None:
    tree = recorded("two-sockets")
    tree[f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq"] = "3500000\n"
    tree[f"{CPU}/cpu1/cpufreq/cpuinfo_max_freq"] = "<unknown>\n"
    topology = read_sysfs(unpacked(tree, tmp_path))
    assert [cpu.max_freq_khz for cpu in topology.cpus[:3]] == [3_500_000, 0, 0]


@pytest.mark.parametrize(
    "variant",
    [
        lambda tree: without(tree, r"/cache/index./id$"),
        lambda tree: without(tree, r"/cpu7/cache/index2/id$"),
        lambda tree: changed(tree, r"/cache/index./id$", lambda _: "0"),
        lambda tree: changed(tree, r"/cpu(\d+)/cache/index./id$", lambda cpu: cpu[1]),
        lambda tree: changed(tree, r"/cpu\d+/cache/index./id$", lambda _: "-1"),
        lambda tree: without(tree, r"/online$"),
        lambda tree: without(tree, r"/cpu/online$"),
        lambda tree: without(tree, r"/thread_siblings_list$"),
        lambda tree: without(tree, r"/core_cpus_list$"),
        lambda tree: without(tree, r"/cpu/isolated$|/cpu/present$|/cpu/possible$"),
        lambda tree: changed(tree, r"/physical_package_id$", lambda _: "0"),
        lambda tree: without(tree, r"/core_id$|/level$|/type$"),
    ],
    ids=[
        "no cache ids",
        "one cache id missing",
        "all cache ids the same",
        "cache ids that differ where shared",
        "cache ids of -1",
        "no file says what is online",
        "only each CPU says whether it is online",
        "only core_cpus_list",
        "only thread_siblings_list",
        "nothing on isolation",
        "one package with two nodes",
        "no core numbers",
    ],
)
def test_what_may_be_missing_or_wrong_without_harm(
    variant: Callable[[Tree], Tree], tmp_path: Path
) -> None:
    tree = recorded("two-sockets")
    whole = read_sysfs(unpacked(tree, tmp_path / "whole"))
    topology = read_sysfs(unpacked(variant(tree), tmp_path / "variant"))
    assert (topology.distances == whole.distances).all()
    assert (topology.last_level_cache == whole.last_level_cache).all()
    assert (topology.node_of, topology.core_of) == (whole.node_of, whole.core_of)


@pytest.mark.parametrize(
    "offline",
    [
        lambda tree: changed(tree, r"/cpu3/online$", lambda _: "0"),
        lambda tree: changed(tree, r"/cpu/online$", lambda _: "0-2,4-63"),
    ],
    ids=["by its own file", "by the list"],
)
def test_a_cpu_taken_offline_leaves_its_sibling_alone(
    offline: Callable[[Tree], Tree], tmp_path: Path
) -> None:
    topology = read_sysfs(unpacked(offline(recorded("two-sockets")), tmp_path))
    assert 3 not in topology.ids
    assert topology.core_of[2] == (2,)
    assert topology.host_count == 64
    assert topology.notes == ("CPUs left out because they are offline: 3",)


def test_holes_in_numbering(tmp_path: Path) -> None:
    tree = without(recorded("two-sockets"), r"/cpu(1\d|63)/|/node/node1/cpulist$")
    tree |= {f"{CPU}/online": "0-9,20-62\n", f"{NODE}/node1/cpulist": "32-62\n"}
    topology = read_sysfs(unpacked(tree, tmp_path))
    assert topology.ids == (*range(10), *range(20, 63))
    assert topology.host_count == 53
    assert topology.core_of[62] == (62,)


def test_holes_in_node_numbers(tmp_path: Path) -> None:
    tree = {
        path.replace("/node1/", "/node8/"): text for path, text in recorded("two-sockets").items()
    }
    topology = read_sysfs(unpacked(tree, tmp_path))
    assert topology.numa_distances == {0: (10, 32), 8: (32, 10)}
    assert topology.node_of[63] == 8
    assert topology.distances[0, 63] == 72


def test_no_numa(tmp_path: Path) -> None:
    topology = read_sysfs(unpacked(without(recorded("two-sockets"), "^" + NODE), tmp_path))
    assert topology.numa_distances == {0: (10,)}
    assert set(topology.node_of.values()) == {0}
    assert topology.node_memory_mib is None
    assert topology.distances[0, 63] == 50
    assert "shows no NUMA node" in topology.notes[0]


def test_a_cpu_on_no_node(tmp_path: Path) -> None:
    tree = recorded("two-sockets") | {f"{NODE}/node1/cpulist": "32-62\n"}
    topology = read_sysfs(unpacked(tree, tmp_path))
    assert topology.node_of[63] == 0
    assert topology.notes == ("CPUs on no NUMA node, taken to be on 0: 63",)


def test_no_caches(tmp_path: Path) -> None:
    topology = read_sysfs(unpacked(without(recorded("two-sockets"), "/cache/"), tmp_path))
    assert levels(topology) == {0, 10, 32}
    assert "shows no caches" in topology.notes[0]


def test_caches_of_unequal_depth(tmp_path: Path) -> None:
    """As on hybrid CPUs: 60-63 have no level 3 of their own, 59 has no cache described at all."""
    tree = without(recorded("two-sockets"), r"/cpu6[0-3]/cache/index3/|/cpu59/cache")
    tree = changed(tree, r"/cpu(3[2-9]|4\d|5\d)/cache/index3/shared_cpu_list$", lambda _: "32-58")
    whole = read_sysfs(unpacked(recorded("two-sockets"), tmp_path / "whole"))
    topology = read_sysfs(unpacked(tree, tmp_path / "hybrid"))
    rest = list(range(59))
    assert (topology.distances[:59, :59] == whole.distances[:59, :59]).all()
    assert topology.distances[62, 63] == 30
    assert set(topology.distances[63, rest[32:]].tolist()) == {50}
    assert topology.distances[60, 62] == 50
    assert topology.distances[59, 58] == 50
    assert topology.last_level_cache[62] == topology.last_level_cache[63]
    (note,) = topology.notes
    assert "fewer cache indexes" in note
    assert note.endswith(": 59-63")


@pytest.mark.parametrize(
    "variant",
    [
        lambda tree: changed(tree, r"node1/meminfo$", lambda _: "Node 1 MemTotal: 9000 kB"),
        lambda tree: without(tree, r"node1/meminfo$"),
    ],
    ids=["does not add up", "missing for a node"],
)
def test_node_memory_that_disagrees(variant: Callable[[Tree], Tree], tmp_path: Path) -> None:
    topology = read_sysfs(unpacked(variant(recorded("two-sockets")), tmp_path))
    assert topology.node_memory_mib is None
    assert topology.memory_total_mib == 957
    assert "/proc/meminfo 957 MiB, which is believed" in topology.notes[0]


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (lambda tree: without(tree, "^" + CPU), f"{CPU} shows no CPU that is online"),
        (
            lambda tree: changed(tree, r"cpu/online$", lambda _: "70-80"),
            f"{CPU} shows no CPU that is online",
        ),
        (
            lambda tree: changed(tree, r"cpu/online$", lambda _: "0-x"),
            f"{CPU}/online: '0-x' is not a range",
        ),
        (lambda tree: without(tree, "^proc/meminfo$"), "proc/meminfo does not say MemTotal"),
        (
            lambda tree: changed(tree, "^proc/meminfo$", lambda _: "MemTotal: much"),
            "proc/meminfo does not say MemTotal",
        ),
        (lambda tree: without(tree, "node1/cpulist$"), "node1/cpulist is missing"),
        (lambda tree: without(tree, "node1/distance$"), "node1/distance is missing"),
        (
            lambda tree: changed(tree, "node1/distance$", lambda _: "10 far"),
            "node1/distance is missing or not a list of numbers",
        ),
        (
            lambda tree: changed(tree, "node1/distance$", lambda _: "10 20 30"),
            "node1/distance has 3 distances for 2 nodes",
        ),
        (
            lambda tree: changed(tree, "cpu7/topology/thread_siblings", lambda _: "7-9"),
            "cpu6/topology/thread_siblings_list names CPU 7, whose own differs",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_trees_that_cannot_be_used(
    variant: Callable[[Tree], Tree], words: str, tmp_path: Path
) -> None:
    root = unpacked(variant(recorded("two-sockets")), tmp_path)
    with pytest.raises(TopologyError) as caught:
        read_sysfs(root)
    message = str(caught.value)
    assert words in message
    assert message.startswith(str(tmp_path))
    assert "\n" not in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    root = unpacked(recorded("two-sockets"), tmp_path)
    path = root / CPU / "online"
    for content in (None, b"\xff\xfe"):
        path.unlink()
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
        with pytest.raises(TopologyError, match=f"^{re.escape(str(path))} (cannot be|is not)"):
            read_sysfs(root)
        if content is None:
            path.rmdir()
            path.touch()


@pytest.mark.parametrize("name", ["two-sockets", "five-nodes"])
def test_the_command_writes_what_sys_says(name: str, tmp_path: Path) -> None:
    root = unpacked(recorded(name), tmp_path / "root")
    output = tmp_path / "found.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schedulerlocal.describe"),
            *(f"--this-machine={root}", f"--output={output}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    topology = read_sysfs(root)
    assert [line.removeprefix("describe: note: ") for line in done.stderr.splitlines()] == list(
        topology.notes
    )
    found = read_topology(output)
    assert (found.cpus, found.numa_distances) == (topology.cpus, topology.numa_distances)
    assert found.node_memory_mib == topology.node_memory_mib
    assert (found.distances == topology.distances).all()


def test_this_machine(tmp_path: Path) -> None:
    topology = read_sysfs()
    assert set(topology.ids) >= os.sched_getaffinity(0)
    assert len(topology.ids) == os.sysconf("SC_NPROCESSORS_ONLN")
    assert topology.host_count >= len(topology.ids)
    mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    assert topology.memory_total_mib == topology.memory_allowed_mib == mib
    assert (topology.distances == topology.distances.T).all()
    for cpu in topology.ids:
        assert set(topology.core_of[cpu]) <= set(topology.ids)
    write_topology(tmp_path / "here.json", topology)
    assert read_topology(tmp_path / "here.json").cpus == topology.cpus
    assert json.loads((tmp_path / "here.json").read_text())["memset"]["total"] == mib


def test_the_recorder_records_this_machine(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "record_sysfs.sh"], capture_output=True, text=True, check=True
    )
    topology = read_sysfs(unpacked(unfold(done.stdout), tmp_path))
    live = read_sysfs()
    assert topology.cpus == live.cpus
    assert topology.numa_distances == live.numa_distances
