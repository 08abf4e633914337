"""``python -m benchmarks.lightlocals``: many local schedulers in one process, and their faults.

Each listens on a port of its own and knows the published routes only; it admits as a real one does
and answers as an older one: refusals have status 200 and no code. Next to nothing is spent on a
request, so that what is measured is whoever asks. The first line printed is the JSON list of their
URLs; each line of JSON read from standard input is a command (see ``Control``), answered by a line;
the end of standard input, or SIGTERM, ends them all.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import stat
import sys
from collections.abc import Sequence
from typing import Any, Literal

from benchmarks.lightfaults import Fault
from benchmarks.lighthost import LightHost
from benchmarks.lightsite import Manner, Site
from schedulercommon.errors import UsageError
from schedulercommon.levels import format_level
from schedulerprocess.collector import calm_collector
from schedulerprocess.lifetime import stop_on_signals
from schedulerprocess.options import Options, exit_code


class Control:
    """Commands, each a JSON object, and what is answered::

        {"host": 3, "fault": "hang", "scope": "changes"}   {"ok": true}
        {"host": 3, "fault": "none"}                       {"ok": true}
        {"ask": "dump"}    [{"name": [vcpus, memory_mib, level, image], ...}, ...]
        {"ask": "polls"}   [[readings of the status, longest gap in s, age of the last in s], ...]
        {"ask": "asked"}   [{"/deploy": 17, ...}, ...]
        {"ask": "mark"}    {"ok": true}; counts and gaps begin anew

    A host is its place in the list of URLs; without one, a command is for all. ``scope`` is ``all``
    routes unless it says ``changes``. Lists answer for each host meant, in order. A command that
    makes no sense is answered ``{"error": why}``.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites

    async def obey(self, line: bytes) -> Any:
        try:
            command = json.loads(line)
            sites = self._meant(command)
            if "ask" in command:
                return self._told(command["ask"], sites)
            await self._set(command["fault"], command.get("scope", "all"), sites)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as problem:
            return {"error": f"{type(problem).__name__}: {problem}"}
        return {"ok": True}

    def _meant(self, command: dict[str, Any]) -> Sequence[Site]:
        place = command.get("host")
        return self._sites if place is None else [self._sites[place]]

    async def _set(
        self, fault: str, scope: Literal["all", "changes"], sites: Sequence[Site]
    ) -> None:
        wanted = Fault.parse(fault, scope)
        for site in sites:
            if wanted is not None and wanted.kind == "lose":
                site.host.forget()
                continue
            site.fault = wanted
            if wanted is not None and wanted.kind == "refuse":
                site.hang_up()
            else:
                await site.listen()

    def _told(self, question: str, sites: Sequence[Site]) -> Any:
        now_s = asyncio.get_running_loop().time()
        match question:
            case "dump":
                return [
                    {
                        name: [vm.vcpus, vm.memory_mib, format_level(vm.level), vm.image]
                        for name, vm in site.host.vms.items()
                    }
                    for site in sites
                ]
            case "polls":
                return [
                    [
                        site.asked["/status"],
                        site.longest_gap_s,
                        None if site.read_s is None else now_s - site.read_s,
                    ]
                    for site in sites
                ]
            case "asked":
                return [dict(site.asked) for site in sites]
            case "mark":
                for site in sites:
                    site.asked.clear()
                    site.longest_gap_s = 0.0
                return {"ok": True}
        raise ValueError(f"{question!r} is none of dump, polls, asked, mark")


async def serve(hosts: int, cpus: int, memory_mib: int, manner: Manner) -> None:
    """Listen, say where, and obey until standard input ends or a signal comes."""
    stop = stop_on_signals()
    sites = [Site(LightHost(cpus, memory_mib), manner) for _ in range(hosts)]
    for site in sites:
        await site.listen()
    calm_collector()
    print(json.dumps([f"http://127.0.0.1:{site.port}" for site in sites]), flush=True)
    obeying = asyncio.create_task(_obey(Control(sites)))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((obeying, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in (obeying, stopping):
        task.cancel()
    for site in sites:
        site.hang_up()


async def _obey(control: Control) -> None:
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or sys.stdin.isatty()):
        return  # a file, /dev/null for one, has nobody behind it
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    while line := await lines.readline():
        print(json.dumps(await control.obey(line)), flush=True)


def main(arguments: Sequence[str]) -> None:
    """Raises UsageError."""
    parser = Options(prog="python -m benchmarks.lightlocals", description=__doc__)
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--cpus", type=int, default=64, help="of each host")
    parser.add_argument("--memory", type=int, default=262_144, help="MiB of each host")
    parser.add_argument(
        "--latency", type=float, default=0.0, help="seconds before anything is done about a request"
    )
    parser.add_argument("--coded", action="store_true", help="refusals carry their code and status")
    parser.add_argument("--etag", action="store_true", help="/status has an ETag")
    options = parser.parse_args(arguments)
    if min(options.hosts, options.cpus, options.memory) < 1 or options.latency < 0:
        raise UsageError("hosts, CPUs and memory start at 1, latency at 0; give such numbers")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    manner = Manner(coded=options.coded, etag=options.etag, latency_s=options.latency)
    asyncio.run(serve(options.hosts, options.cpus, options.memory, manner))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
