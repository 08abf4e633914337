"""The journal: one JSON record a line, appended before and after every change.

A record reaches the kernel before its change goes on, so a killed process loses none; only
cancelled requests, which nothing else remembers, are forced to the disk. What was cut off at the
end by a crash is ignored. The file is rewritten as one snapshot when it has grown long.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from schedulercommon.errors import ConfigError, InputError, StoreUnavailable
from schedulercommon.levels import Level, format_level, parse_level
from schedulercommon.model import VmSpec
from schedulercommon.specdocument import read_spec, spec_document
from schedulerlocal.core.topology import Cpus
from schedulerlocal.ports import Begun, Remembered

_LONGEST_BYTES = 8 << 20
_KEPT_OUTCOMES = 5_000
_KEPT_CANCELLED = 50_000

_encode = json.JSONEncoder(separators=(",", ":")).encode
_log = logging.getLogger(__name__)


class FileJournal:
    """A journal in *directory*, which one local scheduler at a time may use.

    Raises ConfigError if the directory cannot be used or is in use.
    """

    def __init__(self, directory: Path, boot_id: str = "") -> None:
        self._path = directory / "journal.jsonl"
        self._boot_id = boot_id
        self._owned: dict[str, list[int]] = {}
        self._generation = 0
        self._last_boot = ""
        self._begun: dict[str, tuple[str, dict[str, Any]]] = {}
        self._outcomes: OrderedDict[str, str] = OrderedDict()
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._torn = False
        self._file: FileIO | None = None
        """Open once the journal was read."""
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
            except (ValueError, KeyError, TypeError, AttributeError):
                if number < len(lines):
                    _log.warning("%s, line %d is damaged and ignored", self._path, number)
        remembered = Remembered(
            generation=self._generation,
            boot_id=self._last_boot,
            owned={parse_level(level): tuple(cpus) for level, cpus in self._owned.items()},
            begun=tuple(self._begun_changes()),
        )
        self._last_boot = self._boot_id
        self._rewrite()
        return remembered

    def begin(self, action: str, spec: VmSpec) -> None:
        self._append({"begin": action, "vm": spec_document(spec)})

    def end(
        self, spec: VmSpec, outcome: str, generation: int, owned: Mapping[Level, Cpus] | None
    ) -> None:
        record: dict[str, Any] = {"end": outcome, "name": spec.name, "generation": generation}
        if spec.request_id:
            record["request"] = spec.request_id
        if owned:
            record["owned"] = _owned_document(owned)
        self._append(record)

    def note(self, generation: int, owned: Mapping[Level, Cpus]) -> None:
        self._append({"note": True, "generation": generation, "owned": _owned_document(owned)})

    async def cancel(self, request_id: str) -> None:
        self._append({"cancel": request_id})
        if self._file is not None:
            await asyncio.to_thread(os.fsync, self._file.fileno())

    def outcome(self, request_id: str) -> str | None:
        return self._outcomes.get(request_id)

    def cancelled(self, request_id: str) -> bool:
        return request_id in self._cancelled

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._lock.close()

    def _append(self, record: dict[str, Any]) -> None:
        assert self._file is not None, "a journal is read before it is written"
        line = _encode(record).encode() + b"\n"
        try:
            # a record that went only half to disk ends at the next line break
            written = self._file.write(b"\n" + line if self._torn else line)
            self._torn = written < len(line)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as problem:
            raise StoreUnavailable(
                f"cannot write the journal {self._path}: {problem.strerror}; make room for it"
            ) from problem
        self._take_in(record)
        self._bytes += len(line)
        if self._bytes > _LONGEST_BYTES:
            self._file.close()
            self._rewrite()

    def _take_in(self, record: dict[str, Any]) -> None:
        self._generation = max(self._generation, record.get("generation", 0))
        for level, cpus in record.get("owned", {}).items():
            if cpus:
                self._owned[level] = cpus
            else:
                self._owned.pop(level, None)
        if "begin" in record:
            self._begun[record["vm"]["name"]] = (record["begin"], record["vm"])
        elif "end" in record:
            self._begun.pop(record["name"], None)
            if "request" in record:
                _remember(self._outcomes, record["request"], record["end"], _KEPT_OUTCOMES)
        elif "cancel" in record:
            _remember(self._cancelled, record["cancel"], None, _KEPT_CANCELLED)
        elif "snapshot" in record:
            self._last_boot = record["boot_id"]
            self._outcomes.update(record["outcomes"])
            self._cancelled.update(dict.fromkeys(record["cancelled"]))
            self._begun.update({name: (what, vm) for name, (what, vm) in record["begun"].items()})

    def _begun_changes(self) -> list[Begun]:
        changes = []
        for action, document in self._begun.values():
            spec = read_spec(document)
            changes.append(
                Begun(action=action, name=spec.name, request_id=spec.request_id, spec=spec)
            )
        return changes

    def _rewrite(self) -> None:
        """Start the file anew with everything known as its first record; durable once done."""
        record = {
            "snapshot": True,
            "boot_id": self._last_boot,
            "generation": self._generation,
            "owned": self._owned,
            "outcomes": self._outcomes,
            "cancelled": list(self._cancelled),
            "begun": self._begun,
        }
        line = _encode(record).encode() + b"\n"
        fresh = self._path.with_suffix(".new")
        try:
            with fresh.open("wb") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            # unbuffered: a record must not wait in this process
            self._file = FileIO(self._path, "ab")
        except OSError as problem:
            raise ConfigError(
                f"cannot write the journal {self._path}: {problem.strerror};"
                " make room or set SCL_STATE_DIR"
            ) from problem
        self._bytes = len(line)


def _owned_document(owned: Mapping[Level, Cpus]) -> dict[str, list[int]]:
    return {format_level(level): list(cpus) for level, cpus in owned.items()}


def _remember(known: OrderedDict[str, Any], key: str, value: str | None, most: int) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
