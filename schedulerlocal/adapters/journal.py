"""The journal: one JSON record a line, appended before and after every change.

A record reaches the kernel before its change goes on, so a killed process loses none; only
cancelled requests and the epoch of who leads are forced to the disk, so that a lost power supply
does not lose them either. What was cut off at the end by a crash is ignored. The file is rewritten
as one snapshot when it has grown long.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from schedulercommon.errors import ConfigError, InputError, StoreUnavailable
from schedulercommon.levels import Level, format_level, parse_level
from schedulercommon.model import VmSpec
from schedulercommon.specdocument import read_spec, spec_document, spec_text
from schedulerlocal.adapters.callthreads import CallThreads
from schedulerlocal.core.topology import Cpus
from schedulerlocal.ports import Begun, Remembered

_LONGEST_BYTES = 8 << 20
_SYNC_S = 30.0
_KEPT_OUTCOMES = 5_000
_KEPT_CANCELLED = 50_000

_quoted = json.encoder.encode_basestring_ascii
_log = logging.getLogger(__name__)


class FileJournal:
    """A journal in *directory*, which one local scheduler at a time may use.

    *sync* forces a file to the disk. Raises ConfigError if the directory cannot be used or is in
    use.
    """

    def __init__(
        self, directory: Path, boot_id: str = "", sync: Callable[[int], None] = os.fsync
    ) -> None:
        self._path = directory / "journal.jsonl"
        self._boot_id = boot_id
        self._sync = sync
        self._owned: dict[Level, Cpus] = {}
        self._generation = 0
        self._last_boot = ""
        self._begun: dict[str, tuple[str, VmSpec]] = {}
        self._outcomes: OrderedDict[str, str] = OrderedDict()
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._epoch = self._kept_epoch = 0
        """The highest that was told, and the highest that is on disk for sure."""
        self._keeping = asyncio.Lock()
        """Held by who waits for the disk, so that many wait for it once."""
        self._bytes = 0
        """Of the file, about."""
        self._threads = CallThreads("journal", 1)
        self._torn = False
        self._behind = False
        """Whether something is known that could not be appended; a snapshot makes up for it."""
        self._file: FileIO | None = None
        """Open once the journal was read, until it is closed."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = (directory / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ConfigError(
                f"another local scheduler is using {directory}; stop it or set SCL_STATE_DIR"
            ) from None
        except OSError as problem:
            raise ConfigError(
                f"cannot keep the journal in {directory}: {problem.strerror};"
                " set SCL_STATE_DIR to a folder this user may write to"
            ) from problem

    def read(self) -> Remembered:
        """What earlier runs left; also starts this run's journal. Raises InputError."""
        try:
            text = self._path.read_bytes() if self._path.exists() else b""
        except OSError as problem:
            raise InputError(
                f"cannot read the journal {self._path}: {problem.strerror}; make it readable"
            ) from problem
        lines = text.split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                self._take_in(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                if number < len(lines):
                    _log.warning("%s, line %d is damaged and ignored", self._path, number)
        remembered = Remembered(
            generation=self._generation,
            boot_id=self._last_boot,
            owned=dict(self._owned),
            begun=tuple(
                Begun(action=action, name=spec.name, request_id=spec.request_id, spec=spec)
                for action, spec in self._begun.values()
            ),
        )
        try:
            self._rewrite()
        except StoreUnavailable as problem:
            raise ConfigError(f"{problem} or set SCL_STATE_DIR") from problem
        return remembered

    def begin(self, action: str, spec: VmSpec) -> None:
        self._append(f'{{"begin":"{action}","vm":{spec_text(spec)}}}')
        self._begun[spec.name] = (action, spec)

    def end(
        self, spec: VmSpec, outcome: str, generation: int, owned: Mapping[Level, Cpus] | None
    ) -> None:
        name, request = _quoted(spec.name), _quoted(spec.request_id)
        changed = _owned_text(owned) if owned else "{}"
        self._begun.pop(spec.name, None)
        self._generation = max(self._generation, generation)
        if owned:
            self._own(owned)
        if spec.request_id:
            _remember(self._outcomes, spec.request_id, outcome, _KEPT_OUTCOMES)
        self._append_known(
            f'{{"end":"{outcome}","name":{name},"request":{request},'
            f'"generation":{generation},"owned":{changed}}}'
        )

    def note(self, generation: int, owned: Mapping[Level, Cpus]) -> None:
        self._generation = max(self._generation, generation)
        self._own(owned)
        self._append_known(
            f'{{"note":true,"generation":{generation},"owned":{_owned_text(owned)}}}'
        )

    def booted(self) -> None:
        self._last_boot = self._boot_id
        self._append_known(f'{{"booted":{_quoted(self._boot_id)}}}')

    async def cancel(self, request_id: str) -> None:
        self._append(f'{{"cancel":{_quoted(request_id)}}}')
        await self._synced()
        _remember(self._cancelled, request_id, None, _KEPT_CANCELLED)

    @property
    def epoch(self) -> int:
        return self._epoch

    def hear(self, epoch: int) -> None:
        if epoch > self._epoch:
            self._epoch = epoch
            if self._file is not None:
                self._append_known(f'{{"epoch":{epoch}}}')

    async def keep_epoch(self) -> None:
        if self._kept_epoch == self._epoch:
            return
        async with self._keeping:
            epoch = self._epoch
            if self._kept_epoch == epoch:
                return
            if self._behind:
                self._rewrite()
            else:
                await self._synced()
            self._kept_epoch = max(epoch, self._kept_epoch)

    def outcome(self, request_id: str) -> str | None:
        return self._outcomes.get(request_id)

    def cancelled(self, request_id: str) -> bool:
        return request_id in self._cancelled

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._threads.close()
        self._lock.close()

    def _append(self, record: str) -> None:
        assert self._file is not None, "a journal is read before it is written"
        if self._behind:
            self._rewrite()
        elif self._bytes > _LONGEST_BYTES:
            try:
                self._rewrite()
            except StoreUnavailable as problem:
                _log.warning("the journal stays long: %s", problem)
                self._bytes = 0  # no use trying again at every record
        line = record.encode() + b"\n"
        if self._torn:
            # a record that went only half to disk ends at the next line break
            line = b"\n" + line
        try:
            written = self._file.write(line)
            self._torn = written < len(line)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as problem:
            raise self._unwritable(problem) from problem
        self._bytes += len(line)

    def _append_known(self, record: str) -> None:
        """Append what is known here already and so must get to disk some time."""
        try:
            self._append(record)
        except StoreUnavailable:
            self._behind = True
            raise

    async def _synced(self) -> None:
        """Return once all that was appended is on disk; raises StoreUnavailable."""
        assert self._file is not None, "a journal is read before it is written"
        try:
            # meanwhile the file may be rewritten, or closed, and its number be another's
            own = os.dup(self._file.fileno())
            syncing = self._threads.submit(partial(self._sync_and_close, own))
            async with asyncio.timeout(_SYNC_S):
                await self._threads.outcome(syncing)
        except TimeoutError:
            raise StoreUnavailable(
                f"the journal {self._path} was not on disk within {_SYNC_S:g} s; look at that disk"
            ) from None
        except OSError as problem:
            # what failed once may be told as done the next time, and is not
            self._behind = True
            raise self._unwritable(problem) from problem

    def _sync_and_close(self, file: int) -> None:
        try:
            self._sync(file)
        finally:
            os.close(file)

    def _unwritable(self, problem: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"cannot write the journal {self._path}: {problem.strerror}; make room for it"
        )

    def _own(self, owned: Mapping[Level, Cpus]) -> None:
        for level, cpus in owned.items():
            if cpus:
                self._owned[level] = cpus
            else:
                self._owned.pop(level, None)

    def _take_in(self, record: dict[str, Any]) -> None:
        """What one line of the file says."""
        generation, epoch = record.get("generation", 0), record.get("epoch", 0)
        if type(generation) is not int or type(epoch) is not int:
            raise ValueError(generation, epoch)
        self._generation = max(self._generation, generation)
        self._epoch = max(self._epoch, epoch)
        owned = record.get("owned", {})
        self._own({parse_level(level): tuple(cpus) for level, cpus in owned.items()})
        if "begin" in record:
            spec = read_spec(record["vm"])
            self._begun[spec.name] = (record["begin"], spec)
        elif "end" in record:
            self._begun.pop(record["name"], None)
            if record.get("request"):
                _remember(self._outcomes, record["request"], record["end"], _KEPT_OUTCOMES)
        elif "booted" in record:
            self._last_boot = record["booted"]
        elif "cancel" in record:
            _remember(self._cancelled, record["cancel"], None, _KEPT_CANCELLED)
        elif "snapshot" in record:
            self._last_boot = record["boot_id"]
            self._outcomes.update(record["outcomes"])
            self._cancelled.update(dict.fromkeys(record["cancelled"]))
            for action, document in record["begun"]:
                spec = read_spec(document)
                self._begun[spec.name] = (action, spec)

    def _rewrite(self) -> None:
        """Start the file anew with everything known as its first record; durable once done."""
        record = {
            "snapshot": True,
            "boot_id": self._last_boot,
            "generation": self._generation,
            "epoch": self._epoch,
            "owned": {format_level(level): cpus for level, cpus in self._owned.items()},
            "outcomes": self._outcomes,
            "cancelled": list(self._cancelled),
            "begun": [(action, spec_document(spec)) for action, spec in self._begun.values()],
        }
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        fresh = self._path.with_suffix(".new")
        try:
            # unbuffered: a record must not wait in this process
            file = FileIO(fresh, "wb")
        except OSError as problem:
            raise self._unwritable(problem) from problem
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._sync(file.fileno())
            fresh.replace(self._path)
        except OSError as problem:
            file.close()
            raise self._unwritable(problem) from problem
        if self._file is not None:
            self._file.close()
        self._file, self._torn, self._behind = file, False, True
        self._bytes = len(line)
        self._sync_directory()
        self._behind = False
        self._kept_epoch = self._epoch

    def _sync_directory(self) -> None:
        try:
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as problem:
            raise self._unwritable(problem) from problem


def _owned_text(owned: Mapping[Level, Cpus]) -> str:
    parts = [f'"{format_level(level)}":{list(cpus)}' for level, cpus in owned.items()]
    return f"{{{','.join(parts)}}}"


def _remember(known: OrderedDict[str, Any], key: str, value: str | None, most: int) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
