"""Who uses which file: two running VMs never write one image, nor one that another builds on.

Files are told apart by device and inode, whatever path they were found by. A VM may be there
twice, as it is and as its disk is being prepared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from schedulerlocal.adapters.overlays import FileId


@dataclass(frozen=True, slots=True)
class Use:
    """What one VM does with files."""

    vm: str
    writes: tuple[FileId, ...]
    reads: tuple[FileId, ...]
    """What the disks it writes build on."""
    running: bool


Key = tuple[str, bool]
"""A VM's name, and whether its disk is only being prepared."""


class ImageUses:
    """All uses there are."""

    def __init__(self) -> None:
        self._uses: dict[Key, Use] = {}
        self._keys: dict[FileId, dict[Key, None]] = {}

    def find(self, key: Key) -> Use | None:
        return self._uses.get(key)

    def made(self) -> list[str]:
        """The VMs there are, those only being prepared left out."""
        return [name for name, preparing in self._uses if not preparing]

    def files(self) -> set[FileId]:
        return set(self._keys)

    def put(self, key: Key, use: Use) -> None:
        self.drop(key)
        self._uses[key] = use
        for file in (*use.writes, *use.reads):
            self._keys.setdefault(file, {})[key] = None

    def drop(self, key: Key) -> None:
        use = self._uses.pop(key, None)
        for file in (*use.writes, *use.reads) if use else ():
            keys = self._keys.get(file, {})
            keys.pop(key, None)
            if not keys:
                self._keys.pop(file, None)

    def set_running(self, key: Key, running: bool) -> None:
        use = self._uses.get(key)
        if use is not None and use.running is not running:
            self._uses[key] = replace(use, running=running)

    def against_start(self, use: Use) -> str:
        """Why *use* may not begin to run now, to be said after its name; empty if it may."""
        for other in self._others(use, use.writes):
            if other.running:
                return f"writes an image that the running VM {other.vm!r} {_what(other, use)}"
        for other in self._others(use, use.reads):
            if other.running and not set(other.writes).isdisjoint(use.reads):
                return f"builds on an image that the running VM {other.vm!r} writes"
        return ""

    def against_making(self, use: Use) -> str:
        """Like :meth:`against_start`, for a VM to be made.

        It may not write what belongs to a VM that is down either: that one could not start any
        more, or would find its disk ruined.
        """
        for other in self._others(use, use.writes):
            return f"would write an image that VM {other.vm!r} {_what(other, use)}"
        return self.against_start(use)

    def _others(self, use: Use, files: tuple[FileId, ...]) -> list[Use]:
        keys = [key for file in files for key in self._keys.get(file, ())]
        return [self._uses[key] for key in keys if key[0] != use.vm]


def _what(other: Use, use: Use) -> str:
    return "builds on" if set(other.writes).isdisjoint(use.writes) else "writes"
