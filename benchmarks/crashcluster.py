"""A cluster whose global scheduler is killed again and again: its processes, what its hosts have,
and what its store holds at that moment.

Hosts are real local schedulers over simulated hypervisors, whose files outlive them, and light ones
that know the published routes only. All ports are outside the range from which the system picks
those of outgoing connections: a client that keeps trying a port where nobody listens would end up
connected to itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ports import free_port
from benchmarks.processes import ROOT, LightLocals, NotMeasured

TOPOLOGY = ROOT / "debug" / "topology_i7-1185G7.json"
PATIENCE_S = 60.0
DELAY_S = "0.25"
CALL_TIMEOUT_S = "0.7"
"""Less than a host is stopped for, so that outcomes become unknown without anybody's death."""

_SETTINGS = ("SCL_", "SCG_", "TOPO_", "OVSB_", "QEMU_")


class Running:
    """``python -m MODULE`` under *directory*, and the lines it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.printed: list[str] = []
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, directory: Path, settings: Mapping[str, str], *command: str) -> Running:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *command,
            cwd=directory,
            env={**inherited, "PYTHONPATH": str(ROOT), **settings},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return cls(process)

    async def until(self, pattern: str) -> None:
        """Until a line matches; raises NotMeasured with what it said if none does."""
        seen = 0
        async with asyncio.timeout(PATIENCE_S):
            while True:
                while seen < len(self.printed):
                    if re.search(pattern, self.printed[seen]):
                        return
                    seen += 1
                if self._reading.done():
                    said = "".join(self.printed[-20:]).strip()
                    raise NotMeasured(f"it ended without {pattern!r}: {said}")
                self._news.clear()
                await self._news.wait()

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def send(self, number: int) -> None:
        if self.alive:
            self.process.send_signal(number)

    async def end(self, number: int = signal.SIGKILL) -> int:
        """Send that signal and wait; the exit code."""
        self.send(signal.SIGCONT)
        self.send(number)
        async with asyncio.timeout(PATIENCE_S):
            code = await self.process.wait()
            await self._reading
        return code

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.printed.append(line.decode(errors="replace"))
            self._news.set()
        self._news.set()


class TypedHost:
    """A local scheduler and its simulated host, which outlives it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.file = directory / name / "host.json"
        self.running: Running | None = None
        self.file.parent.mkdir()

    async def start(self) -> None:
        settings = {
            "SCL_NAME": self.name,
            "SCL_PORT": str(self.port),
            "SCL_STATE_DIR": str(self.file.parent / "journal"),
            "SCL_SIMULATED_STATE": str(self.file),
            "SCL_DELAY": "1",
        }
        command = ("schedulerlocal", f"--topology={TOPOLOGY}")
        self.running = await Running.start(self.file.parent, settings, *command)
        await self.running.until("is ready")

    async def kill(self) -> None:
        if self.running is not None:
            await self.running.end()

    def send(self, number: int) -> None:
        if self.running is not None:
            self.running.send(number)

    @property
    def names(self) -> frozenset[str]:
        try:
            vms = json.loads(self.file.read_text())["vms"]
        except FileNotFoundError:
            return frozenset()
        return frozenset(vm["name"] for vm in vms)

    @property
    def version(self) -> int:
        """Of the file: another one after every change."""
        try:
            return self.file.stat().st_mtime_ns
        except FileNotFoundError:
            return 0


@dataclass(frozen=True, slots=True)
class Row:
    """A promise as the store has it."""

    name: str
    host: str
    status: str
    settled: bool
    attempt: str
    reason: str


class Cluster:
    """One global scheduler at a time, over hosts that stay."""

    def __init__(
        self, directory: Path, typed: Sequence[str], light: LightLocals | None = None
    ) -> None:
        self.directory = directory
        self.typed = {name: TypedHost(directory, name) for name in typed}
        self.light = light
        self.light_urls = list(light.urls) if light is not None else []
        self.light_names = frozenset(url.partition("://")[2] for url in self.light_urls)
        self.port = free_port()
        self.store = directory / "cluster.db"
        self.scheduler: Running | None = None

    async def start_hosts(self) -> None:
        await asyncio.gather(*[host.start() for host in self.typed.values()])

    async def start(self) -> Running:
        """A new global scheduler, not ready yet."""
        urls = [*(host.url for host in self.typed.values()), *self.light_urls]
        settings = {
            "SCG_PORT": str(self.port),
            "SCG_STORE": f"sqlite:///{self.store}",
            "SCG_DELAY": DELAY_S,
            "SCG_CALL_TIMEOUT": CALL_TIMEOUT_S,
        }
        command = ("schedulerglobal", f"--list={','.join(urls)}")
        self.scheduler = await Running.start(self.directory, settings, *command)
        return self.scheduler

    async def end(self) -> None:
        if self.scheduler is not None:
            await self.scheduler.end()
        await asyncio.gather(*[host.kill() for host in self.typed.values()])

    def on_hosts(self) -> dict[str, frozenset[str]]:
        """By host, the names of the VMs that are there."""
        there = {name: host.names for name, host in self.typed.items()}
        if self.light is not None:
            for url, vms in self.light.dump().items():
                there[url.partition("://")[2]] = frozenset(vms)
        return there

    @property
    def version(self) -> tuple[int, ...]:
        """Another one after every change on a typed host."""
        return tuple(host.version for host in self.typed.values())

    def rows(self) -> dict[str, Row]:
        """What the store holds, but for what is gone, by name.

        Reads a copy: whoever closes a store that was left behind by a crash tidies it, and that is
        for the next start to do.
        """
        copy = self.directory / "copy.db"
        for suffix in ("-wal", "-shm", ""):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
        for suffix in ("", "-wal"):
            if Path(f"{self.store}{suffix}").exists():
                shutil.copyfile(f"{self.store}{suffix}", f"{copy}{suffix}")
        return {row.name: row for row in history(copy) if row.status != "gone"}

    def history_of(self, name: str) -> list[Row]:
        """All promises there ever were under *name*, when the store was read last."""
        return [row for row in history(self.directory / "copy.db") if row.name == name]


def history(store: Path) -> list[Row]:
    """All promises of the store in that file, the oldest first."""
    with closing(sqlite3.connect(store)) as connection:
        try:
            return [
                Row(name, host, status, bool(settled), attempt, reason)
                for name, host, status, settled, attempt, reason in connection.execute(
                    "SELECT name, host, status, settled, attempt, reason FROM promises ORDER BY id"
                )
            ]
        except sqlite3.OperationalError as problem:
            if "no such table" in str(problem):
                return []  # it was killed before it made any
            raise
