"""What the measurements of conversions say: a table, and the targets."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

TO_MEGATRON, TO_HF, ROUND_TRIP = "HF -> Megatron", "Megatron -> HF", "HF -> memory -> HF"
CP, MBRIDGE, STARTUP = "cp -r", "mbridge", "import torch"
WORK = "work alone"  # what a program says of itself, without imports and set-up
SLOWEST_TO_MEGATRON, SLOWEST_TO_HF, MOST_MIB_ABOVE, LEAST_SPEEDUP = 2.5, 2.0, 300.0, 2.0  # the targets


@dataclass(frozen=True)
class Measurement:
    """One run of a program."""

    direction: str
    name: str
    cache: str
    repeat: int
    seconds: float
    cpu_s: float | None  # None: not known for a part of a process
    peak_rss_mib: float | None


@dataclass(frozen=True)
class Row:
    """All repeats of a program under one state of the cache."""

    cache: str
    direction: str
    name: str
    median_s: float
    min_s: float
    ratio_to_cp: float | None
    cpu_s: float | None  # median
    peak_rss_mib: float | None  # the largest
    above_mib: float | None  # the largest, less the baseline


@dataclass(frozen=True)
class Target:
    """A promise and what was measured."""

    name: str
    bound: str  # "at most" or "at least"
    limit: float
    value: float
    met: bool


def of(found: list[Measurement], cache: str, direction: str, name: str) -> list[Measurement]:
    """The repeats of a program, in order."""
    return [m for m in found if (m.cache, m.direction, m.name) == (cache, direction, name)]


def ratio_to_cp(found: list[Measurement], cache: str, direction: str, name: str) -> float | None:
    """Median over the repeats of seconds by those of `cp -r` in the same repeat; None where nothing was copied."""
    cp = {m.repeat: m.seconds for m in of(found, cache, direction, CP)}
    ratios = [m.seconds / cp[m.repeat] for m in of(found, cache, direction, name) if m.repeat in cp]
    return median(ratios) if ratios else None


def mib_above(found: list[Measurement], cache: str, direction: str, name: str) -> float:
    """The largest peak RSS, less the median one of a Python that has imported torch."""
    baseline = median(m.peak_rss_mib for m in of(found, cache, "", STARTUP))
    return max(m.peak_rss_mib for m in of(found, cache, direction, name)) - baseline


def speedup_over_mbridge(found: list[Measurement], cache: str, name: str, part: str = "") -> float | None:
    """Median over the repeats of mbridge's seconds by those of our two programs; None where mbridge did not run.

    Args:
        part: the part of all three that is compared; by default the whole processes.
    """
    suffix = f", {part}" if part else ""
    there, back = (of(found, cache, direction, name + suffix) for direction in (TO_MEGATRON, TO_HF))
    theirs = of(found, cache, ROUND_TRIP, MBRIDGE + suffix)
    ratios = [m.seconds / (one.seconds + two.seconds) for m, one, two in zip(theirs, there, back, strict=False)]
    return median(ratios) if ratios else None


def rows(found: list[Measurement]) -> list[Row]:
    """One row a program and state of the cache, directions together."""
    keys = dict.fromkeys((m.cache, m.direction, m.name) for m in found)
    order = ["", TO_MEGATRON, TO_HF, ROUND_TRIP]
    result = []
    for key in sorted(keys, key=lambda key: (key[0] != "warm", order.index(key[1]))):
        seconds = [m.seconds for m in of(found, *key)]
        cpu_s = [m.cpu_s for m in of(found, *key) if m.cpu_s is not None]
        peaks = [m.peak_rss_mib for m in of(found, *key) if m.peak_rss_mib is not None]
        result.append(
            Row(
                *key,
                median_s=median(seconds),
                min_s=min(seconds),
                ratio_to_cp=ratio_to_cp(found, *key),
                cpu_s=median(cpu_s) if cpu_s else None,
                peak_rss_mib=max(peaks) if peaks else None,
                above_mib=mib_above(found, *key) if peaks else None,
            )
        )
    return result


def targets(found: list[Measurement], names: list[str]) -> list[Target]:
    """What is promised of the tools, for each state of the cache and each of these programs."""
    result = []
    for cache in dict.fromkeys(m.cache for m in found):
        for name in names:
            for direction, limit in ((TO_MEGATRON, SLOWEST_TO_MEGATRON), (TO_HF, SLOWEST_TO_HF)):
                where = f"{direction}, {name}, {cache}"
                ratio, mib = ratio_to_cp(found, cache, direction, name), mib_above(found, cache, direction, name)
                result.append(Target(f"seconds by cp: {where}", "at most", limit, ratio, ratio <= limit))
                result.append(Target(f"MiB above: {where}", "at most", MOST_MIB_ABOVE, mib, mib <= MOST_MIB_ABOVE))
            for part in (WORK, ""):
                speedup = speedup_over_mbridge(found, cache, name, part)
                if speedup is not None:
                    what = f"times as fast as mbridge, {part or 'whole processes'}: {name}, {cache}"
                    result.append(Target(what, "at least", LEAST_SPEEDUP, speedup, speedup >= LEAST_SPEEDUP))
    return result


def show(table_rows: list[Row], promised: list[Target], console: Console) -> None:
    """Print the table and the targets."""
    table = Table()
    for column in ("cache", "direction", "program"):
        table.add_column(column)
    for column in ("median s", "min s", "x cp", "CPU s", "peak MiB", "above"):
        table.add_column(column, justify="right")
    for row in table_rows:

        def number(value, digits):
            return "-" if value is None else f"{value:.{digits}f}"

        figures = [number(value, 2) for value in (row.median_s, row.min_s, row.ratio_to_cp, row.cpu_s)]
        memory = [number(value, 0) for value in (row.peak_rss_mib, row.above_mib)]
        table.add_row(row.cache, row.direction, row.name, *figures, *memory)
    console.print(table)
    for target in promised:
        verdict = "met   " if target.met else "MISSED"
        console.print(f"{verdict} {target.name}: {target.value:.2f}, {target.bound} {target.limit:g}")
