"""One logger for the package. Rank 0 speaks; the others speak only from WARNING on, with their rank."""

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

logger = logging.getLogger("megatron_eureka")


def is_main_process() -> bool:
    """Whether this is rank 0, which speaks for the job."""
    return os.environ.get("RANK", "0") == "0"


class _RankPrefix(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        rank = int(os.environ.get("RANK", "0"))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        where = f"[rank {rank}] " if rank else ""
        return f"{where}{level}{super().format(record)}"


Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Pass items on, with a progress bar where rank 0 writes to a terminal; plain elsewhere."""
    if not is_main_process() or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=description, total=total, console=Console(stderr=True), transient=True)


class ByteProgress:
    """Bytes done of a known total, to be told by any thread: a bar on a terminal, else a line now and then.

    Use as a context manager.
    """

    LINE_EVERY_S = 10

    def __init__(self, description: str, total: int):
        self._description, self._total, self._done = description, total, 0
        self._lock, self._start = threading.Lock(), time.monotonic()
        self._last_line, self._bar = self._start, None

    def __enter__(self) -> "ByteProgress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

            columns = (
                "{task.description}",
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._description, total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, num_bytes: int) -> None:
        """Count bytes as done."""
        with self._lock:
            self._done += num_bytes
            if self._bar is not None:
                self._bar.advance(self._task, num_bytes)
            elif time.monotonic() - self._last_line > self.LINE_EVERY_S:
                self._last_line = time.monotonic()
                logger.info(self._line(self._last_line - self._start))

    def _line(self, elapsed_s: float) -> str:
        speed = self._done / elapsed_s
        left_s = (self._total - self._done) / speed
        done = f"{self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB"
        return f"{self._description}: {done}, {speed / 1e9:.2f} GB/s, {left_s:.0f} s left"


def setup_logging(level: int = logging.INFO) -> None:
    """Send the package's log to standard error, once a process."""
    if logger.handlers:
        return
    # Said at every start by every rank about what a machine without CUDA does not have, or by one library of another.
    for module in ("megatron", "torch", "vllm", "transformers"):
        warnings.filterwarnings("ignore", module=rf"{module}\b")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_RankPrefix("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level if is_main_process() else max(level, logging.WARNING))
    logger.propagate = False
