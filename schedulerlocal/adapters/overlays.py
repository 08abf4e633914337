"""Overlays, the disks of VMs: what they are called, and the notes about those that are to go.

A name tells whose disk it is and is never given twice, since hosts may share the folder. A note is
written before an overlay is made and erased once a VM has it, written again before that VM is
removed and erased once the overlay is deleted: whatever a note is left of and no VM has is ours
to delete. A note is a symbolic link to the overlay's folder, which is there whole or not at all;
all notes are one link by many names, since making a file takes far longer than naming one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from schedulercommon.errors import ConfigError
from schedulercommon.model import NAME

FileId = tuple[int, int]
"""Device and inode: what a file is, whatever it is called."""

_PARTIAL = ".partial"
"""What an earlier version put after the name of an overlay that it had not finished."""
_OVERLAY = re.compile(
    rf"(?P<vm>{NAME.pattern})@(?P<host>{NAME.pattern})\.[0-9a-f]{{32}}\.qcow2(?:\.partial)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose an overlay is."""

    vm: str
    host: str


@dataclass(frozen=True, slots=True)
class Unused:
    """Overlays that no VM here has."""

    deleted: tuple[str, ...]
    """Made by this host and never given to a VM, or left over from a removal cut short."""
    left: tuple[str, ...]
    """By their name this host's; only listed."""
    others: tuple[str, ...]
    """By their name another host's; only listed."""


def overlay_name(vm: str, host: str) -> str:
    return f"{vm}@{host}.{uuid4().hex}.qcow2"


def owner_of(path: str) -> Owner | None:
    """Whose overlay the file at *path* is; None if it is none."""
    found = _OVERLAY.fullmatch(os.path.basename(path))
    return Owner(found["vm"], found["host"]) if found else None


class OverlayNotes:
    """The notes in *directory*, which belongs to one local scheduler; faults are OSErrors."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._folder = f"{directory}.folder"
        """The link that notes are other names of."""

    def write(self, path: str) -> None:
        """Note that the overlay at *path* is to go unless a VM has it."""
        note, folder = self._note(path), os.path.dirname(path)
        with suppress(FileExistsError):
            if self._named(note, folder):
                return
            try:
                os.symlink(folder, note)
            except FileNotFoundError:
                self.directory.mkdir(parents=True, exist_ok=True)
                os.symlink(folder, note)
            with suppress(OSError):  # a file system may know no such names
                os.link(note, self._folder, follow_symlinks=False)

    def _named(self, note: str, folder: str) -> bool:
        """Whether *note* is a name of the link there was already; raises FileExistsError."""
        try:
            if os.readlink(self._folder) == folder:
                os.link(self._folder, note, follow_symlinks=False)
                return True
            os.unlink(self._folder)
        except FileExistsError:
            raise
        except OSError:
            pass  # there is none yet, or not even a folder of notes, or it can have no more names
        return False

    def erase(self, path: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._note(path))

    def paths(self) -> list[str]:
        """The overlays that are noted."""
        with suppress(FileNotFoundError):
            notes = sorted(self.directory.iterdir())
            return [_noted(note) for note in notes if note.is_symlink()]
        return []

    def _note(self, path: str) -> str:
        return os.path.join(self.directory, os.path.basename(path))


def _noted(note: Path) -> str:
    """The overlay *note* is about; an earlier version linked to that itself."""
    target = os.readlink(note)
    return target if os.path.basename(target) == note.name else os.path.join(target, note.name)


def begin_overlay(path: str) -> None:
    """Make the file the overlay at *path* will be written to, for nobody else to read."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def finish_overlay(path: str) -> FileId:
    """Have the overlay there for good: a VM that was answered for keeps its disk."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    facts = os.lstat(path)
    return facts.st_dev, facts.st_ino


def file_at(path: str) -> FileId | None:
    """The file at *path*, links not followed; None if there is none."""
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino


def delete_overlay(path: str, notes: OverlayNotes) -> bool:
    """Delete the overlay at *path*, if it is there, then the note; whether it was."""
    there = False
    for file in (path, path + _PARTIAL):
        if file_at(file) is not None:  # where nothing can be written, deleting nothing fails too
            with suppress(FileNotFoundError):
                os.unlink(file)
                there = True
    notes.erase(path)
    return there


def unused_overlays(
    folder: Path, host: str, used: Collection[FileId], in_use: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """This host's and other hosts' overlays in *folder* that are neither *used* nor *in_use*.

    Raises ConfigError if *folder* cannot be listed.
    """
    ours: list[str] = []
    others: list[str] = []
    try:
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                owner = owner_of(entry.name)
                if owner is None or entry.path.removesuffix(_PARTIAL) in in_use:
                    continue
                file = file_at(entry.path)  # none if another host deletes its own meanwhile
                if file is not None and file not in used:
                    (ours if owner.host == host else others).append(entry.path)
    except OSError as problem:
        raise ConfigError(
            f"SCL_DISK_DIR: {folder}, where the disks of VMs belong, cannot be listed"
            f" ({problem.strerror}); make it a folder that this user may write to"
        ) from problem
    return tuple(sorted(ours)), tuple(sorted(others))
