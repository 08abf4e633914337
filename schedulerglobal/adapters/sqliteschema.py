"""What the SQLite store's tables are, how changes become statements, and rows what they were.

Texts of statements are constants, so that each is prepared once. ``PRAGMA application_id`` tells
our files from others', ``PRAGMA user_version`` counts the migrations a file has been through.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from schedulerglobal.adapters.rows import (
    HOST_COLUMNS,
    PROMISE_COLUMNS,
    SHARE_COLUMNS,
    host_values,
    promise_values,
    read_hosts,
    read_promises,
    read_shares,
    share_values,
)
from schedulerglobal.ports import (
    Change,
    Contents,
    DropHost,
    ForgetGone,
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
    f"INSERT INTO promises ({', '.join(PROMISE_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET name = excluded.name,"
    " host = excluded.host, status = excluded.status, attempt = excluded.attempt,"
    " settled = excluded.settled, reason = excluded.reason, changed_s = excluded.changed_s,"
    " spec = excluded.spec"
)
_PUT_HOST = (
    f"INSERT INTO hosts ({', '.join(HOST_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET url = excluded.url, labels = excluded.labels,"
    " wanted = excluded.wanted, fenced = excluded.fenced, added = excluded.added"
)
_DROP_HOST = "DELETE FROM hosts WHERE name = ?"
_MAKE_WAY = "DELETE FROM hosts WHERE name = ?2 AND EXISTS (SELECT 1 FROM hosts WHERE name = ?1)"
_RENAME_HOST = "UPDATE hosts SET name = ?2 WHERE name = ?1"
_MOVE_PROMISES = "UPDATE promises SET host = ?2 WHERE host = ?1"
_FORGET_GONE = "DELETE FROM promises WHERE status = 'gone' AND changed_s < ?"

_DROP_SHARES = "DELETE FROM shares"
_PUT_SHARE = f"INSERT INTO shares ({', '.join(SHARE_COLUMNS)}) VALUES (?, ?, ?, ?)"

_SHARES = f"SELECT {', '.join(SHARE_COLUMNS)} FROM shares ORDER BY id"
_HOSTS = f"SELECT {', '.join(HOST_COLUMNS)} FROM hosts ORDER BY id"
_PROMISES = f"SELECT {', '.join(PROMISE_COLUMNS)} FROM promises WHERE status <> 'gone' ORDER BY id"


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
            return (Statement(_PUT_PROMISE, promise_values(promise), promise.name),)
        case PutHost(host):
            return (Statement(_PUT_HOST, host_values(host)),)
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
            rows = [Statement(_PUT_SHARE, values) for values in map(share_values, shares)]
            return (Statement(_DROP_SHARES, ()), *rows)


def read_contents(connection: sqlite3.Connection, called: str) -> Contents:
    """Everything but what is gone; raises InputError for a row that makes no sense in the store
    *called* so."""
    return Contents(
        read_hosts(connection.execute(_HOSTS), called),
        read_promises(connection.execute(_PROMISES), called),
        read_shares(connection.execute(_SHARES), called),
    )
