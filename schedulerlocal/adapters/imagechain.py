"""Images as they are on disk: whether a VM may be made from one, and what files it builds on.

Every file of an image's chain has to be a regular file in the folders images may come from, links
followed, and each has to say of what format the next one is: a raw file that is *taken* for qcow2
may name any file of the host. Headers that were read are kept for as long as their file does not
change, so that looking at a known image costs a few system calls for each file of its chain.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from schedulercommon.errors import BadRequest
from schedulerlocal.adapters.imagepath import OUTSIDE, check_image_path, is_inside, named, shown
from schedulerlocal.adapters.overlays import FileId, owner_of
from schedulerlocal.adapters.qcow2 import Header, read_header

_LONGEST_CHAIN = 32
_KEPT_HEADERS = 4096
_LONGEST_BASE_BYTES = 1023
"""Of the path of a backing file, in qcow2."""

_Key = tuple[int, int, int, int, int]
_Found = tuple[str, os.stat_result, Header]
"""Where a file really is, its facts and its header."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that may be used, as it was when it was looked at."""

    path: str
    """Where it really is: no link left in it."""
    file: FileId
    reads: tuple[FileId, ...]
    """The files it builds on."""
    disk_bytes: int
    file_bytes: int
    mtime_ns: int


class ImageReader:
    """Looks at images; everything here may wait for a disk. Threads may share one."""

    def __init__(self, image_dirs: Sequence[Path]) -> None:
        self._image_dirs = tuple(image_dirs)
        self._headers: dict[_Key, Header | str] = {}
        """By what tells whether a file changed; a string says what is wrong with it."""

    def check(self, image: str) -> Image:
        """The image at the path *image*; raises BadRequest if a VM may not be made from it."""
        check_image_path(image, self._image_dirs)
        whose = f"the image (qcow2) {shown(image)}"
        use_another = f"give the path of a qcow2 image under {named(self._image_dirs)}"
        flatten = "make it whole with qemu-img convert -O qcow2"
        files, top = self._walk(image, self._image_dirs, whose, (use_another, flatten))
        real, facts, header = top
        self._check_top(real, whose, use_another)
        return Image(
            path=real,
            file=files[0],
            reads=tuple(files[1:]),
            disk_bytes=header.disk_bytes,
            file_bytes=facts.st_size,
            mtime_ns=facts.st_mtime_ns,
        )

    def unfit(self, disk: str, beside: Sequence[str]) -> str | None:
        """Why no VM may start on the file *disk* as it is by now, as a sentence without its end.

        It and what it builds on may also be in the folders *beside*.
        """
        folders: tuple[Path | str, ...] = (*self._image_dirs, *beside)
        mend = "put back what was there, or remove the VM and deploy it again"
        try:
            self._walk(disk, folders, f"its disk {shown(disk)}", (mend, mend))
        except BadRequest as problem:
            return str(problem)
        return None

    def _walk(
        self, path: str, folders: Sequence[Path | str], whose: str, mends: tuple[str, str]
    ) -> tuple[list[FileId], _Found]:
        """The files of the chain that begins at *path*, and what its first one is.

        Raises BadRequest with a sentence about *whose* it is, which ends with the first of *mends*
        for the file at *path* and with the other for those below.
        """
        about, (mend, flatten), files = whose, mends, list[FileId]()
        top: _Found | None = None
        while True:
            try:
                found = self._look(path, folders, raw=False)
            except (OSError, ValueError) as problem:
                raise BadRequest(f"{about} {_sentence(problem)}; {mend}") from problem
            real, facts, header = found
            file = (facts.st_dev, facts.st_ino)
            if file in files or len(files) == _LONGEST_CHAIN:
                raise BadRequest(f"{about} leads back to itself or too far; {flatten}")
            files.append(file)
            top = top or found
            if not header.backing:
                return files, top
            backing = shown(header.backing)
            if _is_protocol(header.backing):
                raise BadRequest(f"{about} builds on {backing}, which is no plain file; {flatten}")
            if header.backing_format not in ("qcow2", "raw"):
                raise BadRequest(
                    f"{about} builds on {backing} and does not say that this is qcow2 or raw;"
                    " say it with qemu-img rebase -u -F FORMAT -b FILE"
                )
            # relative to the path it was found by, links in that left as they are: QEMU's rule
            path = os.path.join(os.path.dirname(path if len(files) > 1 else real), header.backing)
            about, mend = f"{whose} builds on {backing}, which", flatten
            if header.backing_format == "raw":
                return [*files, self._raw_end(path, folders, about, mend)], top

    def files_of(self, path: str, image_format: str) -> tuple[FileId, ...]:
        """The file at *path* and those it builds on, as far as they can be found."""
        files: list[FileId] = []
        while len(files) <= _LONGEST_CHAIN:
            try:
                raw = image_format != "qcow2"
                _, facts, header = self._look(path, None, raw=raw)
            except (OSError, ValueError):
                # what is wrong with it is not the question; which file it is can often be told
                return (*files, *_file_at(path))
            file = (facts.st_dev, facts.st_ino)
            if file in files:
                break
            files.append(file)
            if not header.backing or _is_protocol(header.backing):
                break
            path = os.path.join(os.path.dirname(path), header.backing)
            image_format = header.backing_format or "qcow2"
        return tuple(files)

    def _check_top(self, real: str, whose: str, mend: str) -> None:
        if owner_of(real) is not None:
            raise BadRequest(f"{whose} is the disk of a VM and no image; {mend}")
        if len(os.fsencode(real)) > _LONGEST_BASE_BYTES:
            raise BadRequest(
                f"{whose} has too long a path: a disk can build on one of at most"
                f" {_LONGEST_BASE_BYTES} bytes; move it"
            )

    def _raw_end(self, path: str, folders: Sequence[Path | str], whose: str, mend: str) -> FileId:
        try:
            _, facts, _ = self._look(path, folders, raw=True)
        except (OSError, ValueError) as problem:
            raise BadRequest(f"{whose} {_sentence(problem)}; {mend}") from problem
        return facts.st_dev, facts.st_ino

    def _look(self, path: str, folders: Sequence[Path | str] | None, *, raw: bool) -> _Found:
        """Where the file at *path* really is, its facts and its header (empty if it is *raw*).

        Nothing is read of a file outside *folders*, nor of one that is no regular file. Raises
        OSError, and ValueError with what is wrong.
        """
        with _held(path) as (file, facts):
            real = os.readlink(f"/proc/self/fd/{file}")
            if folders is not None and not _is_in(real, folders):
                raise ValueError(f"is {OUTSIDE}, links followed")
            if stat.S_ISDIR(facts.st_mode):
                raise ValueError("is a folder")
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError("is no regular file")
            if raw:
                return real, facts, Header(facts.st_size)
            # the change time too: the modification time can be set to anything
            key = (
                *(facts.st_dev, facts.st_ino, facts.st_size),
                *(facts.st_mtime_ns, facts.st_ctime_ns),
            )
            header = self._headers.get(key)
            if header is None:
                header = _header(file)
                if len(self._headers) >= _KEPT_HEADERS:
                    self._headers.clear()
                self._headers[key] = header
            if isinstance(header, str):
                raise ValueError(header)
            return real, facts, header


def _is_in(real: str, folders: Sequence[Path | str]) -> bool:
    """Whether *real*, where a file really is, is under one of *folders*.

    An administrator may well link these themselves elsewhere, which is looked at only if need be.
    """
    if is_inside(real, folders):
        return True
    return is_inside(real, [os.path.realpath(folder) for folder in folders])


@contextmanager
def _held(path: str) -> Iterator[tuple[int, os.stat_result]]:
    """A file held by its number without opening it, which could wait or have effects."""
    file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield file, os.fstat(file)
    finally:
        os.close(file)


def _header(held: int) -> Header | str:
    file = os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return read_header(lambda count: os.pread(file, count, 0))
    except ValueError as problem:
        return str(problem)
    finally:
        os.close(file)


def _file_at(path: str) -> tuple[FileId, ...]:
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return ()
    return ((facts.st_dev, facts.st_ino),)


def _is_protocol(name: str) -> bool:
    """Whether QEMU takes *name* for ``nbd:…``, ``json:…`` and the like rather than for a path."""
    return ":" in name.partition("/")[0]


def _sentence(problem: OSError | ValueError) -> str:
    if isinstance(problem, (FileNotFoundError, NotADirectoryError)):
        return "does not exist"
    if isinstance(problem, OSError):
        return f"cannot be read ({problem.strerror})"
    return str(problem)
