"""The commands: each asks the scheduler what its arguments say and tells what came of it."""

from __future__ import annotations

import secrets
from argparse import Namespace
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from schedulerclient.answers import Host, Removal, Vm
from schedulerclient.client import Client, HostVerb, Power, Where
from schedulerclient.faults import Refused, Unreachable
from schedulerclient.leaders import leader_document, leader_parts, leading_one
from schedulerclient.outcomes import NO_CAPACITY, UNREACHABLE, UNSETTLED, refusal_code
from schedulerclient.tables import Part, screen_lines
from schedulerclient.troubles import few
from schedulerclient.views import (
    explanation_parts,
    host_parts,
    room_parts,
    status_parts,
    vm_in_full,
    vm_parts,
)
from schedulerclient.written import MOST_LISTED
from schedulercommon.errors import UsageError
from schedulercommon.model import VmSpec
from schedulerprocess.options import DONE, FAILED


@dataclass(frozen=True, slots=True)
class Shown:
    """What a command has to show for itself."""

    document: Any
    """For scripts: what the scheduler answered."""
    parts: tuple[Part, ...]
    """For people."""
    code: int = DONE
    complaints: tuple[str, ...] = ()


T = TypeVar("T")
Command = Callable[[Client, Namespace], Shown]


def _deploy(client: Client, asked: Namespace) -> Shown:
    deployment = client.deploy(_spec(asked, asked.name), _where(asked))
    vm = deployment.vm
    place = f" on {vm.host}" if vm.host else ""
    how = "is" if deployment.created else "is already"
    return Shown(vm.document, (f"{vm.name} {how}{place}",))


def _explain(client: Client, asked: Namespace) -> Shown:
    # a name nobody has, or the answer might be that it is taken
    name = asked.name or f"explain-{secrets.token_hex(8)}"
    explanation = client.explain(_spec(asked, name), _where(asked))
    code = DONE if explanation.host else NO_CAPACITY
    return Shown(explanation.document, explanation_parts(explanation), code)


def _remove(client: Client, asked: Namespace) -> Shown:
    """All of them, whatever becomes of each, for as long as the scheduler answers."""
    documents: dict[str, Any] = {}
    told: list[str] = []
    complaints: list[str] = []
    code = DONE
    names = list(dict.fromkeys(asked.names))
    for number, name in enumerate(names):
        try:
            removal = client.remove(name)
        except Refused as refusal:
            documents[name] = refusal.document
            complaints.append(str(refusal))
            code = max(code, refusal_code(refusal, "remove"))
        except Unreachable as problem:
            if not documents:
                raise
            left = ", ".join(names[number:])
            complaints.append(f"{problem}; not known to be removed: {left}")
            code = UNREACHABLE
            break
        else:
            documents[name] = dict(removal.document)
            told.append(_removed(name, removal))
            code = max(code, DONE if removal.done else UNSETTLED)
    return Shown(documents, tuple(told), code, tuple(complaints))


def _removed(name: str, removal: Removal) -> str:
    if removal.done:
        return f"{name} is removed"
    why = f": {removal.reason}" if removal.reason else ""
    return f"{name} will be removed, but is not yet{why}"


def _status(client: Client, asked: Namespace) -> Shown:
    hosts = client.hosts()
    return Shown(_documents(hosts), status_parts(hosts, _promised(client, asked)))


def _promised(client: Client, asked: Namespace) -> tuple[Vm, ...]:
    """The VMs, for people; scripts get what they asked for."""
    return () if asked.json else client.vms()


def _vms(client: Client, asked: Namespace) -> Shown:
    vms = [vm for vm in client.vms() if asked.host in (None, vm.host)]
    if asked.host is not None and not vms:
        _check_known(asked.host, [host.name for host in client.hosts()])
    return Shown(_documents(vms), vm_parts(vms, asked.host))


def _check_known(name: str, hosts: list[str]) -> None:
    """Raises Refused, as the scheduler would, unless *name* is among *hosts*."""
    if name not in hosts:
        there = f"known are {few(hosts)}" if hosts else "there are no hosts yet"
        raise Refused("unknown-host", f"there is no host named {name[:80]!r}; {there}")


def _vm(client: Client, asked: Namespace) -> Shown:
    vm = client.vm(asked.name)
    return Shown(vm.document, (vm_in_full(vm),))


def _console(client: Client, asked: Namespace) -> Shown:
    text = client.console(asked.name, lines=asked.lines, most_bytes=asked.bytes)
    document = {"name": asked.name, "console": text}
    return Shown(document, screen_lines(text) or (f"{asked.name} has said nothing yet",))


def _hosts(client: Client, asked: Namespace) -> Shown:
    hosts = client.hosts()
    return Shown(_documents(hosts), host_parts(hosts, _promised(client, asked)))


def _capacity(client: Client, asked: Namespace) -> Shown:
    room = client.room(vcpus=asked.cpu, memory_mib=asked.mem, level=asked.oc)
    return Shown(room.document, room_parts(room))


def _power(verb: Power, client: Client, asked: Namespace) -> Shown:
    vm = client.power(asked.name, verb, force=getattr(asked, "force", False))
    state = f" is {vm.state}" if vm.state else f" was told to {verb}"
    return Shown(vm.document, (f"{vm.name}{state}",))


def _resize(client: Client, asked: Namespace) -> Shown:
    if asked.cpu is None and asked.mem is None:
        raise UsageError("nothing to resize; give --cpu, --mem or both")
    resized = client.resize(asked.name, vcpus=asked.cpu, memory_mib=asked.mem)
    vm = resized.vm
    # nothing is live in a VM that is down
    live = "at once" if vm.state == "down" else "live"
    words = {"live": live, "next-boot": "at its next boot"}
    vcpus, memory = (words.get(each, each) for each in (resized.vcpus, resized.memory_mib))
    return Shown(vm.document, (f"{vm.name}: vCPUs {vcpus}, memory {memory}",))


def _tell_host(verb: HostVerb, client: Client, asked: Namespace) -> Shown:
    if verb is HostVerb.FENCE and not asked.yes:
        raise UsageError(
            f"fencing {asked.host} asserts that nothing runs there any more, and its VMs count as"
            " lost; make sure it is switched off, then add --yes"
        )
    return _host(client.tell_host(asked.host, verb))


def _add_host(client: Client, asked: Namespace) -> Shown:
    return _host(client.add_host(asked.host_url, _each_once(asked.label)))


def _remove_host(client: Client, asked: Namespace) -> Shown:
    removal = client.remove_host(asked.host)
    return Shown(dict(removal.document), (_removed(asked.host, removal),))


def _label(client: Client, asked: Namespace) -> Shown:
    changes = _each_once(asked.labels)
    labels = {**client.host(asked.host, fresh=True).labels, **changes}
    kept = {name: text for name, text in labels.items() if text is not None}
    return _host(client.label_host(asked.host, kept))


def _leader(client: Client, _: Namespace) -> Shown:
    """A failure where nobody leads, so that a script can wait for it."""
    standings = client.standings()
    code = DONE if leading_one(standings) else FAILED
    if all(isinstance(told, Unreachable) for told in standings.values()):
        code = UNREACHABLE
    return Shown(leader_document(standings), leader_parts(standings), code)


def _host(host: Host) -> Shown:
    return Shown(host.document, host_parts([host]))


def _spec(asked: Namespace, name: str) -> VmSpec:
    try:
        return VmSpec(
            name=name,
            vcpus=asked.cpu,
            memory_mib=asked.mem,
            level=asked.oc,
            image=asked.image or "",
            disk=asked.disk,
            max_vcpus=asked.max_cpu,
            max_memory_mib=asked.max_mem,
            labels=tuple(sorted(_each_once(asked.label).items())),
            request_id=asked.request_id or "",
            start=not asked.no_start,
        )
    except ValueError as problem:
        raise UsageError(f"{problem}; ask for a size that can be") from problem


def _where(asked: Namespace) -> Where:
    for option in ("avoid", "affinity", "anti_affinity"):
        _check_count(f"--{option.replace('_', '-')}", getattr(asked, option))
    return Where(
        host=asked.host or "",
        avoid=tuple(asked.avoid),
        affinity=tuple(asked.affinity),
        anti_affinity=tuple(asked.anti_affinity),
        spread=asked.spread or "",
        policy=asked.policy or "",
    )


def _check_count(option: str, listed: Sized) -> None:
    if len(listed) > MOST_LISTED:
        raise UsageError(f"{option} names {len(listed)}; it may name {MOST_LISTED}")


def _each_once(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    labels: dict[str, T] = {}
    for name, text in pairs:
        if name in labels:
            raise UsageError(f"label {name!r} is given twice; give it once")
        labels[name] = text
    _check_count("--label", labels)
    return labels


def _documents(answers: Iterable[Vm | Host]) -> list[Any]:
    return [answer.document for answer in answers]


COMMANDS: dict[str, Command] = {
    "deploy": _deploy,
    "explain": _explain,
    "remove": _remove,
    "status": _status,
    "vms": _vms,
    "vm": _vm,
    "console": _console,
    "hosts": _hosts,
    "capacity": _capacity,
    "vm-resize": _resize,
    "add-host": _add_host,
    "remove-host": _remove_host,
    "label": _label,
    "leader": _leader,
    **{f"vm-{verb}": partial(_power, verb) for verb in Power},
    **{str(verb): partial(_tell_host, verb) for verb in HostVerb},
}
"""All but ``events``, which never ends by itself."""
