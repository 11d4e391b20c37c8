"""A folder that appears under its name only when it is whole."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from megatron_eureka.families.folder import is_megatron_checkpoint
from megatron_eureka.files import only_writer

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


class NewFolder:
    """A folder in the making, under a hidden name of its own beside the final one. Use as a context manager.

    Leaving the block without an error renames it; leaving it with one removes it. A killed process leaves the hidden
    folder, which the next one on the same machine that writes the same target clears away.

    Args:
        folder: the final name. Its parents are made.
        file_bytes: sizes of the files that must be there in the end, also for a look at the free space.
        overwrite: replace a model folder of that name, when the new one is whole and not before.
        fsync: have all bytes on the disk before the rename, which costs about as much as writing them. Without it a
            machine (not a process) that dies within seconds after the rename may lose some of them.
    """

    def __init__(
        self, folder: str | Path, *, file_bytes: Mapping[str, int], overwrite: bool = False, fsync: bool = True
    ) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.file_bytes, self.overwrite, self.fsync = dict(file_bytes), overwrite, fsync
        self.path = Path()  # where to write, inside the block
        self._held = ExitStack()

    @property
    def _replaced(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.replaced")

    def check(self) -> None:
        """Refuse what cannot be written.

        Raises:
            ValueError: the target exists or is no model folder, or the disk has too little space.
        """
        self._check_target()
        _check_space(self.folder.parent, sum(self.file_bytes.values()))

    def __enter__(self) -> NewFolder:
        """Make the hidden folder.

        Raises:
            ValueError: see `check`; or another process on this machine writes the same target.
        """
        self.check()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        # Locks of another machine may not be seen here: each has its own, and clears its own leftovers away.
        host = socket.gethostname()
        lock = self.folder.with_name(f".{self.folder.name}.{host}.lock")
        hidden = f".{self.folder.name}.partial-{host}-"
        with ExitStack() as held:
            held.enter_context(only_writer(lock, str(self.folder), "give another name"))
            held.callback(lock.unlink, missing_ok=True)
            self._clear_leftovers(hidden)
            self._restore()
            self.path = self.folder.with_name(f"{hidden}{uuid.uuid4().hex[:8]}")
            self.path.mkdir()
            held.callback(shutil.rmtree, self.path, ignore_errors=True)  # after a rename nothing has that name
            self._held = held.pop_all()
        return self

    def __exit__(self, kind, error, trace) -> None:
        with self._held:
            if error is None:
                self._finish()

    def _finish(self) -> None:
        for name, size in self.file_bytes.items():
            file = self.path / name
            if not file.is_file() or file.stat().st_size != size:
                raise RuntimeError(f"{file} is gone or was changed by another program, so {self.folder} is not made.")
        if self.fsync:
            _sync_tree(self.path)
        self._check_target()  # a rename would silently replace an empty folder that appeared meanwhile
        if self.folder.exists():
            self._replace()
        else:
            self.path.rename(self.folder)

    def _replace(self) -> None:
        try:
            _exchange(self.path, self.folder)  # the old one now has the hidden name, and is removed with it
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
                raise
        self.folder.rename(self._replaced)  # a file system that cannot exchange two names
        try:
            self.path.rename(self.folder)
        except BaseException:
            self._replaced.rename(self.folder)
            raise
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _restore(self) -> None:
        """Finish or undo a replacement in which a process was killed between its two renames."""
        if self._replaced.is_dir() and not self._replaced.is_symlink():
            shutil.rmtree(self._replaced) if self.folder.exists() else self._replaced.rename(self.folder)
            self._check_target()

    def _check_target(self) -> None:
        if self.folder.is_symlink() or (self.folder.exists() and not self.overwrite):
            raise ValueError(f"{self.folder} exists already. Give a new name or remove it first.")
        if self.folder.exists() and not _is_model_folder(self.folder):
            raise ValueError(f"{self.folder} is no model folder, so it is not overwritten. Give another name.")

    def _clear_leftovers(self, hidden: str) -> None:
        """Remove what killed processes left: whoever lives has the lock."""
        for leftover in self.folder.parent.iterdir():
            if leftover.name.startswith(hidden) and leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)


def check_apart(source: Path, target: Path) -> None:
    """Refuse a target inside its source, or the other way round: the source must stay as it is.

    Raises:
        ValueError: naming both.
    """
    source, target = source.resolve(), target.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise ValueError(f"{target} and its source {source} lie inside each other. Write to a folder beside it.")


def _is_model_folder(folder: Path) -> bool:
    """Whether a folder is empty or holds a model, so that replacing it removes nothing else."""
    if not folder.is_dir():
        return False
    if is_megatron_checkpoint(folder) or not any(folder.iterdir()):
        return True
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config and any(folder.glob("*.safetensors"))


def _check_space(folder: Path, num_bytes: int) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"{existing} is no folder that may be written to. Give another target.")
    free = shutil.disk_usage(existing).free
    if num_bytes > free:
        raise ValueError(
            f"{folder} has {free / 1e9:.2f} GB free, {num_bytes / 1e9:.2f} GB are needed. Free some space, or write "
            "to another file system."
        )


def _exchange(one: Path, other: Path) -> None:
    """Swap two names in one step (Linux's renameat2).

    Raises:
        OSError: the system or the file system cannot.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
