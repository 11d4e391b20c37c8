"""The public formats, each a small file: rows as their hubs have them -> `BenchmarkItem`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_eureka.data.bad_row import BadRow, LeftOut
from megatron_eureka.datasets.benchmarks import jsonl, k12, mathverse, mathvision, mathvista, olympiadbench
from megatron_eureka.datasets.benchmarks.item import BenchmarkItem
from megatron_eureka.datasets.images import ImageFolder
from megatron_eureka.datasets.tables import find_files, read_table

# Each has PATTERNS, where its file lies in a downloaded folder, and read_item.
BENCHMARKS = {
    "mathvista": mathvista,
    "mathverse": mathverse,
    "mathvision": mathvision,
    "olympiadbench": olympiadbench,
    "k12": k12,
    "jsonl": jsonl,
}


@dataclass(frozen=True)
class Benchmark:
    """The questions of one benchmark and what was left out of it."""

    name: str
    files: tuple[Path, ...]
    items: tuple[BenchmarkItem, ...]
    left_out: dict[str, int]  # malformed rows by kind


def load_benchmark(name: str, path: str | Path, image_folder: Path | None = None, limit: int = 0) -> Benchmark:
    """Read a benchmark; malformed rows are counted and named, not fatal.

    Args:
        name: one of BENCHMARKS.
        path: the file, or the folder as its hub lays it out.
        image_folder: where images go that are not files already; None: they are looked at and not kept.
        limit: stop after so many items; 0: all.

    Raises:
        ValueError: an unknown name, no such file, an unreadable one, or one without a single good row.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}. Choose one of {', '.join(BENCHMARKS)}.")
    module = BENCHMARKS[name]
    files = find_files(Path(path), module.PATTERNS)
    images, items, left_out = ImageFolder(image_folder), {}, LeftOut()
    for row in (row for file in files for row in read_table(file)):
        try:
            item = module.read_item(row, images)
            if item.id in items:
                raise BadRow("row", f"id {item.id!r} is that of {items[item.id].place} too")
        except BadRow as error:
            left_out.add(row.place, error)
            continue
        items[item.id] = item
        if len(items) == limit:
            break
    if not items:
        raise ValueError(f"{path} has no usable row for {name}: {dict(left_out) or 'it is empty'}.")
    return Benchmark(name, tuple(files), tuple(items.values()), dict(left_out))
