"""Promises, hosts and shares as rows of a table, the same in every database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from schedulercommon.errors import InputError
from schedulercommon.levels import format_level, parse_level
from schedulercommon.specdocument import read_spec, spec_text
from schedulerglobal.core.arrivals import Shares
from schedulerglobal.core.health import Wanted
from schedulerglobal.core.promises import Promise, Status
from schedulerglobal.core.view import Shape
from schedulerglobal.ports import HostRecord

PROMISE_COLUMNS = (
    *("key", "name", "host", "status", "attempt"),
    *("settled", "reason", "changed_s", "spec"),
)
SHARE_COLUMNS = ("vcpus", "memory_mib", "level", "requests")
HOST_COLUMNS = ("name", "url", "labels", "wanted", "fenced", "added")

Row = tuple[Any, ...]
_NONSENSE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def promise_values(promise: Promise) -> Row:
    """*promise* as PROMISE_COLUMNS."""
    return (
        promise.key,
        promise.name,
        promise.host,
        promise.status.value,
        promise.attempt,
        promise.settled,
        _storable(promise.reason),
        promise.changed_s,
        spec_text(promise.spec),
    )


def host_values(host: HostRecord) -> Row:
    """*host* as HOST_COLUMNS."""
    labels = json.dumps(dict(host.labels))
    return (host.name, host.url, labels, host.wanted.value, host.fenced, host.added)


def read_promises(rows: Iterable[Sequence[Any]], called: str) -> tuple[Promise, ...]:
    """What *rows* of PROMISE_COLUMNS say; raises InputError for one that makes no sense in the
    store *called* so."""
    promises = []
    key = ""
    try:
        for key, _, host, status, attempt, settled, reason, changed_s, spec in rows:
            promises.append(
                Promise(
                    key=key,
                    spec=read_spec(json.loads(spec)),
                    host=host,
                    status=Status(status),
                    attempt=attempt,
                    settled=bool(settled),
                    reason=reason,
                    changed_s=changed_s,
                )
            )
    except _NONSENSE as problem:
        raise _damaged(called, f"promise {key!r}") from problem
    return tuple(promises)


def read_hosts(rows: Iterable[Sequence[Any]], called: str) -> tuple[HostRecord, ...]:
    """What *rows* of HOST_COLUMNS say; raises InputError likewise."""
    hosts = []
    name = ""
    try:
        for name, url, labels, wanted, fenced, added in rows:
            hosts.append(
                HostRecord(
                    name=name,
                    url=url,
                    labels=json.loads(labels),
                    wanted=Wanted(wanted),
                    fenced=bool(fenced),
                    added=bool(added),
                )
            )
    except _NONSENSE as problem:
        raise _damaged(called, f"host {name!r}") from problem
    return tuple(hosts)


def share_values(share: tuple[Shape, int]) -> Row:
    """*share* as SHARE_COLUMNS."""
    shape, count = share
    return (shape.vcpus, shape.memory_mib, format_level(shape.level), count)


def read_shares(rows: Iterable[Sequence[Any]], called: str) -> Shares:
    """What *rows* of SHARE_COLUMNS say; raises InputError likewise."""
    try:
        return tuple([_share(*row) for row in rows])
    except _NONSENSE as problem:
        raise _damaged(called, "share of requests") from problem


def _share(vcpus: int, memory_mib: int, level: str, count: int) -> tuple[Shape, int]:
    if min(vcpus, memory_mib, count) < 1:
        raise ValueError("it is not positive")
    return Shape(vcpus, memory_mib, parse_level(level)), count


def _damaged(called: str, where: str) -> InputError:
    return InputError(
        f"the store {called} is damaged: its {where} makes no sense; restore a copy of it, or move"
        " it away to begin anew"
    )


def _storable(text: str) -> str:
    """What a host said may hold half characters, which no file takes, and zeros, which not every
    database does."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
