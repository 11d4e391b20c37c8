"""Files of images, read by everybody in one way: regular ones of a bounded size, whatever a path leads to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MAX_BYTES = 256 << 20  # more than any encoded image that Pillow would decode


def read_image_file(path: str | Path) -> bytes:
    """The file's bytes.

    Raises:
        ValueError: it is missing, cannot be read, is no regular file (a device has no end, a pipe no beginning), or is
            larger than MAX_BYTES; names it.
    """
    if "\0" in str(path) or not _encodes(path):
        raise ValueError(f"{str(path)!a} is no name of a file. Check the path and data.image_root.")
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ValueError(f"{path} is no regular file. Give the path of an image.")
            # It may grow meanwhile; those of /proc say that they are empty.
            data = file.read(MAX_BYTES + 1) if about.st_size <= MAX_BYTES else None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}. Check the path and data.image_root.") from error
    if data is None or len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES >> 20} MiB, the most that is read of an image.")
    return data


def _without_waiting(path: str, flags: int) -> int:
    """A pipe that nobody writes would keep us waiting."""
    return os.open(path, flags | os.O_NONBLOCK)


def _encodes(path: str | Path) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True
