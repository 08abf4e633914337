"""What went wrong with PostgreSQL, in one sentence that says how to mend it."""

from __future__ import annotations

import ssl

import asyncpg

from schedulercommon.errors import ConfigError, StoreUnavailable, VmStackError

AWAY: tuple[type[BaseException], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""What asyncpg raises when the database cannot do what it was asked."""
NONSENSE: tuple[type[BaseException], ...] = (
    asyncpg.ClientConfigurationError,
    ValueError,  # of a port that is no number, a name that is no host's …
)
"""What it raises for an address that is none."""

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
        (
            "is read-only ({}); name the primary server in SCG_STORE, not a replica, and let this"
            " user write: default_transaction_read_only = off"
        ),
    ),
    (asyncpg.DiskFullError, "is on a full disk ({}); make room there"),
    (
        asyncpg.TooManyConnectionsError,
        "has no connection left ({}); raise max_connections there",
    ),
    (asyncpg.CannotConnectNowError, "is starting or stopping ({}); try again in a moment"),
    (asyncpg.AdminShutdownError, "ended the connection ({}); it is tried again"),
    (asyncpg.PostgresConnectionError, "broke off the connection ({}); it is tried again"),
    (asyncpg.InterfaceError, "has a connection that broke ({}); it is tried again"),
    (TimeoutError, "does not answer; see to the server and the way to it"),
    (
        ssl.SSLCertVerificationError,
        (
            "has a certificate that is not to be trusted ({}); in SCG_STORE, name the server as its"
            " certificate does, and the file of who signed that: sslrootcert=FILE"
        ),
    ),
    (
        ssl.SSLError,
        "cannot be spoken to over TLS ({}); see to the files that SCG_STORE names, and to sslmode",
    ),
    (
        OSError,
        "cannot be reached ({}); start the server, or give its right address in SCG_STORE",
    ),
)


def refusal(called: str, problem: BaseException) -> StoreUnavailable:
    """Of a change, or a reading, that the store *called* so did not take."""
    return StoreUnavailable(_sentence(called, problem))


def opening_fault(called: str, problem: BaseException) -> VmStackError:
    """Of a store that cannot be opened."""
    if isinstance(problem, asyncpg.ClientConfigurationError) and "root certificate" in str(problem):
        return ConfigError(
            f"SCG_STORE: there is no certificate to tell the server {called} by; give the file of"
            " who signed its own: sslrootcert=FILE"
        )
    # what is wrong with a certificate is a ValueError, too
    if isinstance(problem, NONSENSE) and not isinstance(problem, OSError):
        # without the library's words, which may repeat the password
        return ConfigError(
            f"SCG_STORE: the address {called} makes no sense; write"
            " postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %XX for characters of the"
            " password that mean something there"
        )
    return refusal(called, problem)


def _sentence(called: str, problem: BaseException) -> str:
    for kind, text in _SENTENCES:
        if isinstance(problem, kind):
            return f"the store {called} " + text.format(_line(problem))
    return f"the store {called} failed ({_line(problem)}); see the server's log"


def _line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__
