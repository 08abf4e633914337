"""``make demo`` and ``make up``: a cluster on this machine, three hosts and a global scheduler.

The hosts are the shipped topologies and their hypervisors are simulated; all else is real. The
demo plays a few minutes of an operator's life and ends by itself; ``up`` keeps the cluster there
until Ctrl-C. Nothing is left behind by either: files are in a temporary folder, and every process
begun here is ended here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from schedulerclient.client import Client  # noqa: E402
from schedulercommon.errors import OutputError, UsageError, VmStackError  # noqa: E402
from schedulercommon.levels import parse_level  # noqa: E402
from schedulercommon.model import VmSpec  # noqa: E402
from schedulerprocess.options import Options, exit_code  # noqa: E402

IMAGE = "/var/lib/libvirt/images/hello.qcow2"
HOSTS = {
    "epyc-1": "topology_EPYC-7662.json",
    "epyc-2": "topology_EPYC-7662-exp.json",
    "laptop": "topology_i7-1185G7.json",
}
UP_PORTS = {"epyc-1": 8101, "epyc-2": 8102, "laptop": 8103}
GLOBAL_PORT = 8100
START_S = 60.0
SIZES = ((1, 1, "1"), (2, 2, "2"), (2, 4, "3"), (4, 8, "1"), (4, 8, "2"), (8, 12, "3"))
VMS = 36
OURS = ("SCL_", "SCG_", "TOPO_", "OVSB_", "QEMU_", "VMSTACK_")


@dataclass(frozen=True, slots=True)
class Service:
    """A scheduler begun here."""

    name: str
    process: subprocess.Popen[str]
    url: str
    log: Path

    def last_words(self) -> str:
        """The end of what it said."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return " / ".join(lines[-3:])


def main(arguments: Sequence[str]) -> None:
    options = Options(prog="scripts/cluster.py", description="A cluster on this machine.")
    options.add_argument("what", choices=("demo", "up"))
    chosen = options.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # ignored for what a script starts beside itself
    with tempfile.TemporaryDirectory(prefix="vmstack-") as folder:
        if chosen.what == "demo":
            _demo(Path(folder))
        else:
            _up(Path(folder))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _demo(folder: Path) -> None:
    with _cluster(folder, dict.fromkeys(HOSTS, 0), 0, delay_s=0.5) as services:
        scheduler = services[-1]
        client = Client(scheduler.url)
        _tell(f"{len(HOSTS)} hosts and a global scheduler run: {scheduler.url}")
        _shell(scheduler, "hosts")
        _tell("one VM by the command line, and what every host was found to be for it")
        first = ("--cpu=2", "--mem=4", "--oc=1.5", f"--image={IMAGE}")
        _shell(scheduler, "explain", *first)
        _shell(scheduler, "deploy", "web-0", *first)
        _tell(f"{VMS} more, at three levels")
        _deploy_many(client)
        _shell(scheduler, "status")
        _shell(scheduler, "capacity", "--cpu=4", "--mem=8", "--oc=2")
        hosts_of_vms = [vm.host for vm in client.vms()]
        victim = max(services[:-1], key=lambda service: hosts_of_vms.count(service.name))
        held = hosts_of_vms.count(victim.name)
        _tell(f"{victim.name}, which has {held} VMs, is killed now")
        victim.process.kill()
        victim.process.wait()
        for state in ("suspect", "down"):
            began_s = time.monotonic()
            _wait_for_state(client, victim, state)
            print(f"  noticed: {victim.name} is {state} (after {time.monotonic() - began_s:.1f} s)")
        _tell("the others go on, and a VM of the dead host is removed when it returns")
        _shell(scheduler, "deploy", "after", "--cpu=2", "--mem=2", "--oc=2", f"--image={IMAGE}")
        gone = next(vm.name for vm in client.vms() if vm.host == victim.name)
        _shell(scheduler, "remove", gone, expected=(5,))
        _shell(scheduler, "hosts")
        after = client.vm("after")
        if after.host == victim.name or after.state != "running":
            raise DemoFailed(f"VM 'after' is {after.state} on {after.host}; look at the log above")
    _tell("all of it has ended again. To go on by yourself:")
    print(
        "  make up              the same cluster, until Ctrl-C, with curl lines to try\n"
        "  make demo-replay     replay a recorded day of one host, and draw it\n"
        "  README.md            the rest"
    )


class DemoFailed(VmStackError):
    """The cluster did not do what it should."""


def _up(folder: Path) -> None:
    port = os.environ.get("SCG_PORT", str(GLOBAL_PORT))
    if not port.isdigit():
        raise UsageError(f"SCG_PORT is {port!r}, which is no port; set it to a number or drop it")
    with _cluster(folder, UP_PORTS, int(port), delay_s=2) as services:
        url = services[-1].url
        hosts = "  ".join(f"{service.name} {service.url}" for service in services[:-1])
        print(
            f"\nThe cluster is up, its hosts simulated: {hosts}\n\nTry, in another terminal:\n\n"
            f"  curl '{url}/deploy?name=example&cpu=2&mem=2&oc=2&qcow2={IMAGE}'\n"
            f"  curl '{url}/status'\n"
            f"  curl '{url}/listvm'\n"
            f"  curl '{url}/v1/capacity?cpu=2&mem=4&oc=1.5'\n"
            f"  curl '{url}/v1/hosts'\n"
            f"  curl -N -H 'Last-Event-ID: 0' '{url}/v1/events'\n"
            f"  curl '{url}/remove?name=example'\n\n"
            f"  . .venv/bin/activate && python -m schedulerclient --url={url} status\n\n"
            f"The API to read and try: {url}/docs      Ctrl-C ends all of it.",
            flush=True,
        )
        _watch(services)
    print("\nall of it has ended")


def _watch(services: Sequence[Service]) -> None:
    """Until Ctrl-C, or the end of the global scheduler; a host may end before, as hosts do."""
    *hosts, scheduler = services
    with suppress(KeyboardInterrupt):
        while scheduler.process.poll() is None:
            for host in [host for host in hosts if host.process.poll() is not None]:
                hosts.remove(host)
                print(f"\n{host.name} has ended; the others go on without it", flush=True)
            time.sleep(0.5)
        raise DemoFailed(f"the global scheduler ended: {scheduler.last_words()}")


@contextmanager
def _cluster(
    folder: Path, ports: dict[str, int], port: int, delay_s: float
) -> Iterator[list[Service]]:
    """The hosts, and last the global scheduler; all ended at the end."""
    with ExitStack() as stack:
        services = [
            stack.enter_context(
                _service(
                    folder,
                    name,
                    ("schedulerlocal", f"--topology={ROOT / 'debug' / HOSTS[name]}"),
                    {
                        "SCL_NAME": name,
                        "SCL_PORT": str(wanted),
                        "SCL_STATE_DIR": str(folder / f"{name}.journal"),
                        "SCL_DELAY": "5",
                    },
                )
            )
            for name, wanted in ports.items()
        ]
        hosts = ",".join(service.url for service in services)
        scheduler = _service(
            folder,
            "global",
            ("schedulerglobal", f"--list={hosts}"),
            {
                "SCG_PORT": str(port),
                "SCG_STORE": f"sqlite:///{folder}/cluster.db",
                "SCG_DELAY": str(delay_s),
            },
        )
        yield [*services, stack.enter_context(scheduler)]


@contextmanager
def _service(
    folder: Path, name: str, command: Sequence[str], settings: dict[str, str]
) -> Iterator[Service]:
    """A scheduler that is ready; what it says goes into NAME.log in *folder*."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,  # no .env there
        env={**inherited, "PYTHONPATH": str(ROOT), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is for us, who end it in order
    )
    lines: Queue[str] = Queue()
    reading = threading.Thread(
        target=_record, args=(process, folder / f"{name}.log", lines), daemon=True
    )
    reading.start()
    try:
        url = _told(name, lines, r"listening on (\S+)")[1]
        _told(name, lines, "is ready")
        yield Service(name, process, url, folder / f"{name}.log")
    finally:
        process.terminate()
        try:
            process.wait(timeout=START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reading.join()


def _record(process: subprocess.Popen[str], log: Path, lines: Queue[str]) -> None:
    assert process.stdout is not None
    with process.stdout, log.open("w", encoding="utf-8") as written:
        for line in process.stdout:
            written.write(line)
            written.flush()
            lines.put(line)
    lines.put("")


def _told(name: str, lines: Queue[str], pattern: str) -> re.Match[str]:
    """The first line from now on that matches."""
    told = []
    while True:
        try:
            line = lines.get(timeout=START_S)
        except Empty:
            line = ""
        if found := re.search(pattern, line):
            return found
        told.append(line)
        if not line:
            last = next(
                (each.strip() for each in reversed(told) if each.strip()), "it says nothing"
            )
            hint = "; is another `make up` running?" if "is taken" in last else ""
            raise OutputError(f"{name} did not start: {last}{hint}")


def _deploy_many(client: Client) -> None:
    for number in range(VMS):
        vcpus, gigabytes, level = SIZES[number % len(SIZES)]
        vm = client.deploy(
            VmSpec(
                name=f"vm-{number}",
                vcpus=vcpus,
                memory_mib=gigabytes * 1024,
                level=parse_level(level),
                image=IMAGE,
            )
        ).vm
        end = "\n" if number % 4 == 3 else ""
        print(f"  {vm.name:>5} → {vm.host:<8}", end=end, flush=True)


def _wait_for_state(client: Client, service: Service, state: str) -> None:
    deadline_s = time.monotonic() + START_S
    while state not in [host.state for host in client.hosts() if host.name == service.name]:
        if time.monotonic() > deadline_s:
            raise DemoFailed(f"{service.name} was not {state} within {START_S:g} s")
        time.sleep(0.05)


def _shell(scheduler: Service, *command: str, expected: tuple[int, ...] = (0,)) -> None:
    """Run the command line client and show it."""
    print(f"\n$ python -m schedulerclient {' '.join(command)}", flush=True)
    ended = subprocess.run(
        [sys.executable, "-m", "schedulerclient", f"--url={scheduler.url}", *command],
        cwd=ROOT,
        check=False,
    )
    if ended.returncode not in expected:
        raise DemoFailed(f"schedulerclient {command[0]} ended with {ended.returncode}")


def _tell(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
