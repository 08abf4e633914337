"""Which images a VM may be made from, as far as their path alone can tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from posixpath import normpath

from schedulercommon.errors import BadRequest

_LONGEST_BYTES = 4095


def check_image_path(image: str, image_dirs: Sequence[Path]) -> None:
    """Raise BadRequest unless *image* is absolute, normalised and under one of *image_dirs*."""
    wrong = _what_is_wrong(image, image_dirs)
    if wrong:
        folders = " or ".join(map(str, image_dirs))
        raise BadRequest(f"the image (qcow2) {wrong}; give the path of a file under {folders}")


def _what_is_wrong(image: str, image_dirs: Sequence[Path]) -> str:
    if not image:
        return "is missing"
    shown = repr(image if len(image) <= 80 else image[:80] + "…")
    if not image.isprintable():
        return f"{shown} has characters that cannot be printed"
    if len(image.encode()) > _LONGEST_BYTES:
        return f"{shown} is longer than a path can be"
    if not image.startswith("/"):
        return f"{shown} is not an absolute path"
    if normpath(image) != image or image.startswith("//"):
        return f"{shown} is not a plain path (no '..', no '.', no double slashes)"
    if not any(image.startswith(str(folder).rstrip("/") + "/") for folder in image_dirs):
        return f"{shown} is in none of the folders images may come from (SCL_IMAGE_DIRS)"
    return ""
