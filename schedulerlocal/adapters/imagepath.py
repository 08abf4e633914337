"""Which images a VM may be made from, as far as their path alone can tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from posixpath import normpath

from schedulercommon.errors import BadRequest

_LONGEST_BYTES = 4095
_LONGEST_SHOWN = 80

OUTSIDE = "in none of the folders images may come from (SCL_IMAGE_DIRS)"


def check_image_path(image: str, image_dirs: Sequence[Path]) -> None:
    """Raise BadRequest unless *image* is absolute, normalised and under one of *image_dirs*."""
    wrong = _what_is_wrong(image, image_dirs)
    if wrong:
        folders = named(image_dirs)
        raise BadRequest(f"the image (qcow2) {wrong}; give the path of a file under {folders}")


def is_inside(path: str, folders: Sequence[Path | str]) -> bool:
    """Whether *path*, which has neither links nor ``..`` in it, is under one of *folders*."""
    return any(path.startswith(str(folder).rstrip("/") + "/") for folder in folders)


def shown(path: str) -> str:
    """A path as it is told: quoted, and not at any length."""
    return repr(path if len(path) <= _LONGEST_SHOWN else path[:_LONGEST_SHOWN] + "…")


def named(folders: Sequence[Path]) -> str:
    return " or ".join(map(str, folders))


def _what_is_wrong(image: str, image_dirs: Sequence[Path]) -> str:
    if not image:
        return "is missing"
    if not image.isprintable():
        return f"{shown(image)} has characters that cannot be printed"
    if len(image.encode()) > _LONGEST_BYTES:
        return f"{shown(image)} is longer than a path can be"
    if not image.startswith("/"):
        return f"{shown(image)} is not an absolute path"
    if normpath(image) != image or image.startswith("//"):
        return f"{shown(image)} is not a plain path (no '..', no '.', no double slashes)"
    if not is_inside(image, image_dirs):
        return f"{shown(image)} is {OUTSIDE}"
    return ""
