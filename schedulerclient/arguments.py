"""The command line's grammar: commands, their options, and the older spellings.

Nothing here reaches for the network or a setting, so that ``--help`` and wrong usage answer at
once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

from schedulerclient import written
from schedulerclient.words import CommandOptions, check_words
from schedulercommon.errors import UsageError

PROGRAM = "python -m schedulerclient"

_EPILOG = r"""
older spellings, the same: --deploy=NAME,CPU,GB,LEVEL,IMAGE --remove=NAME --status
settings: VMSTACK_URL, VMSTACK_TOKEN_FILE, from the environment and .env; see the template dotenv.

exit codes:
  0  done                                    3  no scheduler there, or no usable answer
  1  refused or failed                       4  no host has room
  2  wrong usage                             5  accepted or begun, but not known to be done
  130  interrupted

examples:
  python -m schedulerclient deploy web1 --cpu=2 --mem=4 --oc=1.5 --image=/var/lib/libvirt/images/hello.qcow2
  python -m schedulerclient explain --cpu=2 --mem=4 --oc=1.5
  python -m schedulerclient status
  python -m schedulerclient --json vms --host=epyc-1
  python -m schedulerclient COMMAND --help
"""  # noqa: E501  # a line to copy

POWER = {
    "vm-start": "start a VM that is down",
    "vm-shutdown": "shut a VM down; it keeps its place",
    "vm-reboot": "reboot a VM",
    "vm-suspend": "suspend a VM",
    "vm-resume": "resume a suspended VM",
}
HOST_VERBS = {
    "drain": "place nothing new on a host",
    "resume": "place VMs on a host again (a VM is resumed with vm-resume)",
    "maintenance": "place nothing new on a host, and expect it to be away",
    "fence": "assert that nothing runs on a host: its VMs count as lost",
}
COMMON = {"url": None, "token_file": None, "timeout": None, "json": False}
"""What may stand before the command or after it, and what it is if it does neither."""


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """What is asked, an older spelling in the newer one. Raises UsageError."""
    options, commands = _options()
    check_words(options, commands, arguments)
    chosen = options.parse_args(arguments)
    older = {name: getattr(chosen, f"older_{name}") for name in ("deploy", "remove", "status")}
    given = [name for name, value in older.items() if value not in (None, False)]
    asked = [*(f"--{name}" for name in given), *filter(None, (chosen.command,))]
    if len(asked) > 1:
        raise UsageError(f"{asked[0]} and {asked[1]} are two things to do; ask for one at a time")
    if not asked:
        raise UsageError(f"say what to do: deploy, status, vms …; see {PROGRAM} --help")
    if given:
        newer = options.parse_args(_newer(given[0], older[given[0]]))
        for name in COMMON:
            setattr(newer, name, getattr(chosen, name))
        chosen = newer
    for name in COMMON:
        _settle(chosen, name)
    return chosen


def _newer(name: str, value: str) -> list[str]:
    if name == "status":
        return ["status"]
    if name == "remove":
        return ["remove", "--", value]
    # commas after the fourth belong to the path
    parts = value.split(",", 4)
    if len(parts) < 5:
        raise UsageError(
            f"--deploy={value} has {len(parts)} parts; write --deploy=NAME,CPU,GB,LEVEL,IMAGE"
        )
    vm, *sizes = parts
    named = zip(("--cpu", "--mem", "--oc", "--image"), sizes, strict=True)
    return ["deploy", *(f"{option}={size}" for option, size in named), "--", vm]


def _settle(chosen: argparse.Namespace, name: str) -> None:
    """Make one of an option before the command and the same one after it."""
    before = getattr(chosen, name)
    after = getattr(chosen, f"late_{name}", COMMON[name])
    if before is not COMMON[name] and after is not COMMON[name] and name != "json":
        option = "--" + name.replace("_", "-")
        raise UsageError(f"{option} is given twice; give it once; see {PROGRAM} --help")
    setattr(chosen, name, before if after is COMMON[name] else after)


def _options() -> tuple[CommandOptions, dict[str, CommandOptions]]:
    options = CommandOptions(
        prog=PROGRAM,
        description="Drives a cluster: talks to its global scheduler.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_common(options)
    for name, metavar in (("deploy", "NAME,CPU,GB,LEVEL,IMAGE"), ("remove", "NAME")):
        options.add_argument(
            f"--{name}", dest=f"older_{name}", metavar=metavar, help=argparse.SUPPRESS
        )
    options.add_argument(
        "--status", dest="older_status", action="store_true", help=argparse.SUPPRESS
    )
    return options, _add_commands(options)


def _add_common(options: CommandOptions, prefix: str = "") -> None:
    def add(name: str, metavar: str, text: str, kind: Callable[[str], object] = str) -> None:
        dest = prefix + name.strip("-").replace("-", "_")
        options.add_argument(
            name, dest=dest, metavar=metavar, type=kind, help=argparse.SUPPRESS if prefix else text
        )

    add(
        "--url",
        "URL,…",
        "where the scheduler listens; several of one cluster with commas between (VMSTACK_URL, else"
        " http://127.0.0.1:8100)",
    )
    add("--token-file", "FILE", "file with the token to send (VMSTACK_TOKEN_FILE, else none)")
    add("--timeout", "S", "how long an answer may take; s (120)", written.seconds)
    options.add_argument(
        "--json",
        dest=f"{prefix}json",
        action="store_true",
        help=argparse.SUPPRESS if prefix else "print the scheduler's JSON, for scripts",
    )


def _add_commands(options: CommandOptions) -> dict[str, CommandOptions]:
    commands = options.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    added: dict[str, CommandOptions] = {}

    def add(name: str, text: str) -> CommandOptions:
        command: CommandOptions = commands.add_parser(
            name, help=text, description=f"{text[:1].upper()}{text[1:]}.", allow_abbrev=False
        )
        _add_common(command, "late_")
        added[name] = command
        return command

    deploy = add("deploy", "have a VM; asking for the same again is safe")
    deploy.add_argument("name", metavar="NAME", type=written.name)
    _add_request(deploy, image_needed=True)
    explain = add("explain", "tell where a VM would go and why; nothing is done")
    explain.add_argument("name", metavar="NAME", type=written.name, nargs="?")
    _add_request(explain, image_needed=False)
    remove = add("remove", "stop VMs at once and forget them")
    remove.add_argument("names", metavar="NAME", nargs="+", type=written.given)
    add("status", "show the whole cluster at a glance")
    vms = add("vms", "list the VMs")
    vms.add_argument("--host", metavar="HOST", type=written.given, help="those of this host only")
    add("vm", "show a VM").add_argument("name", metavar="NAME", type=written.given)
    console = add("console", "show the end of what a VM's guest wrote to its console")
    console.add_argument("name", metavar="NAME", type=written.given)
    for option, most in (("--lines", 10_000), ("--bytes", 1 << 19)):
        kind = partial(written.count, most=most)
        console.add_argument(option, metavar="N", type=kind, help=f"the last N, up to {most}")
    add("hosts", "list the hosts")
    _add_size(add("capacity", "tell how many more such VMs fit"))
    _add_host_commands(add)
    add("leader", "tell which of several global schedulers leads")
    events = add("events", "tell what happens, as it happens, until Ctrl-C")
    events.add_argument(
        "--after", metavar="ID", type=written.sequence, help="go on after this event"
    )
    events.add_argument("--ids", action="store_true", help="show the ids of events and requests")
    for name, text in POWER.items():
        power = add(name, text)
        power.add_argument("name", metavar="NAME", type=written.given)
        if name == "vm-shutdown":
            power.add_argument("--force", action="store_true", help="without asking its guest")
    resize = add("vm-resize", "give a VM another size")
    resize.add_argument("name", metavar="NAME", type=written.given)
    _add_size(resize, needed=False)
    return added


def _add_host_commands(add: Callable[[str, str], CommandOptions]) -> None:
    for name, text in HOST_VERBS.items():
        verb = add(name, text)
        verb.add_argument("host", metavar="HOST", type=written.given)
        if name == "fence":
            verb.add_argument("--yes", action="store_true", help="nothing runs there, for sure")
    host = add("add-host", "schedule on one more host")
    host.add_argument(
        "host_url", metavar="URL", type=written.host_url, help="where its local scheduler listens"
    )
    host.add_argument("--label", metavar="K=V", action="append", default=[], type=written.label)
    remove = add("remove-host", "forget a host that is away, or empty and in maintenance")
    remove.add_argument("host", metavar="HOST", type=written.given)
    label = add("label", "set labels of a host, or drop them, the others staying")
    label.add_argument("host", metavar="HOST", type=written.given)
    label.add_argument(
        "labels", metavar="K=V", nargs="+", type=written.label_or_drop, help="K- drops the label K"
    )


def _add_size(options: CommandOptions, *, needed: bool = True) -> None:
    options.add_argument("--cpu", metavar="N", type=written.vcpus, required=needed, help="vCPUs")
    options.add_argument(
        "--mem",
        metavar="GB",
        type=written.memory_mib,
        required=needed,
        help="memory, GB of 1024 MiB",
    )
    if needed:
        options.add_argument(
            "--oc",
            metavar="LEVEL",
            type=written.level,
            required=True,
            help="vCPUs per CPU: 2, 1.5, 4/3",
        )


def _add_request(options: CommandOptions, *, image_needed: bool) -> None:
    _add_size(options)
    add = options.add_argument
    add(
        "--image", metavar="PATH", type=written.image, required=image_needed,
        help="its disk's image, where its host has it",
    )  # fmt: skip
    add(
        "--disk", choices=("overlay", "in-place"), default="overlay",
        help="overlay: a disk of its own on the image; in-place: the image itself (overlay)",
    )  # fmt: skip
    add(
        "--max-cpu", metavar="N", type=written.vcpus, default=0,
        help="vCPUs it can be given without a reboot; more takes a reboot (as many as --cpu)",
    )  # fmt: skip
    add(
        "--max-mem", metavar="GB", type=written.memory_mib, default=0,
        help="memory it can be given without a reboot, GB; more takes a reboot (as much as --mem)",
    )  # fmt: skip
    add("--host", metavar="HOST", type=written.host, help="this host and no other")
    add(
        "--policy", metavar="POLICY", type=written.policy,
        help="how hosts are ranked (the scheduler's own)",
    )  # fmt: skip
    for name, metavar, read, text in (
        ("--avoid", "HOST,…", written.hosts, "not these hosts"),
        ("--affinity", "VM|K=V,…", written.selectors, "next to these VMs"),
        ("--anti-affinity", "VM|K=V,…", written.selectors, "away from these VMs"),
    ):
        add(name, metavar=metavar, action="extend", default=[], type=read, help=text)
    add(
        "--spread", metavar="K", type=written.label_name,
        help="even out over this label of hosts, like rack",
    )  # fmt: skip
    add("--label", metavar="K=V", action="append", default=[], type=written.label,
        help="repeatable")  # fmt: skip
    add("--no-start", action="store_true", help="keep its place, but leave it down")
    add(
        "--request-id", metavar="ID", type=written.request_id,
        help="an id of yours for this request",
    )  # fmt: skip
