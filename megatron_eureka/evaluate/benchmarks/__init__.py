"""The public formats, each a small file: rows as their hubs have them -> `BenchmarkItem`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from megatron_eureka.evaluate.benchmarks import jsonl, k12, mathverse, mathvision, mathvista, olympiadbench
from megatron_eureka.evaluate.benchmarks.files import find_files, read_rows
from megatron_eureka.evaluate.benchmarks.pictures import Pictures
from megatron_eureka.evaluate.item import BenchmarkItem, Malformed
from megatron_eureka.log import logger

# Each has PATTERNS, where its file lies in a downloaded folder, and read_item.
BENCHMARKS = {
    "mathvista": mathvista,
    "mathverse": mathverse,
    "mathvision": mathvision,
    "olympiadbench": olympiadbench,
    "k12": k12,
    "jsonl": jsonl,
}
MAX_NAMED = 20  # rows left out that are named one by one


@dataclass(frozen=True)
class Benchmark:
    """The questions of one benchmark and what was left out of it."""

    name: str
    files: tuple[Path, ...]
    items: tuple[BenchmarkItem, ...]
    left_out: dict[str, int]  # malformed rows by kind


def load_benchmark(name: str, path: str | Path, picture_folder: Path | None = None, limit: int = 0) -> Benchmark:
    """Read a benchmark; malformed rows are counted and named, not fatal.

    Args:
        name: one of BENCHMARKS.
        path: the file, or the folder as its hub lays it out.
        picture_folder: where pictures go that are not files already; None: they are looked at and not kept.
        limit: stop after so many items; 0: all.

    Raises:
        ValueError: an unknown name, no such file, an unreadable one, or one without a single good row.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}. Choose one of {', '.join(BENCHMARKS)}.")
    module = BENCHMARKS[name]
    files = find_files(Path(path), module.PATTERNS)
    pictures = Pictures(picture_folder)
    items: dict[str, BenchmarkItem] = {}
    left_out: Counter[str] = Counter()
    for row in read_rows(files):
        try:
            item = module.read_item(row.checked(), pictures)
            if item.id in items:
                raise Malformed("row", f"id {item.id!r} is that of {items[item.id].place} too")
        except Malformed as error:
            left_out[error.kind] += 1
            if left_out.total() <= MAX_NAMED:
                logger.warning("%s: left out: %s", row.place, error)
            continue
        items[item.id] = item
        if len(items) == limit:
            break
    if not items:
        raise ValueError(f"{path} has no usable row for {name}: {dict(left_out) or 'it is empty'}.")
    return Benchmark(name, tuple(files), tuple(items.values()), dict(left_out))
