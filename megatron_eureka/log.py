"""One logger for the package. Rank 0 speaks; the others speak only from WARNING on, with their rank."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

logger = logging.getLogger("megatron_eureka")


class _RankPrefix(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        rank = int(os.environ.get("RANK", "0"))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        where = f"[rank {rank}] " if rank else ""
        return f"{where}{level}{super().format(record)}"


Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Pass items on, with a progress bar where rank 0 writes to a terminal; plain elsewhere."""
    if os.environ.get("RANK", "0") != "0" or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=description, total=total, console=Console(stderr=True), transient=True)


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
    logger.setLevel(level if os.environ.get("RANK", "0") == "0" else max(level, logging.WARNING))
    logger.propagate = False
