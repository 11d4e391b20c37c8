"""Files that are the old one or the whole new one, whenever a writer dies, and what only one process may write."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_BYTES = 1 << 20  # a disk with less is full: a library in C++ fails there without saying why
NAME_CHARACTERS = 50  # of the target in a temporary name, so that it fits 255 bytes in any script


class DiskFull(RuntimeError):
    """A disk had no room for what was to be written."""


def temporary_name(target: Path) -> Path:
    """A hidden name beside the target that no other process has: machines share folders, and process ids repeat."""
    return target.with_name(f".{target.name[:NAME_CHARACTERS]}.{uuid.uuid4().hex}.tmp")


@contextmanager
def new_file(target: Path, binary: bool = False, errors: str = "strict", sync: bool = False) -> Iterator[IO]:
    """Open a file beside the target, for the block to write; it takes the target's place when the block has ended.

    Where anything fails, what was written is removed and the target is as it was. Its folder is made if need be.

    Args:
        errors: what becomes of characters that UTF-8 does not have, as for `open`.
        sync: wait until the bytes are on the disk, so that the file is whole after a loss of power too.

    Raises:
        DiskFull: there is no room.
        OSError: it cannot be written for another reason.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    text = {} if binary else {"encoding": "utf-8", "errors": errors}
    temporary = temporary_name(target)
    try:
        with naming_full_disk(target):
            with open(temporary, "xb" if binary else "x", **text) as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(target: Path, content: str | bytes, errors: str = "strict", sync: bool = True) -> None:
    """Write a file that is either the old one or the whole new one; see `new_file`."""
    with new_file(target, isinstance(content, bytes), errors, sync) as file:
        file.write(content)


@contextmanager
def only_writer(lock: Path, what: str, otherwise: str, wait_s: float = 0.0) -> Iterator[None]:
    """Be the only process that writes something, while the block runs.

    The lock is the operating system's (flock) and goes with its process, however that ends; the file stays.

    Args:
        lock: the file to lock; made if need be.
        what: that is written, for the message.
        otherwise: what to do instead of waiting.
        wait_s: how long to wait for the other process; more than 0 where some only look, by taking it for an instant.

    Raises:
        ValueError: another process does.
        OSError: the file cannot be made, or its file system has no locks.
    """
    held = FileLock(lock, thread_local=False, fallback_to_soft=False)  # a soft lock outlives a killed process
    try:
        held.acquire(timeout=wait_s)
    except Timeout:
        raise ValueError(f"Another process is writing {what}. Wait for it or {otherwise}.") from None
    try:
        yield
    finally:
        held.release()


@contextmanager
def naming_full_disk(target: Path) -> Iterator[None]:
    """Say of a failure in the block that the disk is full, where that is its reason.

    Raises:
        DiskFull: it is, with the folder, the room on its disk and what to do.
    """
    try:
        yield
    except DiskFull:
        raise
    except (OSError, RuntimeError) as error:
        full = disk_full(target, error)
        if full is None:
            raise
        raise full from error


def disk_full(target: Path, error: BaseException) -> DiskFull | None:
    """What to say of a failed write where a full disk was its reason; ask before anything is removed."""
    folder = _existing(target)
    if not _is_full(error, folder):
        return None
    usage = shutil.disk_usage(folder)
    return DiskFull(
        f"{target}: the disk of {folder} is full ({usage.free / 1e9:.2f} of {usage.total / 1e9:.2f} GB are free; a "
        "quota counts too). Make room or give a folder on another disk, and start the same command again."
    )


def _existing(target: Path) -> Path:
    """The target's folder, or what there is of it."""
    return next(folder for folder in target.absolute().parents if folder.exists())


def _is_full(error: BaseException | None, folder: Path) -> bool:
    """Whether the error, or what it came from, is that of a full disk."""
    if type(error) is RuntimeError and shutil.disk_usage(folder).free < FULL_BYTES:
        return True
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
