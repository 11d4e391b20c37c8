"""A folder that appears under its name only when it is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

# Files of which one at least marks a folder as a model's, so that `overwrite` cannot remove anything else.
MODEL_FILES = ("config.json", "metadata.json", ".metadata")


class NewFolder:
    """A folder in the making, under a hidden temporary name beside its final one. Use as a context manager.

    Leaving the block without an error renames it; leaving it with one removes it. A killed process leaves the hidden
    folder, which the next one that writes the same target clears away. While one process writes, others are refused.

    Args:
        folder: the final name. Its parents are made.
        overwrite: replace a model folder of that name, when the new one is whole and not before.
        num_bytes: what will be written, for a look at the free space.
        fsync: have all bytes on the disk before the rename, which costs about as much as writing them. Without it a
            machine (not a process) that dies within seconds after the rename may lose some of them.

    Raises:
        ValueError: the target exists (or is no model folder, with `overwrite`), another process writes it, or the
            disk has too little space.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False, num_bytes: int = 0, fsync: bool = True) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.overwrite, self.num_bytes, self.fsync = overwrite, num_bytes, fsync
        self.path = self.folder.with_name(f".{self.folder.name}.partial")  # where to write
        self._previous = self.folder.with_name(f".{self.folder.name}.replaced")
        self._lock = -1

    def __enter__(self) -> NewFolder:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._take()
        try:
            self._restore()
            self.check()
        except ValueError:
            self._give_up()
            raise
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is not None:
            self._give_up()
            return
        try:
            if self.fsync:
                _sync_tree(self.path)
            self._check_target()  # a rename would silently replace an empty folder that appeared meanwhile
            if self.folder.exists():
                self.folder.rename(self._previous)
            self.path.rename(self.folder)
        except BaseException:
            self._give_up()
            raise
        os.close(self._lock)
        shutil.rmtree(self._previous, ignore_errors=True)

    def check(self) -> None:
        """Refuse what entering would refuse, but for another process that writes it.

        Raises:
            ValueError: the target exists or is no model folder, or the disk has too little space.
        """
        self._check_target()
        check_space(self.folder.parent, self.num_bytes)

    def _check_target(self) -> None:
        if self.folder.is_symlink() or (self.folder.exists() and not self.overwrite):
            raise ValueError(f"{self.folder} exists already. Give a new name or remove it first.")
        if not self.folder.exists():
            return
        is_empty = self.folder.is_dir() and not any(self.folder.iterdir())
        if not is_empty and not any((self.folder / name).is_file() for name in MODEL_FILES):
            raise ValueError(f"{self.folder} is no model folder, so it is not overwritten. Give another name.")

    def _take(self) -> int:
        """Make the temporary folder and lock it; the lock is the operating system's and goes with the process."""
        while True:
            self.path.mkdir(exist_ok=True)
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise ValueError(
                    f"Another process is writing {self.folder}. Wait for it, or give another name."
                ) from None
            if self.path.exists() and os.path.samestat(os.fstat(lock), self.path.stat()):
                break
            os.close(lock)  # the other process finished in between: what was locked has got its final name
        for leftover in self.path.iterdir():  # of a killed process
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return lock

    def _restore(self) -> None:
        """Finish or undo a replacement in which a process was killed between its two renames."""
        if self._previous.exists():
            shutil.rmtree(self._previous) if self.folder.exists() else self._previous.rename(self.folder)

    def _give_up(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def check_space(folder: Path, num_bytes: int) -> None:
    """Refuse to start what the file system of `folder` (or of its nearest existing parent) cannot hold.

    Raises:
        ValueError: with both sizes.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if num_bytes > free:
        raise ValueError(
            f"{folder} has {free / 1e9:.2f} GB free, {num_bytes / 1e9:.2f} GB are needed. Free some space, or write "
            "to another file system."
        )


def check_apart(source: Path, target: Path) -> None:
    """Refuse a target inside its source, or the other way round: the source must stay as it is.

    Raises:
        ValueError: naming both.
    """
    source, target = source.resolve(), target.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise ValueError(f"{target} and its source {source} lie inside each other. Write to a folder beside it.")


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
