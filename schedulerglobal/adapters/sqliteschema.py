"""What the SQLite store's tables are, how changes become statements, and rows what they were.

Texts of statements are constants, so that each is prepared once. ``PRAGMA application_id`` tells
our files from others', ``PRAGMA user_version`` counts the migrations a file has been through.
"""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from schedulercommon.errors import InputError
from schedulercommon.specdocument import read_spec, spec_text
from schedulerglobal.core.health import Wanted
from schedulerglobal.core.promises import Promise, Status
from schedulerglobal.ports import (
    Change,
    Contents,
    DropHost,
    ForgetGone,
    HostRecord,
    PutHost,
    PutPromise,
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
MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST,)
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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise InputError(
            f"the store {called} is damaged: its {where} makes no sense; restore a copy of the"
            " file, or move it away to begin anew"
        ) from problem
    return Contents(tuple(hosts), tuple(promises))


def _storable(text: str) -> str:
    """What a host said may hold half characters, which no file takes."""
    return text if text.isascii() else text.encode(errors="replace").decode()
