"""Which store SCG_STORE names."""

from __future__ import annotations

from pathlib import Path

from schedulercommon.errors import ConfigError, InputError
from schedulerglobal.adapters.addresses import is_database, shown_address, unreadable_file
from schedulerglobal.adapters.sqlitestore import SqliteStore
from schedulerglobal.config import is_shared
from schedulerglobal.ports import SharedStore, Store

_FORMS = (
    "write sqlite:///./FILE, sqlite:////FOLDER/FILE with the whole path, or"
    " postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
)


def store_for(url: str, setting: str = "SCG_STORE") -> Store:
    """The store at *url*, not yet opened, of a kind that one global scheduler has open at a time.

    Raises ConfigError, naming *setting*, unless it names one.
    """
    scheme, _, rest = url.partition("://")
    if scheme != "sqlite":
        # whatever it was meant to be, there may be a password in it
        shown = shown_address(url) if "://" in url else repr(url[:100])
        raise ConfigError(f"{setting}: {shown} names no kind of store known here; {_FORMS}")
    # what is left of the path's slash would be a host
    if not rest.startswith("/") or "?" in rest or "#" in rest or "\0" in rest:
        raise ConfigError(f"{setting}: {url[:100]!r} is not the address of a file; {_FORMS}")
    path = rest.removeprefix("/")
    if not path or path.startswith(":") or path.rpartition("/")[2] in ("", ".", ".."):
        raise ConfigError(f"{setting}: {url[:100]!r} names no file; {_FORMS}")
    return SqliteStore(Path(path))


def shared_store_for(url: str, cluster: str, setting: str = "SCG_STORE") -> SharedStore | None:
    """The store at *url*, not yet opened, if it is of a kind that several may have open; raises
    likewise."""
    if not is_shared(url):
        return None
    if not is_database(url):
        raise ConfigError(
            f"{setting}: the address {shown_address(url)} makes no sense; write"
            " postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %XX for characters of the"
            " password that mean something there"
        )
    if unreadable := unreadable_file(url):
        raise ConfigError(
            f"{setting}: the file of {unreadable} cannot be read; give its right path, and let this"
            " user read it"
        )
    # who needs no database need not wait for its library
    from schedulerglobal.adapters.postgresstore import PostgresStore

    return PostgresStore(url, cluster)


def store_to_read(url: str, cluster: str, setting: str) -> Store:
    """Like :func:`sole_store_for`; raises InputError rather than make a file that is not there."""
    store = sole_store_for(url, cluster, setting)
    if isinstance(store, SqliteStore) and not store.path.exists():
        raise InputError(f"{setting}: there is no store {store.path}; name the one that is in use")
    return store


def sole_store_for(url: str, cluster: str, setting: str) -> Store:
    """The store at *url*, of whatever kind, not yet opened, for us alone; raises likewise."""
    shared = shared_store_for(url, cluster, setting)
    if shared is None:
        return store_for(url, setting)
    if not cluster:
        raise ConfigError(
            f"{setting}: {url.partition('://')[0]}://… may be another cluster's; name this one with"
            " --cluster or SCG_CLUSTER"
        )
    from schedulerglobal.adapters.solestore import SoleStore

    return SoleStore(shared)
