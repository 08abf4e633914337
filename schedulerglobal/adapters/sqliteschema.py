"""What the SQLite store's tables are, how changes become statements, and rows what they were.

Texts of statements are constants, so that each is prepared once. ``PRAGMA application_id`` tells
our files from others', ``PRAGMA user_version`` counts the migrations a file has been through.
"""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from schedulercommon.errors import InputError
from schedulercommon.levels import format_level, parse_level
from schedulercommon.specdocument import read_spec, spec_text
from schedulerglobal.core.health import Wanted
from schedulerglobal.core.promises import Promise, Status
from schedulerglobal.core.view import Shape
from schedulerglobal.ports import (
    Change,
    Contents,
    DropHost,
    ForgetGone,
    HostRecord,
    PutHost,
    PutPromise,
    PutShares,
    RenameHost,
)

APPLICATION_ID = int.from_bytes(b"VMSG", "big")

_FIRST = (
    """CREATE TABLE promises (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, host TEXT NOT NULL,
        status TEXT NOT NULL, attempt TEXT NOT NULL, settled INTEGER NOT NULL,
        reason TEXT NOT NULL, changed_s REAL NOT NULL, spec TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX names_taken ON promises (name) WHERE status <> 'gone'",
    "CREATE INDEX gone_since ON promises (changed_s) WHERE status = 'gone'",
    """CREATE TABLE hosts (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, url TEXT NOT NULL, labels TEXT NOT NULL,
        wanted TEXT NOT NULL, fenced INTEGER NOT NULL, added INTEGER NOT NULL)""",
)
_SECOND = (
    """CREATE TABLE shares (
        id INTEGER PRIMARY KEY, vcpus INTEGER NOT NULL, memory_mib INTEGER NOT NULL,
        level TEXT NOT NULL, requests INTEGER NOT NULL)""",
)
MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _SECOND)
"""The statements that lead from each version to the next; what is here once never changes."""

# ids are never given, so that they tell the order of the first put
_PUT_PROMISE = (
    "INSERT INTO promises (key, name, host, status, attempt, settled, reason, changed_s, spec)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET name = excluded.name,"
    " host = excluded.host, status = excluded.status, attempt = excluded.attempt,"
    " settled = excluded.settled, reason = excluded.reason, changed_s = excluded.changed_s,"
    " spec = excluded.spec"
)
_PUT_HOST = (
    "INSERT INTO hosts (name, url, labels, wanted, fenced, added) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET url = excluded.url, labels = excluded.labels,"
    " wanted = excluded.wanted, fenced = excluded.fenced, added = excluded.added"
)
_DROP_HOST = "DELETE FROM hosts WHERE name = ?"
_MAKE_WAY = "DELETE FROM hosts WHERE name = ?2 AND EXISTS (SELECT 1 FROM hosts WHERE name = ?1)"
_RENAME_HOST = "UPDATE hosts SET name = ?2 WHERE name = ?1"
_MOVE_PROMISES = "UPDATE promises SET host = ?2 WHERE host = ?1"
_FORGET_GONE = "DELETE FROM promises WHERE status = 'gone' AND changed_s < ?"

_DROP_SHARES = "DELETE FROM shares"
_PUT_SHARE = "INSERT INTO shares (vcpus, memory_mib, level, requests) VALUES (?, ?, ?, ?)"

_SHARES = "SELECT vcpus, memory_mib, level, requests FROM shares ORDER BY id"
_HOSTS = "SELECT name, url, labels, wanted, fenced, added FROM hosts ORDER BY id"
_PROMISES = (
    "SELECT key, host, status, attempt, settled, reason, changed_s, spec FROM promises"
    " WHERE status <> 'gone' ORDER BY id"
)


class Statement(NamedTuple):
    """One statement of a change."""

    text: str
    values: tuple[str | float, ...]
    name: str = ""
    """Of the VM it would give a promise to."""


def statements(change: Change) -> tuple[Statement, ...]:
    """What carries *change* out."""
    match change:
        case PutPromise(promise):
            spec = promise.spec
            values = (
                promise.key,
                spec.name,
                promise.host,
                promise.status.value,
                promise.attempt,
                promise.settled,
                _storable(promise.reason),
                promise.changed_s,
                spec_text(spec),
            )
            return (Statement(_PUT_PROMISE, values, spec.name),)
        case PutHost(host):
            labels = json.dumps(dict(host.labels))
            about = (host.name, host.url, labels, host.wanted.value, host.fenced, host.added)
            return (Statement(_PUT_HOST, about),)
        case DropHost(name):
            return (Statement(_DROP_HOST, (name,)),)
        case RenameHost(old, new):
            if old == new:
                return ()
            texts = (_MAKE_WAY, _RENAME_HOST, _MOVE_PROMISES)
            return tuple(Statement(text, (old, new)) for text in texts)
        case ForgetGone(before_s):
            return (Statement(_FORGET_GONE, (before_s,)),)
        case PutShares(shares):
            rows = [
                Statement(
                    _PUT_SHARE, (shape.vcpus, shape.memory_mib, format_level(shape.level), count)
                )
                for shape, count in shares
            ]
            return (Statement(_DROP_SHARES, ()), *rows)


def read_contents(connection: sqlite3.Connection, called: str) -> Contents:
    """Everything but what is gone; raises InputError for a row that makes no sense in the store
    *called* so."""
    where = ""
    try:
        hosts = []
        for name, url, labels, wanted, fenced, added in connection.execute(_HOSTS):
            where = f"host {name!r}"
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
        promises = []
        for key, host, status, attempt, settled, reason, changed_s, spec in connection.execute(
            _PROMISES
        ):
            where = f"promise {key!r}"
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
        shares = []
        for row in connection.execute(_SHARES):
            where = "share of requests"
            shares.append(_share(*row))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise InputError(
            f"the store {called} is damaged: its {where} makes no sense; restore a copy of the"
            " file, or move it away to begin anew"
        ) from problem
    return Contents(tuple(hosts), tuple(promises), tuple(shares))


def _share(vcpus: int, memory_mib: int, level: str, count: int) -> tuple[Shape, int]:
    """Raises ValueError or TypeError for what is no count of a shape."""
    if min(vcpus, memory_mib, count) < 1:
        raise ValueError("it is not positive")
    return Shape(vcpus, memory_mib, parse_level(level)), count


def _storable(text: str) -> str:
    """What a host said may hold half characters, which no file takes."""
    return text if text.isascii() else text.encode(errors="replace").decode()
