"""What monitoring records of a live host: rows, and that a replay makes the same of them."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from schedulercommon.model import VmSpec, VmState
from schedulerlocal.adapters.monitoringcsv import LiveWriter, WholeRecords
from schedulerlocal.adapters.simulated import SimulatedHypervisor
from schedulerlocal.adapters.topologyjson import write_topology
from schedulerlocal.core.adoption import FoundVm, adopt
from schedulerlocal.core.host import Host
from schedulerlocal.core.planner import plan_deploy, plan_remove, plan_resize
from schedulerlocal.core.state import HostState
from schedulerlocal.core.steps import Plan
from schedulerlocal.core.waiting import VcpuTime
from schedulerlocal.monitoring import Monitor
from schedulerlocal.ports import HostUsage, VmUsage
from tests.monitoringrig import HOST, ONE, TWO, Agent, Counters, at, planned, spec
from tests.servers import ROOT

Row = dict[str, str]


def rows_of(file: Path) -> list[Row]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


async def test_waiting_is_recorded_with_its_level(tmp_path: Path) -> None:
    agent = Agent()
    agent.deploy(spec("a", 1), spec("b", 1))

    def waited(at_s: float, *vms: tuple[float, float]) -> HostUsage:
        usage = {
            name: VmUsage(cpu_time_s=ran_s, memory_used_mib=1, vcpus={0: VcpuTime(ran_s, waited_s)})
            for name, (ran_s, waited_s) in zip(("a", "b"), vms, strict=True)
        }
        return replace(at(at_s, {}), vms=usage)

    counters = Counters([waited(0, (0, 0), (0, 0)), waited(10, (8, 2), (5, 5))])
    with WholeRecords(tmp_path / "monitoring.csv") as file:
        monitor = Monitor(agent, counters, LiveWriter(file))
        await monitor.read()
        await monitor.read()
        rows = [each for each in rows_of(file.path) if each["rec"] == "subset"]
    (row,) = [each for each in rows if (each["tmp"], each["res"]) == ("10", "cpu")]
    about = json.loads(row["sb_dsc"])
    assert about["waiting"] == 0.35
    assert about["vm_waiting"] == {"a": 0.2, "b": 0.5}
    assert about["waiting"] <= about["waiting_p95"] <= 0.5


async def test_the_rows_of_a_timestamp(tmp_path: Path) -> None:
    agent = Agent()
    agent.deploy(spec("a"), spec("c", 1, 2048, ONE))
    own, alone = (agent.state.subsets[level].cpus for level in (TWO, ONE))
    assert (own, alone) == ((0, 8), (1,))
    shares = dict.fromkeys(HOST.topology.ids, 0.125)
    with WholeRecords(tmp_path / "monitoring.csv") as file:
        counters = Counters([at(7, {"a": 0, "c": 0}), at(22.5, {"a": 31, "c": 1.55}, shares)])
        monitor = Monitor(agent, counters, LiveWriter(file))
        await monitor.read()
        # whole timestamps are there to be read while the service runs
        assert [row["val"] for row in rows_of(file.path) if row["res"] == "cpu"] == ["None"] * 5
        await monitor.read()
        rows = [row for row in rows_of(file.path) if row["tmp"] != "0"]
    identities = {row["vm_cmn"]: row["vm_uuid"] for row in rows if row["rec"] == "vm"}
    table = [list(row.values()) for row in rows]
    none, no_vm = ["None"] * 6, ["None"] * 2
    a, c = identities["a"], identities["c"]
    about = {row["sb_oc"]: row["sb_dsc"] for row in rows if row["rec"] == "subset"}
    lent = "2-7,10-15"  # neither owned nor beside level 1
    assert about["2.0"] == f'{{"cpus":"0,8","lent":"{lent}","vms":["a"],"busy":0.125}}'
    assert about["1"] == '{"nodes":{"0":3072}}'
    assert about["1.0"] == '{"cpus":"1","lent":"","vms":["c"],"busy":0.125}'
    assert table == [
        ["15.5", "global", "cpu", "2.000", "16", *none],
        ["15.5", "subset", "cpu", "0.100", "1", "subset-1.0", *no_vm, "1.0", "0", about["1.0"]],
        ["15.5", "vm", "cpu", "0.100", "1", "subset-1.0", c, "c", "1.0", "None", "None"],
        ["15.5", "subset", "cpu", "2.000", "2", "subset-2.0", *no_vm, "2.0", "0", about["2.0"]],
        ["15.5", "vm", "cpu", "2.000", "2", "subset-2.0", a, "a", "2.0", "None", "None"],
        ["15.5", "global", "mem", "0.2500", "65536", *none],
        ["15.5", "subset", "mem", "0.2500", "3072", "subset-1", *no_vm, "1", "0", about["1"]],
        ["15.5", "vm", "mem", "0.250", "2048", "subset-1", c, "c", "1", "None", "None"],
        ["15.5", "vm", "mem", "0.500", "1024", "subset-1", a, "a", "1", "None", "None"],
    ]


async def test_no_timestamp_twice(tmp_path: Path) -> None:
    times = (0, 0.0004, 0.001, 0.0012, 7, 7, 7.25)
    with WholeRecords(tmp_path / "monitoring.csv") as file:
        monitor = Monitor(Agent(), Counters([at(now_s, {}) for now_s in times]), LiveWriter(file))
        for _ in times:
            await monitor.read()
    globals_ = [row["tmp"] for row in rows_of(file.path) if row["res"] == "cpu"]
    assert globals_ == ["0", "0.001", "7", "7.25"]


def replayed(folder: Path, recorded: Path, host: Host) -> list[Row]:
    write_topology(folder / "topology.json", host.topology)
    command = [sys.executable, "-m", "schedulerlocal", f"--load={recorded}", "--debug=1"]
    command += [f"--topology={folder / 'topology.json'}", f"--output={folder / 'replayed'}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "0 refused" in ended.stdout
    return rows_of(folder / "replayed" / "monitoring.csv")


def facts(rows: Sequence[Row]) -> dict[str, list[tuple[str, ...]]]:
    """By timestamp what was there: levels with CPUs owned, VMs with sizes, levels and values."""
    by_time: dict[str, list[tuple[str, ...]]] = {}
    for row in rows:
        columns = ["rec", "res", "config", "subset", "vm_cmn", "sb_oc", "val"]
        by_time.setdefault(row["tmp"], []).append(tuple(row[column] for column in columns))
    return {time: sorted(each) for time, each in by_time.items()}


async def test_what_was_recorded_live_can_be_replayed(tmp_path: Path) -> None:
    now_s = 5000.0
    hypervisor = SimulatedHypervisor(HOST, now_s=lambda: now_s, sleep=asyncio.sleep)
    agent = Agent()

    async def change(plan: Plan) -> None:
        for step in plan.steps:
            await hypervisor.perform(step)
        agent.state = plan.after
        agent.states = {domain.name: domain.state for domain in await hypervisor.domains()}

    thirds = Fraction(4, 3)
    wanted = [
        replace(spec("a"), max_vcpus=4, max_memory_mib=4096),
        replace(spec("better", 3, level=Fraction(3)), runs_at=thirds),
        spec("None", 1, level=ONE),
        spec("third", 4, 512, thirds),
    ]
    with WholeRecords(tmp_path / "live.csv") as file:
        monitor = Monitor(agent, hypervisor, LiveWriter(file))
        await monitor.read()
        for each in wanted:
            await change(planned(plan_deploy(agent.state, each)))
            now_s += 15
            await monitor.read()
        await change(planned(plan_resize(agent.state, "a", vcpus=3)))
        now_s += 15
        await monitor.read()
        await change(plan_remove(agent.state, "better"))
        again = replace(spec("better", 5, 3000, ONE), request_id="another")
        await change(planned(plan_deploy(agent.state, again)))
        now_s += 15.125
        await monitor.read()
        await change(plan_remove(agent.state, "a"))
        now_s += 15
        await monitor.read()
    live = facts(rows_of(tmp_path / "live.csv"))
    assert list(live) == ["0", "15", "30", "45", "60", "75", "90.125", "105.125"]
    vms = {row for rows in live.values() for row in rows if row[:2] == ("vm", "cpu")}
    assert {row[4] for row in vms} == {"a", "better", "None", "third"}
    assert max(float(row[-1]) for row in vms if row[-1] != "None") > 0

    rows = replayed(tmp_path, tmp_path / "live.csv", HOST)
    for row in rows:
        # a VM called None has no name in a replay, and is shown by its identity
        if row["rec"] == "vm" and row["vm_cmn"] == row["vm_uuid"]:
            row["vm_cmn"] = "None"
    assert facts(rows) == live


async def test_vms_that_are_not_ours_may_be_called_anything(tmp_path: Path) -> None:
    strange = ["tab\there", "line\nbreak", "  ", "ünïcode", "lone\udcff"]
    found = [
        FoundVm(
            spec=VmSpec(name=name, vcpus=1, memory_mib=512, level=ONE),
            vcpus=1,
            boot_memory_mib=512,
            foreign=True,
        )
        for name in strange
    ]
    agent = Agent(adopt(HOST, found, {}), dict.fromkeys(strange, VmState.RUNNING))
    with WholeRecords(tmp_path / "live.csv") as file:
        await Monitor(agent, Counters([at(0, {})]), LiveWriter(file)).read()
    rows = [row for row in replayed(tmp_path, file.path, HOST) if row["rec"] == "vm"]
    names = [row["vm_cmn"] for row in rows if row["res"] == "cpu"]
    assert names[:2] == ["tab here", "line break"]
    assert names[3:] == ["ünïcode", "lone?"]
    assert len({row["vm_uuid"] for row in rows}) == len(strange)


async def test_a_replay_counts_what_the_host_counted(tmp_path: Path) -> None:
    """Sizes are what counts, per-VM overhead apart, so the same setting gives the same memory."""
    host = Host(HOST.topology, replace(HOST.rules, vm_overhead_mib=128))
    agent = Agent(HostState(host, {}))
    agent.deploy(replace(spec("a", 2, 1024), max_memory_mib=4096))
    with WholeRecords(tmp_path / "live.csv") as file:
        await Monitor(agent, Counters([at(0, {"a": 1})]), LiveWriter(file)).read()
    sizes = {(row["rec"], row["res"]): row["config"] for row in rows_of(file.path)}
    assert sizes["vm", "mem"] == "4096"
    assert sizes["subset", "mem"] == str(4096 + 128)
    lines = file.path.read_text().splitlines()
    assert json.loads(lines[-2].split("\t")[-1]) == {"nodes": {"0": 4224}}
