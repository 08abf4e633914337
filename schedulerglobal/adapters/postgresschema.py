"""What the PostgreSQL store's tables are, and the statements that read and write them.

Every row that changes gets the next number of one sequence, so that whoever follows the leader
asks for what is newer than what it has. Only the leader writes, through one connection, and a new
one begins after the last write of the old: so the numbers become visible in order.
"""

from __future__ import annotations

from schedulerglobal.adapters.rows import HOST_COLUMNS, PROMISE_COLUMNS, SHARE_COLUMNS
from schedulerglobal.adapters.statements import Texts

RESIGNED = "vmstack_resigned"
"""The channel on which a leader that gives up says so."""
MIGRATION_LOCK = int.from_bytes(b"VMSG", "big")

_FIRST = (
    "CREATE TABLE vmstack.cluster (id text NOT NULL, schema integer NOT NULL)",
    # hosts and shares are few, and followed as a whole
    "CREATE SEQUENCE vmstack.changes",
    """CREATE TABLE vmstack.promises (
        id bigint GENERATED ALWAYS AS IDENTITY, key text PRIMARY KEY, name text NOT NULL,
        host text NOT NULL, status text NOT NULL, attempt text NOT NULL, settled boolean NOT NULL,
        reason text NOT NULL, changed_s double precision NOT NULL, spec text NOT NULL,
        change bigint NOT NULL DEFAULT nextval('vmstack.changes'))""",
    "CREATE UNIQUE INDEX names_taken ON vmstack.promises (name) WHERE status <> 'gone'",
    "CREATE INDEX gone_since ON vmstack.promises (changed_s) WHERE status = 'gone'",
    "CREATE INDEX changed ON vmstack.promises (change)",
    "CREATE INDEX of_host ON vmstack.promises (host)",
    """CREATE TABLE vmstack.hosts (
        id bigint GENERATED ALWAYS AS IDENTITY, name text PRIMARY KEY, url text NOT NULL,
        labels text NOT NULL, wanted text NOT NULL, fenced boolean NOT NULL,
        added boolean NOT NULL)""",
    """CREATE TABLE vmstack.shares (
        id bigint GENERATED ALWAYS AS IDENTITY, vcpus bigint NOT NULL, memory_mib bigint NOT NULL,
        level text NOT NULL, requests bigint NOT NULL)""",
    """CREATE TABLE vmstack.lease (
        single boolean PRIMARY KEY DEFAULT true CHECK (single), holder text NOT NULL,
        url text NOT NULL, epoch bigint NOT NULL, until timestamptz NOT NULL,
        hosts_change bigint NOT NULL)""",
    "INSERT INTO vmstack.lease VALUES (true, '', '', 0, 'epoch', 0)",
)
MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST,)
"""The statements that lead from each version to the next; what is here once never changes."""

_promise_types = ("text",) * 5 + ("boolean", "text", "double precision", "text")
_updates = ", ".join(f"{name} = excluded.{name}" for name in PROMISE_COLUMNS if name != "key")
_columns = ", ".join(PROMISE_COLUMNS)
_arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(_promise_types, 3))

IN_OFFICE = "SELECT 1 FROM vmstack.lease WHERE epoch = $1 AND holder = $2 FOR KEY SHARE"
"""Whether we lead, which then does not end before this transaction does."""

PUT_PROMISES = f"""
WITH office AS MATERIALIZED ({IN_OFFICE}), put AS (
    INSERT INTO vmstack.promises ({_columns})
    SELECT {_columns} FROM unnest({_arrays}) AS new ({_columns}) WHERE EXISTS (SELECT FROM office)
    ON CONFLICT (key) DO UPDATE SET {_updates}, change = excluded.change
)
SELECT count(*) FROM office"""
"""Many promises, none of them twice, in one go; answers 0 if we do not lead."""

TEXTS = Texts(
    put_promise=(
        f"INSERT INTO vmstack.promises ({_columns}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        f" ON CONFLICT (key) DO UPDATE SET {_updates}, change = excluded.change"
    ),
    forget_gone="DELETE FROM vmstack.promises WHERE status = 'gone' AND changed_s < $1",
    put_host=(
        f"INSERT INTO vmstack.hosts ({', '.join(HOST_COLUMNS)}) VALUES ($1, $2, $3, $4, $5, $6)"
        " ON CONFLICT (name) DO UPDATE SET url = excluded.url, labels = excluded.labels,"
        " wanted = excluded.wanted, fenced = excluded.fenced, added = excluded.added"
    ),
    drop_host="DELETE FROM vmstack.hosts WHERE name = $1",
    rename_host=(
        (
            "DELETE FROM vmstack.hosts"
            " WHERE name = $2 AND EXISTS (SELECT FROM vmstack.hosts WHERE name = $1)"
        ),
        "UPDATE vmstack.hosts SET name = $2 WHERE name = $1",
        (
            "UPDATE vmstack.promises SET host = $2, change = nextval('vmstack.changes')"
            " WHERE host = $1"
        ),
    ),
    drop_shares="DELETE FROM vmstack.shares",
    put_share=f"INSERT INTO vmstack.shares ({', '.join(SHARE_COLUMNS)}) VALUES ($1, $2, $3, $4)",
    in_the_end=("UPDATE vmstack.lease SET hosts_change = nextval('vmstack.changes')",),
)

SHARES = f"SELECT {', '.join(SHARE_COLUMNS)} FROM vmstack.shares ORDER BY id"
HOSTS = f"SELECT {', '.join(HOST_COLUMNS)} FROM vmstack.hosts ORDER BY id"
PROMISES = f"SELECT {_columns} FROM vmstack.promises WHERE status <> 'gone' ORDER BY id"
PROMISES_SINCE = f"SELECT {_columns} FROM vmstack.promises WHERE change > $1 ORDER BY id"
LATEST = (
    "SELECT greatest((SELECT max(change) FROM vmstack.promises), hosts_change, 0), hosts_change"
    " FROM vmstack.lease"
)

LEASE = (
    "SELECT epoch, holder, url, extract(epoch FROM until - clock_timestamp())::float8"
    " FROM vmstack.lease"
)
LEASE_TO_CHANGE = f"{LEASE} FOR UPDATE"
"""Waits for the write under way, and keeps others off until the transaction ends."""
RENEW = (
    "UPDATE vmstack.lease SET until = clock_timestamp() + $3::float8 * interval '1 second',"
    " url = $4 WHERE epoch = $1 AND holder = $2 AND until > clock_timestamp()"
)
TAKE = (
    "UPDATE vmstack.lease SET holder = $1, url = $2,"
    " epoch = greatest(epoch + 1, extract(epoch FROM clock_timestamp())::bigint),"
    " until = clock_timestamp() + $3::float8 * interval '1 second' RETURNING epoch"
)
"""Epochs begin at the time in seconds, so that hosts which obeyed the leader of another database
obey that of one the cluster moved to."""
CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"
READ_ONLY = "SELECT current_setting('transaction_read_only')::bool"
NOT_OURS = """
SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class
WHERE relnamespace = 'vmstack'::regnamespace AND NOT CASE
    WHEN relkind = 'r' THEN
        has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT') AND
        has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE')
    ELSE relname <> 'changes' OR has_sequence_privilege(oid, 'USAGE') END"""
"""What this user may not write; NULL if there is nothing."""
CLUSTER = "SELECT schema, id FROM vmstack.cluster"
SET_CLUSTER = (
    "DELETE FROM vmstack.cluster",
    "INSERT INTO vmstack.cluster (id, schema) VALUES ($1, $2)",
)
RESIGN = (
    "UPDATE vmstack.lease SET until = clock_timestamp() - interval '1 microsecond'"
    " WHERE epoch = $1 AND holder = $2"
)
