"""Bringing a PostgreSQL database to this version, one global scheduler at a time."""

from __future__ import annotations

import asyncpg

from schedulercommon.errors import InputError
from schedulerglobal.adapters.postgresschema import (
    CLUSTER,
    MIGRATION_LOCK,
    MIGRATIONS,
    NOT_OURS,
    READ_ONLY,
    SET_CLUSTER,
)

LEAST_SERVER = 13
"""The oldest major version that is still cared for by its makers when this was written."""

_HAS_TABLES = "SELECT to_regclass('vmstack.cluster') IS NOT NULL"


async def prepare(
    connection: asyncpg.Connection[asyncpg.Record], called: str, cluster: str
) -> None:
    """Create or renew the tables in the database *called* so, which is of *cluster* from then on.

    Raises InputError for a server that is too old, a schema from a newer version, a database of
    another cluster, and one that this user cannot write.
    """
    version = connection.get_server_version()
    if version.major < LEAST_SERVER:
        raise InputError(
            f"the store {called} is PostgreSQL {version.major}; VMStack needs {LEAST_SERVER} or"
            " newer: renew the server, or name another in SCG_STORE"
        )
    if await connection.fetchval(READ_ONLY):
        raise asyncpg.ReadOnlySQLTransactionError("transaction_read_only is on")
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        there = await connection.fetchval(_HAS_TABLES)
        found, owner = 0, cluster
        if there:
            row = await connection.fetchrow(CLUSTER)
            if row is not None:
                found, owner = row
        if found > len(MIGRATIONS):
            raise InputError(
                f"the store {called} was written by a newer version (schema {found}, this one"
                f" knows {len(MIGRATIONS)}); run that version or name another database in SCG_STORE"
            )
        if owner != cluster:
            raise InputError(
                f"the store {called} belongs to cluster {owner!r}, and this one is called"
                f" {cluster!r}; name its own database in SCG_STORE, or mend SCG_CLUSTER"
            )
        if found == len(MIGRATIONS):
            if locked := await connection.fetchval(NOT_OURS):
                raise InputError(
                    f"the store {called} does not let this user write its tables ({locked}); name"
                    " the user that made them in SCG_STORE, or GRANT ALL on them to this one"
                )
            return
        if not there:
            await connection.execute("CREATE SCHEMA IF NOT EXISTS vmstack")
        for step in MIGRATIONS[found:]:
            for text in step:
                await connection.execute(text)
        forget, remember = SET_CLUSTER
        await connection.execute(forget)
        await connection.execute(remember, cluster, len(MIGRATIONS))
