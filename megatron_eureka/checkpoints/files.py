"""Positioned reads and writes. Nothing is mapped into memory, so what was read does not count as the process's own."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Extent:
    """Consecutive bytes of a file."""

    file: Path
    offset: int  # bytes from the start of the file
    num_bytes: int


class OpenFiles:
    """Descriptors by path, opened when first asked for, closed with the object; to be shared by threads."""

    def __init__(self, flags: int = os.O_RDONLY) -> None:
        self._flags = flags
        self._lock = threading.Lock()
        self._descriptors: dict[Path, int] = {}

    def descriptor(self, file: Path) -> int:
        with self._lock:
            if file not in self._descriptors:
                self._descriptors[file] = os.open(file, self._flags, 0o666)
            return self._descriptors[file]

    def read(self, extent: Extent, start: int, target: memoryview) -> None:
        """Fill `target` from byte `start` of an extent on.

        Raises:
            ValueError: the file ends before.
        """
        assert start + len(target) <= extent.num_bytes, f"{extent} has no {len(target)} bytes at {start}"
        _read_exactly(self.descriptor(extent.file), target, extent.offset + start, extent.file)

    def close(self) -> None:
        with self._lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    __del__ = close


def _read_exactly(descriptor: int, target: memoryview, offset: int, file: Path) -> None:
    while target:  # one call reads at most 2 GiB
        count = os.preadv(descriptor, [target], offset)
        if not count:
            raise ValueError(f"{file} is cut off: it ends at byte {offset}. Copy or download it again.")
        target, offset = target[count:], offset + count


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    while data:  # one call writes at most 2 GiB
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
