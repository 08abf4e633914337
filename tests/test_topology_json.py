"""Topology files: every wrong one is refused in one sentence, every right one comes back equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedulercommon.errors import OutputError, TopologyError
from schedulerlocal.adapters.topologyjson import (
    read_topology,
    topology_document,
    topology_text,
    write_topology,
)
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.topology import Cpu, Topology

DEBUG = Path(__file__).parent.parent / "debug"
SHIPPED = [DEBUG / f"topology_{name}.json" for name in ("EPYC-7662", "EPYC-7662-exp", "i7-1185G7")]


def cpu(number: int, sibling: int, core: int) -> dict[str, Any]:
    return {
        "cpu_id": number,
        "numa_node": core,
        "sib_smt": [sibling],
        "sib_cpu": [sibling],
        "cache_level": {"0": core, "1": core},
        "max_freq": 2_000_000,
    }


def document() -> dict[str, Any]:
    """Two nodes of one core of two threads."""
    return {
        "cpuset": {
            "numa_distances": {"0": [10, 32], "1": [32, 10]},
            "cpu_list": [cpu(0, 2, 0), cpu(1, 3, 1), cpu(2, 0, 0), cpu(3, 1, 1)],
            "distances": {"0": {"1": 999}},
            "host_count": 6,
        },
        "memset": {"total": 4096, "allowed": 4000, "nodes": {"0": 3072, "1": 1024}},
    }


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "machine.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def test_every_field_is_read(tmp_path: Path) -> None:
    read = read_topology(written(tmp_path, document()))
    assert read == Topology(
        cpus=(
            Cpu(0, 0, (2,), (0, 0), 2_000_000),
            Cpu(1, 1, (3,), (1, 1), 2_000_000),
            Cpu(2, 0, (0,), (0, 0), 2_000_000),
            Cpu(3, 1, (1,), (1, 1), 2_000_000),
        ),
        numa_distances={0: (10, 32), 1: (32, 10)},
        memory_total_mib=4096,
        memory_allowed_mib=4000,
        node_memory_mib={0: 3072, 1: 1024},
        host_count=6,
    )
    assert read.distances.tolist() == [
        [0, 52, 10, 52],
        [52, 0, 52, 10],
        [10, 52, 0, 52],
        [52, 10, 52, 0],
    ]


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda doc: doc["cpuset"].pop("distances"),
        lambda doc: doc["cpuset"].update(distances="nonsense"),
        lambda doc: doc["cpuset"].pop("host_count"),
        lambda doc: doc["cpuset"]["cpu_list"][0].pop("sib_cpu"),
        lambda doc: doc["cpuset"]["cpu_list"][1].update(sib_smt=[1, 3, 3]),
        lambda doc: doc.update(colour="blue", notes=7),
        lambda doc: doc["cpuset"]["cpu_list"][0].update(serial=None),
        lambda doc: doc["memset"].pop("nodes"),
        lambda doc: doc["memset"].update(nodes=None),
    ],
    ids=[
        "no distances",
        "distances of nonsense",
        "no host_count",
        "no sib_cpu",
        "a CPU among its own siblings",
        "unknown fields",
        "unknown field of a CPU",
        "no memory per node",
        "null memory per node",
    ],
)
def test_what_need_not_be_there(tmp_path: Path, change: Change) -> None:
    changed = document()
    change(changed)
    read = read_topology(written(tmp_path, changed))
    whole = read_topology(written(tmp_path, document()))
    assert read.cpus == whole.cpus
    assert (read.distances == whole.distances).all()


def test_cpus_keep_the_order_of_the_file_and_a_byte_order_mark_does_no_harm(
    tmp_path: Path,
) -> None:
    shuffled = document()
    shuffled["cpuset"]["cpu_list"].reverse()
    path = written(tmp_path, "\ufeff" + json.dumps(shuffled))
    assert read_topology(path).ids == (3, 2, 1, 0)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.stem))
def test_shipped_files_come_back_as_they_were(path: Path, tmp_path: Path) -> None:
    topology = read_topology(path)
    assert topology_document(topology) == json.loads(path.read_text())
    write_topology(tmp_path / "again.json", topology)
    assert read_topology(tmp_path / "again.json") == topology


@given(
    machine=st.builds(
        Machine,
        sockets=st.integers(1, 3),
        cores=st.integers(1, 5),
        threads=st.integers(1, 3),
        private_caches=st.integers(0, 4),
        numa_distance=st.integers(10, 255),
        memory_mib=st.integers(2, 10**9),
        max_freq_khz=st.integers(0, 10**7),
    ),
    withheld=st.integers(0, 1),
    data=st.data(),
)
def test_any_topology_comes_back_equal(
    machine: Machine,
    withheld: int,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    plain = machine_topology(machine)
    sizes = st.integers(0, machine.memory_mib)
    topology = replace(
        plain,
        cpus=tuple(data.draw(st.permutations(plain.cpus))),
        memory_allowed_mib=machine.memory_mib - withheld,
        node_memory_mib=data.draw(st.none() | st.fixed_dictionaries(dict.fromkeys([0], sizes))),
    )
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(topology_text(topology))
    assert read_topology(path) == topology


def test_notes_are_written_for_people(tmp_path: Path) -> None:
    topology = replace(machine_topology(Machine(cores=1, memory_mib=1)), notes=("of interest",))
    write_topology(tmp_path / "noted.json", topology)
    assert json.loads((tmp_path / "noted.json").read_text())["notes"] == ["of interest"]
    assert read_topology(tmp_path / "noted.json") == replace(topology, notes=())


def cpus_of(doc: dict[str, Any]) -> list[Any]:
    found: list[Any] = doc["cpuset"]["cpu_list"]
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda doc: doc.pop("cpuset"), "cpuset is missing"),
        (lambda doc: doc.pop("memset"), "memset is missing"),
        (lambda doc: doc["cpuset"].pop("cpu_list"), "cpuset.cpu_list is missing"),
        (lambda doc: doc["cpuset"].pop("numa_distances"), "cpuset.numa_distances is missing"),
        (lambda doc: cpus_of(doc)[3].pop("numa_node"), "cpuset.cpu_list[3].numa_node is missing"),
        (lambda doc: cpus_of(doc)[0].pop("cpu_id"), "cpuset.cpu_list[0].cpu_id is missing"),
        (lambda doc: cpus_of(doc)[1].pop("sib_smt"), "cpuset.cpu_list[1].sib_smt is missing"),
        (lambda doc: cpus_of(doc)[1].pop("cache_level"), "cpu_list[1].cache_level is missing"),
        (lambda doc: cpus_of(doc)[1].pop("max_freq"), "cpu_list[1].max_freq is missing"),
        (lambda doc: doc["memset"].pop("total"), "memset.total is missing"),
        (lambda doc: doc["memset"].pop("allowed"), "memset.allowed is missing"),
        (lambda doc: doc.update(cpuset=[]), "cpuset is a list; it must be an object"),
        (lambda doc: doc["cpuset"].update(cpu_list={}), "cpu_list is an object; it must be a list"),
        (lambda doc: doc["cpuset"].update(cpu_list=[]), "lists no CPU"),
        (lambda doc: cpus_of(doc).insert(2, 7), "cpuset.cpu_list[2] is 7; it must be an object"),
        (lambda doc: cpus_of(doc)[2].update(cpu_id=True), "cpu_list[2].cpu_id is true"),
        (lambda doc: cpus_of(doc)[2].update(cpu_id="2"), 'cpu_list[2].cpu_id is "2"'),
        (lambda doc: cpus_of(doc)[2].update(cpu_id=2.0), "cpu_list[2].cpu_id is 2.0"),
        (lambda doc: cpus_of(doc)[2].update(cpu_id=-1), "cpu_list[2].cpu_id is -1"),
        (lambda doc: cpus_of(doc)[2].update(cpu_id=65536), "whole number from 0 to 65535"),
        (lambda doc: cpus_of(doc)[2].update(cpu_id=0), "CPU 0 is listed twice"),
        (lambda doc: cpus_of(doc)[2].update(numa_node=None), "cpu_list[2].numa_node is null"),
        (lambda doc: cpus_of(doc)[2].update(numa_node=5), "NUMA node 5"),
        (lambda doc: cpus_of(doc)[2].update(max_freq=float("nan")), "max_freq is NaN"),
        (lambda doc: cpus_of(doc)[2].update(sib_smt=0), "cpu_list[2].sib_smt is 0"),
        (lambda doc: cpus_of(doc)[2].update(sib_smt=["a"]), 'sib_smt[0] is "a"'),
        (lambda doc: cpus_of(doc)[2].update(sib_smt=[99]), "sibling 99, which is not listed"),
        (lambda doc: cpus_of(doc)[2].update(sib_smt=[]), "disagree about their siblings"),
        (lambda doc: cpus_of(doc)[2].update(cache_level={"0": 0}), "has 1 cache levels"),
        (lambda doc: cpus_of(doc)[2].update(cache_level={"0": 0, "2": 0}), "index 2 and lacks 1"),
        (lambda doc: cpus_of(doc)[2].update(cache_level={"x": 0}), "has the key 'x'"),
        (lambda doc: cpus_of(doc)[2].update(cache_level={"01": 0}), "has the key '01'"),
        (lambda doc: cpus_of(doc)[2].update(cache_level={"٣": 0}), "cache_level has the key"),
        (lambda doc: cpus_of(doc)[2].update(cache_level=[0, 0]), "cache_level is a list"),
        (lambda doc: cpus_of(doc)[2].update(cache_level={"0": "a"}), 'cache_level.0 is "a"'),
        (
            lambda doc: doc["cpuset"]["numa_distances"].update({"1": [10]}),
            "numa_distances of node 1 has 1 entries for 2 nodes",
        ),
        (
            lambda doc: doc["cpuset"]["numa_distances"].update({"1": [10, False]}),
            "cpuset.numa_distances.1[1] is false",
        ),
        (lambda doc: doc["cpuset"].update(numa_distances={}), "numa_distances does not have"),
        (lambda doc: doc["cpuset"].update(host_count="8"), 'cpuset.host_count is "8"'),
        (lambda doc: doc["memset"].update(total="4 GB"), 'memset.total is "4 GB"'),
        (lambda doc: doc["memset"].update(total=10**30), "memset.total is 1000000"),
        (lambda doc: doc["memset"].update(total=100, allowed=200), "allows 200 of 100 MiB"),
        (lambda doc: doc["memset"].update(allowed=0), "allows 0 of 4096 MiB"),
        (lambda doc: doc["memset"].update(nodes=[1]), "memset.nodes is a list"),
        (lambda doc: doc["memset"].update(nodes={"0": -1}), "memset.nodes.0 is -1"),
        (lambda doc: doc["memset"].update(nodes={"7": 1}), "memset.nodes names a NUMA node"),
        (
            lambda doc: doc["cpuset"].update(cpu_list=cpus_of(doc) * 2049),
            "has 8196 CPUs; list at most 8192",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_fields(tmp_path: Path, change: Change, words: str) -> None:
    wrong = document()
    change(wrong)
    path = written(tmp_path, wrong)
    with pytest.raises(TopologyError) as caught:
        read_topology(path)
    assert_one_sentence(str(caught.value), path, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("cpu,mem\n1,2\n", "line 1, column 1 is not JSON"),
        ('{"cpuset": {},\n "memset": nope}', "line 2, column 12 is not JSON"),
        (json.dumps(document())[:-40], "the file ends too early"),
        (json.dumps(document()) + "}", "is not JSON (Extra data)"),
        ("[1, 2]", "the file is a list; it must be an object"),
        ("null", "the file is null; it must be an object"),
        ("[" * 100_000, "the nesting too deep"),
        ('{"cpuset": ' + "9" * 5000 + "}", "a number is too long"),
    ],
    ids=[
        "empty",
        "blank",
        "not JSON",
        "a typing error",
        "truncated",
        "more than one",
        "a list",
        "null",
        "nested deeply",
        "a number of 5000 digits",
    ],
)
def test_wrong_texts(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TopologyError) as caught:
        read_topology(path)
    assert_one_sentence(str(caught.value), path, words)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    whole = (DEBUG / "topology_i7-1185G7.json").read_text()
    path = written(tmp_path, whole[: int(len(whole) * share)])
    with pytest.raises(TopologyError) as caught:
        read_topology(path)
    assert_one_sentence(str(caught.value), path, "ends too early")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"{\xff\xfe}")
    endless = tmp_path / "loop.json"
    endless.symlink_to(endless)
    for path, words in [
        (tmp_path / "none.json", "there is no such file"),
        (tmp_path, "is a directory"),
        (binary, "is not text in UTF-8 (byte 1)"),
        (endless, "cannot be read"),
    ]:
        with pytest.raises(TopologyError) as caught:
            read_topology(path)
        assert_one_sentence(str(caught.value), path, words)


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    topology = machine_topology(Machine(cores=1, memory_mib=1))
    for path in [tmp_path, tmp_path / "nowhere" / "file.json"]:
        with pytest.raises(OutputError) as caught:
            write_topology(path, topology)
        assert_one_sentence(str(caught.value), path, "cannot be written")


def assert_one_sentence(message: str, path: Path, words: str) -> None:
    assert words in message
    assert message.startswith(str(path))
    assert "\n" not in message
    assert ";" in message  # what follows says how to mend it
