"""What went wrong with PostgreSQL, in one sentence that says how to mend it."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg

from schedulercommon.errors import InputError, StoreUnavailable, VmStackError

AWAY: tuple[type[BaseException], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)
"""What asyncpg raises when the database cannot do what it was asked."""

# The first that fits; most are subclasses of what comes later.
_SENTENCES: tuple[tuple[type[BaseException], str], ...] = (
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        (
            "does not let this user in ({}); give the right user and password in SCG_STORE, and see"
            " to pg_hba.conf"
        ),
    ),
    (
        asyncpg.InvalidCatalogNameError,
        "has no such database ({}); create it with createdb, or name another in SCG_STORE",
    ),
    (
        asyncpg.InsufficientPrivilegeError,
        (
            "does not let this user do what is needed ({}); let it own the database:"
            " ALTER DATABASE … OWNER TO …"
        ),
    ),
    (
        asyncpg.ReadOnlySQLTransactionError,
        "is read-only ({}); name the primary server in SCG_STORE, not a replica",
    ),
    (asyncpg.DiskFullError, "is on a full disk ({}); make room there"),
    (
        asyncpg.TooManyConnectionsError,
        "has no connection left ({}); raise max_connections there",
    ),
    (asyncpg.CannotConnectNowError, "is starting or stopping ({}); try again in a moment"),
    (TimeoutError, "does not answer; see to the server and the way to it"),
    (
        OSError,
        "cannot be reached ({}); start the server, or give its right address in SCG_STORE",
    ),
)


def shown_address(url: str) -> str:
    """*url* as logs and answers may show it: no user, no password."""
    parts = urlsplit(url)
    where = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{where}{parts.path}"


def refusal(called: str, problem: BaseException) -> StoreUnavailable:
    """Of a change, or a reading, that the store *called* so did not take."""
    return StoreUnavailable(_sentence(called, problem))


def opening_fault(called: str, problem: BaseException) -> VmStackError:
    """Of a store that cannot be opened."""
    if isinstance(problem, ValueError | asyncpg.ClientConfigurationError):
        return InputError(f"SCG_STORE: {called} makes no sense ({_line(problem)})")
    return refusal(called, problem)


def _sentence(called: str, problem: BaseException) -> str:
    for kind, text in _SENTENCES:
        if isinstance(problem, kind):
            return f"the store {called} " + text.format(_line(problem))
    return f"the store {called} failed ({_line(problem)}); see the server's log"


def _line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:300] or type(problem).__name__
