"""A PostgreSQL server of a test's own, in a folder of its own, that can be killed and stopped."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.ports import free_port

INSTALLED = Path("/usr/lib/postgresql")
UNPRIVILEGED = "postgres"
WITHIN_S = 60.0


def programs() -> Path:
    """Where the newest server's programs are."""
    found = sorted(
        (path for path in INSTALLED.glob("*/bin") if (path / "initdb").exists()),
        key=lambda path: [int(number) for number in re.findall(r"[0-9]+", path.parent.name)],
    )
    on_path = shutil.which("initdb")
    if not found and on_path:
        return Path(on_path).resolve().parent
    assert found, "PostgreSQL is not installed; scripts/setup.sh dev installs it"
    return found[-1]


class Postgres:
    """One server, made by :func:`postgres_server`."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self._folder = folder
        self._fsync = fsync
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        # the server refuses to run as root
        self._user = None if os.geteuid() else UNPRIVILEGED
        self._there: dict[str, Any] = {
            "cwd": folder,
            "user": self._user,
            "group": self._user,
            "extra_groups": [] if self._user else None,
        }
        """Where its programs run, and as whom."""

    def create(self) -> None:
        if self._user:
            about = pwd.getpwnam(self._user)
            os.chown(self._folder, about.pw_uid, about.pw_gid)
        self._folder.chmod(0o700)
        options = ("-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C")
        self._call("initdb", "-D", str(self._folder / "data"), *options)

    def start(self) -> None:
        """Begin, and wait until it takes connections."""
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            "fsync": "on" if self._fsync else "off",
            "max_connections": 200,
        }
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [programs() / "postgres", "-D", self._folder / "data", *given],
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._there,
            )
        deadline_s = time.monotonic() + WITHIN_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline_s, "PostgreSQL does not answer"
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT cuts off who is connected, SIGQUIT is a crash."""
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait(WITHIN_S)
        self._process = None

    def pause(self) -> None:
        """Answer nobody, and close no connection."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal_all(signal.SIGCONT)

    def database(self, name: str = "test") -> str:
        """The address of a database that is empty; the one of that name before is emptied, which
        is quicker than to make one, and takes no room."""
        asyncio.run(self._empty(name))
        return self.url(name)

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def run(self, url: str, *statements: str) -> None:
        """Carry out *statements* in the database at *url*."""
        asyncio.run(self._run(url, *statements))

    @contextmanager
    def role(self, name: str, *rights: str) -> Iterator[None]:
        """A user that is called so."""
        where = self.url("test")
        self.run(where, f"CREATE ROLE {name} LOGIN {' '.join(rights)}")
        try:
            yield
        finally:
            self.run(where, f"DROP OWNED BY {name}", f"DROP ROLE {name}")

    @contextmanager
    def password(self, user: str, password: str) -> Iterator[None]:
        """A user who is let in with that password only."""
        rules = self._folder / "data" / "pg_hba.conf"
        before = rules.read_text()
        with self.role(user, f"PASSWORD '{password}'"):
            rules.write_text(f"host all {user} all scram-sha-256\n{before}")
            self.run(self.url("postgres"), "SELECT pg_reload_conf()")
            try:
                yield
            finally:
                rules.write_text(before)
                self.run(self.url("postgres"), "SELECT pg_reload_conf()")

    @contextmanager
    def certified(self, name: str) -> Iterator[Path]:
        """It speaks TLS, too, with the certificate that is yielded, which is made out to *name*."""
        certificate, key = self._folder / "server.crt", self._folder / "server.key"
        options = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}")
        files = ("-keyout", str(key), "-out", str(certificate))
        command = ["openssl", "req", *options, "-addext", f"subjectAltName=DNS:{name}", *files]
        subprocess.run(command, check=True, capture_output=True, **self._there)
        where = self.url("postgres")
        self.run(
            where,
            f"ALTER SYSTEM SET ssl_cert_file = '{certificate}'",
            f"ALTER SYSTEM SET ssl_key_file = '{key}'",
            "ALTER SYSTEM SET ssl = on",
            "SELECT pg_reload_conf()",
        )
        try:
            self._wait_for_tls()
            yield certificate
        finally:
            self.run(where, "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")

    def _wait_for_tls(self) -> None:
        deadline_s = time.monotonic() + WITHIN_S
        while True:
            try:
                return self.run(f"{self.url('postgres')}?sslmode=require", "SELECT 1")
            except OSError:  # it was not reread yet
                assert time.monotonic() < deadline_s, "PostgreSQL does not speak TLS"
                time.sleep(0.02)

    async def _empty(self, name: str) -> None:
        try:
            await self._run(self.url(name), "DROP SCHEMA IF EXISTS vmstack CASCADE")
        except asyncpg.InvalidCatalogNameError:
            await self._run(self.url("postgres"), f"CREATE DATABASE {name}")

    async def _run(self, url: str, *statements: str) -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def _answers(self) -> bool:
        with suppress(OSError, subprocess.TimeoutExpired):
            self._call("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1")
            return True
        return False

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs() / program, *arguments],
            capture_output=True,
            check=False,
            timeout=WITHIN_S,
            **self._there,
        )
        if done.returncode:
            raise OSError(f"{program}: {done.stderr.decode(errors='replace')[-2000:]}")

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        for pid in (self._process.pid, *_children(self._process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


@contextmanager
def postgres_server(*, fsync: bool = False) -> Iterator[Postgres]:
    """A server that runs until the end of the block, and leaves nothing behind."""
    # a path that is short enough for the socket, and open to the user it runs as
    folder = Path(tempfile.mkdtemp(prefix="vmstack-pg-", dir="/tmp"))
    server = Postgres(folder, fsync=fsync)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(number) for number in text.split()]
