"""What the SQLite store's tables are, the statements that change them, and what rows were.

``PRAGMA application_id`` tells our files from others', ``PRAGMA user_version`` counts the
migrations a file has been through.
"""

from __future__ import annotations

import sqlite3

from schedulerglobal.adapters.rows import (
    HOST_COLUMNS,
    PROMISE_COLUMNS,
    SHARE_COLUMNS,
    read_hosts,
    read_promises,
    read_shares,
)
from schedulerglobal.adapters.statements import Texts
from schedulerglobal.ports import Contents

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

TEXTS = Texts(
    # ids are never given, so that they tell the order of the first put
    put_promise=(
        f"INSERT INTO promises ({', '.join(PROMISE_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET name = excluded.name,"
        " host = excluded.host, status = excluded.status, attempt = excluded.attempt,"
        " settled = excluded.settled, reason = excluded.reason, changed_s = excluded.changed_s,"
        " spec = excluded.spec"
    ),
    forget_gone="DELETE FROM promises WHERE status = 'gone' AND changed_s < ?",
    put_host=(
        f"INSERT INTO hosts ({', '.join(HOST_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET url = excluded.url, labels = excluded.labels,"
        " wanted = excluded.wanted, fenced = excluded.fenced, added = excluded.added"
    ),
    drop_host="DELETE FROM hosts WHERE name = ?",
    rename_host=(
        "DELETE FROM hosts WHERE name = ?2 AND EXISTS (SELECT 1 FROM hosts WHERE name = ?1)",
        "UPDATE hosts SET name = ?2 WHERE name = ?1",
        "UPDATE promises SET host = ?2 WHERE host = ?1",
    ),
    drop_shares="DELETE FROM shares",
    put_share=f"INSERT INTO shares ({', '.join(SHARE_COLUMNS)}) VALUES (?, ?, ?, ?)",
)

_SHARES = "DELETE FROM shares"
_PUT_SHARE = f"INSERT INTO shares ({', '.join(SHARE_COLUMNS)}) VALUES (?, ?, ?, ?)"

_SHARES = f"SELECT {', '.join(SHARE_COLUMNS)} FROM shares ORDER BY id"
_HOSTS = f"SELECT {', '.join(HOST_COLUMNS)} FROM hosts ORDER BY id"
_PROMISES = f"SELECT {', '.join(PROMISE_COLUMNS)} FROM promises WHERE status <> 'gone' ORDER BY id"


def read_contents(connection: sqlite3.Connection, called: str) -> Contents:
    """Everything but what is gone; raises InputError for a row that makes no sense in the store
    *called* so."""
    return Contents(
        read_hosts(connection.execute(_HOSTS), called),
        read_promises(connection.execute(_PROMISES), called),
        read_shares(connection.execute(_SHARES), called),
    )
