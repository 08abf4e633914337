"""All that can be wrong with a database, as the operator is told of it, without a password."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from schedulerglobal.adapters.addresses import shown_address
from schedulerglobal.adapters.postgresstore import PostgresStore
from tests.pgproxy import wire
from tests.postgres import Postgres
from tests.servers import run_global

SECRET = "tops3cret"


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.database()


ADDRESSES = {
    "postgresql://db:5432/vms": "postgresql://db:5432/vms",
    f"postgresql://me:{SECRET}@db:5432/vms": "postgresql://db:5432/vms",
    f"postgres://me:{SECRET}@db/vms?sslmode=require": "postgres://db/vms",
    f"postgresql://me:{SECRET}@[::1]:5432/vms": "postgresql://[::1]:5432/vms",
    f"postgresql://me:{SECRET}@h1:1,h2:2/vms": "postgresql://h1:1,h2:2/vms",
    f"postgresql://db/vms?password={SECRET}": "postgresql://db/vms",
    f"postgresql://me:a@b{SECRET}@db/vms": "postgresql://db/vms",
    f"postgresql://me:a/{SECRET}@db/vms": "postgresql://db/vms",
    f"postgresql://me:a?{SECRET}@db/vms": "postgresql://db/vms",
    f"postgresql://me:a#{SECRET}@db/vms": "postgresql://db/vms",
    f"postgresql://me:{SECRET}": "postgresql://…",
    f"postgresql://me:{SECRET}/vms": "postgresql://…",
    f"postgresql+asyncpg://me:{SECRET}@db/vms": "postgresql+asyncpg://db/vms",
    f"{SECRET}": "…",
    f"{SECRET} ://db": "…",
    "": "…",
}


@pytest.mark.parametrize(("url", "shown"), ADDRESSES.items(), ids=range(len(ADDRESSES)))
def test_addresses_are_shown_without_what_is_secret(url: str, shown: str) -> None:
    assert shown_address(url) == shown


class Starter:
    """Starts ``python -m schedulerglobal``, which is not to come up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def refuses(self, code: int, store: str, **settings: str) -> str:
        """The one line it says when it ends with *code*."""
        ours = {"SCG_CLUSTER": "test", "SCG_OWN_URL": "127.0.0.1:8100"}
        given = {"SCG_STORE": store, **ours, **settings}
        done = run_global(
            self._directory, settings={name: text for name, text in given.items() if text}
        )
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.returncode == code, done.stderr
        assert len(done.stderr) < 450
        assert SECRET not in done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture
def start(tmp_path: Path) -> Starter:
    return Starter(tmp_path)


FAILED, WRONG_USAGE = 1, 2


def test_a_wrong_password(start: Starter, postgres: Postgres, url: str) -> None:
    with postgres.password("scram", "right"):
        said = start.refuses(FAILED, url.replace("postgres@", f"scram:{SECRET}@"))
        assert "does not let this user in" in said
        assert "password" in said
        assert "SCG_STORE" in said
        missing = start.refuses(FAILED, url.replace("postgres@", "scram@"))
        assert "127.0.0.1" in missing


def test_an_unknown_database(start: Starter, postgres: Postgres) -> None:
    said = start.refuses(FAILED, postgres.url("nowhere"))
    assert 'database "nowhere" does not exist' in said
    assert "createdb" in said


def test_nobody_there(start: Starter) -> None:
    said = start.refuses(FAILED, f"postgresql://me:{SECRET}@127.0.0.1:1/vms")
    assert "cannot be reached" in said
    assert "start the server" in said


def test_too_old_a_server(start: Starter, url: str) -> None:
    def older(said: bytes) -> bytes:
        before, found, after = said.partition(b"server_version\0")
        if not found:
            return said
        version, _, rest = after.partition(b"\0")
        # of the same length, as the message tells it
        return before + found + b"9.6.24".ljust(len(version))[: len(version)] + b"\0" + rest

    with wired(url, older) as over:
        said = start.refuses(FAILED, over)
    assert "PostgreSQL 9" in said
    assert "needs 13 or newer" in said


def test_a_schema_of_a_newer_version(start: Starter, postgres: Postgres, url: str) -> None:
    prepare(url)
    postgres.run(url, "UPDATE vmstack.cluster SET schema = 9")
    said = start.refuses(FAILED, url)
    assert "written by a newer version (schema 9" in said


def test_two_clusters_on_one_database(start: Starter, url: str) -> None:
    prepare(url)
    said = start.refuses(FAILED, url, SCG_CLUSTER="another")
    assert "belongs to cluster 'test'" in said
    assert "'another'" in said
    assert "SCG_CLUSTER" in said


def test_a_role_that_may_create_nothing(start: Starter, postgres: Postgres, url: str) -> None:
    with postgres.role("poor"):
        said = start.refuses(FAILED, url.replace("postgres@", "poor@"))
    assert "permission denied" in said
    assert "OWNER TO" in said


@pytest.mark.parametrize("rights", ["", "SELECT", "SELECT, INSERT, UPDATE"])
def test_a_role_that_may_not_write(
    start: Starter, postgres: Postgres, url: str, rights: str
) -> None:
    prepare(url)
    with postgres.role("poor"):
        postgres.run(url, "GRANT USAGE ON SCHEMA vmstack TO poor")
        if rights:
            postgres.run(url, f"GRANT {rights} ON ALL TABLES IN SCHEMA vmstack TO poor")
        said = start.refuses(FAILED, url.replace("postgres@", "poor@"))
    assert "does not let this user" in said


@pytest.mark.parametrize("prepared", [True, False], ids=["there", "new"])
def test_a_server_that_is_read_only(
    start: Starter, postgres: Postgres, url: str, prepared: bool
) -> None:
    if prepared:
        prepare(url)
    with postgres.role("reader", "SUPERUSER"):
        postgres.run(url, "ALTER ROLE reader SET default_transaction_read_only = on")
        said = start.refuses(FAILED, url.replace("postgres@", "reader@"))
    assert "is read-only" in said
    assert "primary" in said


def test_certificates(start: Starter, postgres: Postgres, url: str, tmp_path: Path) -> None:
    with postgres.certified("elsewhere") as theirs:
        ours = tmp_path / "db.pem"
        ours.write_bytes(theirs.read_bytes())
        prepare(f"{url}?sslmode=verify-ca&sslrootcert={ours}")
        said = start.refuses(FAILED, f"{url}?sslmode=verify-full&sslrootcert={ours}")
        assert "not to be trusted" in said
        assert "127.0.0.1" in said
        assert "sslrootcert=FILE" in said
        garbage = tmp_path / "garbage.pem"
        garbage.write_text("no certificate")
        said = start.refuses(FAILED, f"{url}?sslmode=verify-ca&sslrootcert={garbage}")
        assert "over TLS" in said
        said = start.refuses(WRONG_USAGE, f"{url}?sslmode=verify-ca")
        assert "no certificate to tell the server" in said
        assert "sslrootcert=FILE" in said
        said = start.refuses(WRONG_USAGE, f"{url}?sslmode=verify-ca&sslrootcert={tmp_path}/no.pem")
        assert f"sslrootcert={tmp_path}/no.pem cannot be read" in said


GARBAGE = {
    "kind": f"mysql://me:{SECRET}@db/vms",
    "driver": f"postgresql+asyncpg://me:{SECRET}@db/vms",
    "port": f"postgresql://me:{SECRET}@db:port/vms",
    "large port": f"postgresql://me:{SECRET}@db:99999999/vms",
    "no host": f"postgresql://me:{SECRET}",
    "bracket": f"postgresql://me:{SECRET}@[::1/vms",
    "slash in the password": f"postgresql://me:1/{SECRET}@db:1/vms",
    "long host": f"postgresql://me:{SECRET}@{'a' * 70}:1/vms",
    "bracket in the password": f"postgresql://me:[{SECRET}@127.0.0.1:1/vms",
    "option": f"postgresql://me:{SECRET}@127.0.0.1:1/vms?sslmode=perhaps",
    "nothing": "postgresql://",
}


@pytest.mark.parametrize("store", GARBAGE.values(), ids=GARBAGE)
def test_garbage_for_an_address(start: Starter, store: str) -> None:
    said = start.refuses(WRONG_USAGE, store)
    assert said.startswith("SCG_STORE: ")
    assert "postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in said


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"SCG_CLUSTER": ""}, "SCG_CLUSTER"),
        ({"SCG_CLUSTER": "two words"}, "SCG_CLUSTER"),
        ({"SCG_OWN_URL": "", "SCG_URL": "0.0.0.0"}, "SCG_OWN_URL"),
        ({"SCG_OWN_URL": "", "SCG_URL": "::"}, "SCG_OWN_URL"),
        ({"SCG_OWN_URL": ""}, "SCG_OWN_URL"),  # the port is whichever is free
        ({"SCG_OWN_URL": "https://here:1"}, "SCG_OWN_URL"),
        ({"SCG_OWN_URL": "here"}, "SCG_OWN_URL"),
        ({"SCG_NODE_URL_LIST": "127.0.0.1:8100"}, "SCG_NODE_URL_LIST"),
        ({"SCG_LEASE": "0"}, "SCG_LEASE"),
        ({"SCG_LEASE": "0.1"}, "SCG_LEASE"),
        ({"SCG_LEASE": "soon"}, "SCG_LEASE"),
    ],
    ids=lambda value: (
        "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_settings_of_several(start: Starter, settings: dict[str, str], named: str) -> None:
    said = start.refuses(WRONG_USAGE, f"postgresql://me:{SECRET}@db/vms", **settings)
    assert said.startswith(f"{named}: ")


def prepare(url: str) -> None:
    """Have the tables made."""

    async def opened() -> None:
        store = PostgresStore(url, "test")
        await store.open()
        await store.close()

    asyncio.run(opened())


@contextmanager
def wired(url: str, rewrite: Callable[[bytes], bytes]) -> Iterator[str]:
    """The address of the database at *url*, over a wire in a thread of its own."""
    ready, ending = Event(), Event()
    addresses: list[str] = []

    async def serve() -> None:
        async with wire(url, rewrite) as (_, over):
            addresses.append(over)
            ready.set()
            await asyncio.to_thread(ending.wait)

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield addresses[0]
    finally:
        ending.set()
        thread.join()
