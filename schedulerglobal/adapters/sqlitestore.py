"""The store as an SQLite file: one thread writes, and what waits is written together.

Writes that come while a transaction is on its way to the disk share the next one, so that many
wait for one fsync. A caller's changes stand or fall alone: one that is refused leaves the others
of its transaction be, while a fault of the file fails them all and leaves none. The file lock
beside the store keeps a second global scheduler out and dies with the process that holds it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from schedulercommon.errors import InputError, NameTaken, StoreUnavailable, VmStackError
from schedulerglobal.adapters.sqliteschema import (
    APPLICATION_ID,
    MIGRATIONS,
    TEXTS,
    read_contents,
)
from schedulerglobal.adapters.statements import Statement, statements
from schedulerglobal.ports import Change, Contents

_Waiting = asyncio.Future[Any]
_Job = tuple[Sequence[Statement], _Waiting]

# Where the format of SQLite files has what tells them apart.
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_APPLICATION = slice(68, 72)

_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "is locked by another program; end that one",
    sqlite3.SQLITE_LOCKED: "is locked by another program; end that one",
    sqlite3.SQLITE_FULL: "is on a full disk; make room there",
    sqlite3.SQLITE_READONLY: "is read-only; let this user write to it, its log and their folder",
    sqlite3.SQLITE_PERM: "is read-only; let this user write to it, its log and their folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; let this user write to the file and its folder",
    sqlite3.SQLITE_IOERR: "cannot be read or written; make room on its disk and see to its health",
    sqlite3.SQLITE_PROTOCOL: "cannot be locked; keep it on a disk of this machine",
    sqlite3.SQLITE_NOMEM: "needs more memory than there is; make some free",
}


class SqliteStore:
    """A store in the file *path*, which one global scheduler at a time may use."""

    def __init__(self, path: Path, patience_s: float = 5.0) -> None:
        """*patience_s* is how long another program's lock on the file is waited for."""
        self.path = path
        self._patience_s = patience_s
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        """What is to be written; None comes last."""
        self._batch: list[_Job] = []
        """What the thread is writing."""
        self._closed = False
        self._thread: threading.Thread | None = None

    async def open(self) -> Contents:
        assert self._thread is None, "a store is opened once"
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[Contents] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._serve, args=(opened,), name="store", daemon=True
        )
        self._thread.start()
        try:
            return await opened
        except BaseException:
            await self.close()
            raise

    async def write(self, *changes: Change) -> None:
        """A caller that stops waiting does not stop its write."""
        if self._closed:
            raise StoreUnavailable(f"the store {self.path} is closed; start again")
        assert self._thread is not None, "a store is opened before it is written"
        work = [each for change in changes for each in statements(change, TEXTS)]
        if work:
            done = self._loop.create_future()
            self._jobs.put((work, done))
            await done

    async def close(self) -> None:
        """Waits for what is being written."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    # --- in the thread ---

    def _serve(self, opened: _Waiting) -> None:
        try:
            with _sole_use(self.path), closing(self._connect()) as connection:
                contents = _prepared(connection, self.path)
                identity = _identity(self.path)
                self._answer([(opened, contents)])
                while self._take_batch():
                    self._answer(self._written(connection, identity))
                    self._batch = []
        except VmStackError as problem:
            self._answer([(opened, problem)])
        except sqlite3.Error as problem:
            self._answer([(opened, _opening_fault(self.path, problem))])
        except BaseException as bug:
            # nobody may wait for a thread that is no more
            self._closed = True
            while not self._jobs.empty():
                if job := self._jobs.get():
                    self._batch.append(job)
            self._answer([(opened, bug), *((done, bug) for _, done in self._batch)])
            raise

    def _connect(self) -> sqlite3.Connection:
        _check_kind(self.path)
        return sqlite3.connect(
            os.path.realpath(self.path), timeout=self._patience_s, isolation_level=None
        )

    def _take_batch(self) -> bool:
        """Wait until there is something to write; False once there never will be."""
        jobs = self._jobs
        taken = [jobs.get()]
        taken += [jobs.get() for _ in range(jobs.qsize())]
        self._batch = [job for job in taken if job is not None]
        if taken[-1] is None and self._batch:
            jobs.put(None)
        return bool(self._batch)

    def _written(
        self, connection: sqlite3.Connection, identity: tuple[int, int] | None
    ) -> list[tuple[_Waiting, VmStackError | None]]:
        """What became of each job, now that those that could be kept are on the disk."""
        problem: str
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [(done, _perform(connection, work)) for work, done in self._batch]
            # SQLite would go on writing to a file that nobody finds any more
            if _identity(self.path) == identity:
                connection.execute("COMMIT")
                return outcomes
            problem = "was removed or replaced; put it back, or start again with the one there"
        except sqlite3.Error as fault:
            problem = _sentence(fault)
        # an error may have rolled it back already
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        said = f"the store {self.path} {problem}"
        return [(done, StoreUnavailable(said)) for _, done in self._batch]

    def _answer(self, answers: Sequence[tuple[_Waiting, object]]) -> None:
        # a loop that is closed has nobody waiting
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_tell, answers)


def _tell(answers: Sequence[tuple[_Waiting, object]]) -> None:
    for waiting, answer in answers:
        if waiting.done():
            continue  # cancelled
        if isinstance(answer, BaseException):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)


def _perform(connection: sqlite3.Connection, work: Sequence[Statement]) -> VmStackError | None:
    """Carry out all of *work*, or none and say why; a single statement is atomic by itself."""
    apart = len(work) > 1
    if apart:
        connection.execute("SAVEPOINT caller")
    refusal: VmStackError | None = None
    for text, values, name in work:
        try:
            connection.execute(text, values)
        except sqlite3.IntegrityError as problem:
            if problem.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                raise
            refusal = NameTaken(name)
            break
        except (UnicodeEncodeError, OverflowError) as problem:
            refusal = StoreUnavailable(
                f"no store can keep this ({problem}); ask for something else"
            )
            break
    if apart:
        if refusal:
            connection.execute("ROLLBACK TO caller")
        connection.execute("RELEASE caller")
    return refusal


def _prepared(connection: sqlite3.Connection, path: Path) -> Contents:
    """Bring the file to this version and read it, having proved that it can be written."""
    connection.execute("PRAGMA synchronous = FULL")
    ((version,),) = connection.execute("PRAGMA user_version")
    if version > len(MIGRATIONS):
        raise InputError(
            f"the store {path} was written by a newer version (schema {version}, this one knows"
            f" {len(MIGRATIONS)}); run that version or name another file in SCG_STORE"
        )
    connection.execute("BEGIN IMMEDIATE")
    for step in MIGRATIONS[version:]:
        for text in step:
            connection.execute(text)
    # both write even where nothing changes, so that a disk without room is found now
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")
    ((mode,),) = connection.execute("PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise StoreUnavailable(
            f"the store {path} is where SQLite cannot keep a write-ahead log;"
            " name a file on a disk of this machine in SCG_STORE"
        )
    return read_contents(connection, str(path))


@contextmanager
def _sole_use(path: Path) -> Iterator[None]:
    """Keep other global schedulers off *path*, whatever name they know it by."""
    real = os.path.realpath(path)
    try:
        _check_place(path)
        lock = os.open(f"{real}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise StoreUnavailable(
            f"cannot keep the store in {path}: {problem.strerror};"
            " name a file in a folder this user may write to in SCG_STORE"
        ) from problem
    try:
        _lock(lock, path)
        yield
    finally:
        os.close(lock)


def _lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreUnavailable(
            f"another global scheduler is using {path}; stop it or name another file in SCG_STORE"
        ) from None
    except OSError as problem:
        raise StoreUnavailable(
            f"cannot lock the store {path}: {problem.strerror};"
            " name a file on a disk of this machine in SCG_STORE"
        ) from problem


def _check_place(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise StoreUnavailable(f"the store {path} is {kind}; name a file in SCG_STORE")


def _check_kind(path: Path) -> None:
    """Raise InputError for a file of another program, StoreUnavailable for one not to be written.

    Before SQLite touches it: of a read-only file it would make a log that is read-only for good.
    Only whoever has the lock may look, for closing a file frees SQLite's own locks on it.
    """
    try:
        with path.open("r+b") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return
    except OSError as problem:
        raise StoreUnavailable(
            f"cannot write the store {path}: {problem.strerror};"
            " let this user read and write the file"
        ) from problem
    if not header:
        return
    if not header.startswith(_MAGIC):
        raise InputError(f"{path} is no store but another kind of file; name another in SCG_STORE")
    if header[_APPLICATION] != APPLICATION_ID.to_bytes(4, "big"):
        raise InputError(
            f"{path} is the database of another program; name another file in SCG_STORE"
        )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _opening_fault(path: Path, problem: sqlite3.Error) -> VmStackError:
    if _kind(problem) in _UNAVAILABLE:
        return StoreUnavailable(f"the store {path} {_sentence(problem)}")
    return InputError(
        f"the store {path} is damaged ({problem}); restore a copy of the file, or move it away to"
        " begin anew"
    )


def _sentence(problem: sqlite3.Error) -> str:
    """What is the matter with a store, and how to mend it."""
    return _UNAVAILABLE.get(_kind(problem), f"cannot take this ({problem}); restore a copy of it")


def _kind(problem: sqlite3.Error) -> int:
    """SQLite's primary code; 0 if it never came to SQLite."""
    return getattr(problem, "sqlite_errorcode", 0) & 0xFF
